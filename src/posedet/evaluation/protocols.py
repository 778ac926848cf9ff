"""The rules by which benchmarks score poses: COCO, CrowdPose, OCHuman, and COCO on cropped photos."""

from dataclasses import dataclass, replace
from typing import Literal

from posedet.skeleton import COCO, CROWDPOSE, Skeleton


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a benchmark.

    Attributes:
        name: The name of the protocol.
        skeleton: The keypoints and their sigmas.
        area: The person's size in OKS: the annotated area of the outline (COCO), or 0.53 of the box (CrowdPose).
            A missing area is estimated, see `estimated_area`.
        max_detections: Number of poses with the highest scores that count in each photo.
        crowd_bins: Photos are easy below the first crowd index and hard from the second on. None: no such split.
        paper_crowd_bins: The bins in the benchmark's paper, if its evaluator uses others.
        view: Whether whole photos or crops are evaluated.
        keypoints: Whether the annotations must have all keypoints of the skeleton, or the common ones are scored.
    """

    name: str
    skeleton: Skeleton
    area: Literal["annotation", "box"]
    max_detections: int = 20
    crowd_bins: tuple[float, float] | None = None
    paper_crowd_bins: tuple[float, float] | None = None
    view: Literal["whole", "cropped"] = "whole"
    keypoints: Literal["all", "common"] = "all"


COCO_PROTOCOL = Protocol(name="coco", skeleton=COCO, area="annotation")
CROWDPOSE_PROTOCOL = Protocol(
    name="crowdpose", skeleton=CROWDPOSE, area="box", crowd_bins=(0.2, 0.8), paper_crowd_bins=(0.1, 0.8)
)
# The area is that of the box, as in the COCO-style files that OCHuman's authors publish.
OCHUMAN_PROTOCOL = replace(COCO_PROTOCOL, name="ochuman")
# People are cut by the border of the crop; their keypoints beyond it still count.
CROPPED_PROTOCOL = replace(COCO_PROTOCOL, name="cropped", view="cropped")
PROTOCOLS = {each.name: each for each in (COCO_PROTOCOL, CROWDPOSE_PROTOCOL, OCHUMAN_PROTOCOL, CROPPED_PROTOCOL)}


def protocol_for(skeleton: Skeleton) -> Protocol:
    """Return the protocol of a built-in skeleton's benchmark; for other skeletons, COCO's rules with their own sigmas.

    Args:
        skeleton: The keypoints to score.
    """
    for protocol in PROTOCOLS.values():
        if protocol.skeleton == skeleton:
            return protocol
    return replace(COCO_PROTOCOL, name=skeleton.name, skeleton=skeleton)
