"""The measurements of docs/lab/speed.md: `python -m lab.speed`."""

GENERATOR = "lab.speed"  # the mark of its outputs, see `posedet.outputs`
