"""Who is who from frame to frame, and keypoints that do not tremble."""

from posedet.tracking.smoothing import GapFiller, Smoother
from posedet.tracking.tracker import Tracker

__all__ = ["GapFiller", "Smoother", "Tracker"]
