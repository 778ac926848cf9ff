"""Speed of the paper's models on a GPU, and how close it is to the limits of the device: `python -m lab.gpu`."""

GENERATOR = "lab.gpu"  # the mark of its outputs, see `posedet.outputs`
