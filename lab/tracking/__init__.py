"""How well people are kept apart in videos, see docs/lab/tracking.md."""

GENERATOR = "lab.tracking"  # the mark of its outputs, see `posedet.outputs`
