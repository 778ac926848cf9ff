"""The paper's tables and figure 3, reproduced: `python -m lab.paper`."""

GENERATOR = "lab.paper"  # the mark of its outputs, see `posedet.outputs`
