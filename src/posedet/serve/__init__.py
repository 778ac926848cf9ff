"""Poses over HTTP: `posedet serve`."""
