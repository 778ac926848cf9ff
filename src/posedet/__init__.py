"""Multi-person 2D pose estimation: finds people and their keypoints in photos and videos, without PyTorch at run time.

>>> from posedet import PoseDet
>>> poses = PoseDet()("photo.jpg")
"""

from posedet.draw import draw
from posedet.errors import PoseDetError
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.telemetry import turn_off as _turn_off_telemetry
from posedet.skeleton import Skeleton
from posedet.tracking.tracker import Tracker
from posedet.video.track import track

__all__ = ["PoseDet", "PoseDetError", "Poses", "Skeleton", "Tracker", "__version__", "draw", "track"]

__version__ = "0.2.0"

_turn_off_telemetry()
