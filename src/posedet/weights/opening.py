"""One way to open a model, whatever file it is in."""

from pathlib import Path

from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line
from posedet.runtime.model_files import model_file
from posedet.runtime.session import Runtime, Session, open_session


def open_model(
    source: str | Path,
    *,
    runtime: Runtime | None = None,
    device: str | None = None,
    threads: int | None = None,
    at_once: int = 1,
) -> Session:
    """Open an ONNX file or PyTorch weights, ready to run.

    source: a released model's name, a path, or `https://...#sha256=HEX`. runtime: of an ONNX file, ONNX Runtime if not
    given. device: of PyTorch weights, the CPU if not given. threads: cores to use, shared by `at_once` calls at a time;
    for PyTorch weights they are set for the whole process.
    Raises ModelError naming the file if it is missing, damaged or not posedet's, and ConfigError for a setting that
    does not go with the file.
    """
    file = model_file(source)
    if file.suffix != ".safetensors":
        if device is not None:
            raise ConfigError(f"{one_line(source)}: an ONNX file; the device {device!r} is for weights (.safetensors)")
        return open_session(file, runtime=runtime or "onnxruntime", threads=threads, at_once=at_once)
    if runtime is not None:
        remedy = "`posedet export` makes an ONNX file of them"
        raise ConfigError(f"{one_line(source)}: PyTorch weights, which {runtime!r} cannot run; {remedy}")
    if threads is not None and threads < at_once:
        raise ConfigError(f"threads is {threads}, expected at least {at_once}")
    needs("posedet ... --model x.safetensors", "export", ("torch", "safetensors"))
    import torch

    from posedet.weights.torch_session import open_weights

    if threads is not None:
        torch.set_num_threads(threads - at_once + 1)
    return open_weights(file, device or "cpu")
