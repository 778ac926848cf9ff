"""Rules for scoring poses: those of COCO, CrowdPose and others, as values of one dataclass."""

from dataclasses import dataclass, replace
from typing import Literal

from posedet import skeleton as skeletons
from posedet.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a benchmark.

    Attributes:
        name: The name of the protocol.
        skeleton: The keypoints and their sigmas.
        area: The person's size in OKS: the annotation's area (COCO), or 0.53 of the box (CrowdPose).
        max_detections: Number of poses with the highest scores that count in each photo.
        crowd_bins: Photos are easy below the first crowd index and hard from the second on. None: no such split.
        paper_crowd_bins: The bins in the benchmark's paper, if its evaluator uses others.
        view: Whether whole photos or crops are evaluated.
    """

    name: str
    skeleton: Skeleton
    # A person's size in OKS: the annotation's own area (COCO: of the outline), or 0.53 of the box (CrowdPose); what is
    # missing is estimated, see `estimated_area`.
    area: Literal["annotation", "box"]
    max_detections: int  # the best so many of a photo count
    # Photos are easy below the first crowd index, hard from the second on; None: no such split.
    crowd_bins: tuple[float, float] | None
    paper_crowd_bins: tuple[float, float] | None  # as the benchmark's paper has them, where its evaluator differs
    view: Literal["whole", "cropped"] = "whole"  # what is seen of a photo


COCO = Protocol(
    name="coco",
    skeleton=skeletons.COCO,
    area="annotation",
    max_detections=20,
    crowd_bins=None,
    paper_crowd_bins=None,
)
CROWDPOSE = Protocol(
    name="crowdpose",
    skeleton=skeletons.CROWDPOSE,
    area="box",
    max_detections=20,
    crowd_bins=(0.2, 0.8),
    paper_crowd_bins=(0.1, 0.8),
)
# The area is the box's, as in the conversion to COCO's form that its authors publish.
OCHUMAN = replace(COCO, name="ochuman")
# People cut by the border, the truth beyond it kept.
CROPPED = replace(COCO, name="cropped", view="cropped")
PROTOCOLS = {protocol.name: protocol for protocol in (COCO, CROWDPOSE, OCHUMAN, CROPPED)}


def protocol_for(skeleton: Skeleton) -> Protocol:
    """Return the protocol of a built-in skeleton's benchmark; for other skeletons, COCO's rules with their own sigmas.

    Args:
        skeleton: The keypoints to score.
    """
    for protocol in PROTOCOLS.values():
        if protocol.skeleton == skeleton:
            return protocol
    return Protocol(
        name=skeleton.name,
        skeleton=skeleton,
        area=COCO.area,
        max_detections=COCO.max_detections,
        crowd_bins=None,
        paper_crowd_bins=None,
    )
