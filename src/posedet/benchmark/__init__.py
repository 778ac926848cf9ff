"""Speed measurements: alternatives take turns, each in its own process, and every sample is kept."""
