"""Speed of the paper's models on a GPU, and how close it is to the limits of the device: `python -m lab.gpu`."""
