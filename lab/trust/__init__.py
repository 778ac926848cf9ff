"""The long checks of docs/lab/trust.md: `python -m lab.trust`."""
