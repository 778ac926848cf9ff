"""Fuzzing of everything that reads what others wrote: `PYTHONPATH=tests python -m fuzz --help` from the repository."""
