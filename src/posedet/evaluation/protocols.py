"""How poses are scored: the rules of COCO, CrowdPose and others as values of one dataclass."""

from dataclasses import dataclass, replace
from typing import Literal

from posedet import skeleton as skeletons
from posedet.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a benchmark; how exactly each keypoint is judged, its sigma, is the skeleton's."""

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
    """The protocol of a built-in skeleton's benchmark; for any other skeleton COCO's rules with its own sigmas."""
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
