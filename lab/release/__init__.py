"""Build a release twice, and try it with every Python: `make release-check`, see docs/lab/trust.md."""
