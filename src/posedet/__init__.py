"""Multi-person 2D pose estimation: finds people and their keypoints in photos and videos, without PyTorch at run time.

>>> from posedet import PoseDet
>>> poses = PoseDet()("photo.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from posedet.draw import draw
from posedet.errors import PoseDetError
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.telemetry import turn_off as _turn_off_telemetry
from posedet.skeleton import Skeleton

__all__ = ["PoseDet", "PoseDetError", "Poses", "Skeleton", "Tracker", "__version__", "draw", "track"]

__version__ = "0.2.0"

_turn_off_telemetry()

if TYPE_CHECKING:
    from posedet.tracking.tracker import Tracker
    from posedet.video.track import track

_FOR_VIDEO = {"Tracker": "posedet.tracking.tracker", "track": "posedet.video.track"}


def __getattr__(name: str) -> Any:
    """Import what only videos need when it is used, so that `import posedet` stays quick."""
    if name not in _FOR_VIDEO:
        raise AttributeError(f"module 'posedet' has no attribute {name!r}")
    return getattr(import_module(_FOR_VIDEO[name]), name)
