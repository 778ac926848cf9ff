"""How fast the paper's models are on a GPU, and how far from its limits: `posedet benchmark --device cuda`."""
