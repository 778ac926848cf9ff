"""Files of posedet in the hands of the programs that they are for, and back."""
