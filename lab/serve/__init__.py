"""How `posedet serve` stands load and attacks, see docs/lab/serve.md."""

GENERATOR = "lab.serve"  # the mark of its outputs, see `posedet.outputs`
