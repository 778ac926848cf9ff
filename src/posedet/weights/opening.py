"""Open any model file: ONNX or PyTorch weights."""

from pathlib import Path
from typing import cast

from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line
from posedet.runtime.model_files import model_file
from posedet.runtime.session import Device, Runtime, Session, open_session


def open_model(
    source: str | Path,
    *,
    runtime: Runtime | None = None,
    device: str = "cpu",
    threads: int | None = None,
    at_once: int = 1,
    embedding: bool = False,
    covariances: bool = False,
) -> Session:
    """Open an ONNX file or PyTorch weights, ready to run.

    Args:
        source: The name of a released model, a path, or `https://...#sha256=HEX`.
        runtime: The runtime for an ONNX file. Default: ONNX Runtime.
        device: Where the network runs: for an ONNX file as in `open_session`, for PyTorch weights as in `open_weights`.
        threads: Number of processor cores to use. For PyTorch weights, this applies to the whole process. Default: all.
        at_once: Number of concurrent calls that share the cores.
        embedding: Compute the identity embedding, if the model has it.
        covariances: Compute the covariances of keypoints, which the model must have.

    Raises:
        ModelError: If the file is missing, damaged or not made by posedet.
        ConfigError: If a setting does not suit the file, or if the device cannot be used.
    """
    file = model_file(source)
    if file.suffix != ".safetensors":
        return open_session(
            file,
            runtime=runtime or "onnxruntime",
            device=cast(Device, device),  # which it checks
            threads=threads,
            at_once=at_once,
            embedding=embedding,
            covariances=covariances,
        )
    if runtime is not None:
        remedy = "convert them with `posedet export`"
        raise ConfigError(f"{one_line(source)}: PyTorch weights, but {runtime!r} needs an ONNX file; {remedy}")
    if threads is not None and threads < at_once:
        raise ConfigError(f"threads is {threads}, expected at least {at_once}")
    needs("PyTorch weights", "export", ("torch", "safetensors"))
    import torch

    from posedet.weights.torch_session import open_weights

    if threads is not None:
        torch.set_num_threads(threads - at_once + 1)
    return open_weights(file, device, embedding=embedding, covariances=covariances)
