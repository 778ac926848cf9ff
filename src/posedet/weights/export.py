"""Export weights to an ONNX file, from uint8 pixels to scored poses, and compare it with PyTorch."""

import json
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from posedet import __version__
from posedet.errors import ModelError
from posedet.model.build import build_network
from posedet.model.deployed import DeployedNet, further_outputs
from posedet.outputs import replace
from posedet.weights.checkpoint import SCALE, WHOLE, fill, load_weights, save_weights, stored_skeleton
from posedet.weights.graph import LARGE, as_8_bits, fold_norms, forget_sources, round_to_8_bits, store_compactly

GENERATOR = "posedet export"
# (batch, height, width) of the inputs on which the file is compared with PyTorch.
CHECKED_SIZES = ((1, 256, 320), (2, 192, 128))
TOLERANCE_PIXELS = 0.05


def export(weights: Path, output: Path, *, compact: bool = False) -> float:
    """Export a weights file to ONNX. The file has dynamic batch, height and width, and metadata that describe it.

    Args:
        weights: A posedet weights file (.safetensors).
        output: The ONNX file to write.
        compact: Store large weights in 8 bits, in a quarter of the space, and write the rounded weights as a
            .safetensors file beside `output`. The arithmetic stays float32.

    Returns:
        The largest difference of a keypoint between the file and PyTorch, in pixels.

    Raises:
        ModelError: If the exported network differs from PyTorch by more than 0.05 pixels. Nothing is written then.
        ForeignFileError: If a file is there that no export wrote.
    """
    tensors, config, info = load_weights(weights)
    if compact:
        tensors = {name: _rounded(tensor) for name, tensor in tensors.items()}
    skeleton = stored_skeleton(info, weights)
    network = build_network(config.model, skeleton)
    fill(network, tensors, weights)
    deployed = DeployedNet(network, config.decode.candidates, further_outputs(network)).eval()
    about = {
        "generator": GENERATOR,
        "name": output.stem,
        "version": __version__,
        "skeleton": skeleton.to_dict(),
        "config": config.to_dict(),
        "step": info.get("step"),
    }
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        partial = Path(folder) / output.name
        _write_onnx(deployed, partial)
        model = onnx.load(partial)
        fold_norms(model)
        forget_sources(model)
        store_compactly(model)
        onnx.helper.set_model_props(model, {"posedet": json.dumps(about)})
        onnx.save(model, partial)
        difference = largest_difference(partial, deployed)
        if difference > TOLERANCE_PIXELS:
            raise ModelError(f"{output}: not written, because it differs from PyTorch by {difference:.3f} pixels")
        if compact:
            save_weights(output.with_suffix(".safetensors"), GENERATOR, _in_8_bits(tensors), config, skeleton, info)
        replace(partial, output, GENERATOR)
    return difference


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim < 2:
        return tensor
    if tensor.numel() >= LARGE:
        tensor = torch.from_numpy(round_to_8_bits(tensor.float().numpy()))
    return tensor.half()


def _in_8_bits(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replace rounded weights by whole numbers and their scales, which `load_tensors` multiplies again."""
    stored = {}
    for name, tensor in tensors.items():
        found = as_8_bits(tensor.float().numpy()) if tensor.ndim > 1 and tensor.numel() >= LARGE else None
        if found is None:
            stored[name] = tensor
        else:
            stored[name + WHOLE], stored[name + SCALE] = map(torch.from_numpy, found)
    return stored


def _write_onnx(deployed: DeployedNet, path: Path) -> None:
    batch = torch.export.Dim.DYNAMIC
    # Declared as multiples of 32; otherwise the exporter cannot derive the sizes of DLA's and HRNet's maps.
    height, width = (32 * torch.export.Dim(name, min=4, max=1024) for name in ("height", "width"))
    # No level may be one cell wide in the example, because the exporter would treat that size as a constant.
    example = torch.zeros(2, 192, 256, 3, dtype=torch.uint8)
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            torch.onnx.export(
                deployed,
                (example,),
                path,
                dynamo=True,
                opset_version=20,
                external_data=False,
                dynamic_shapes=({0: batch, 1: height, 2: width},),
                input_names=["images"],
                output_names=list(deployed.output_names),
                verbose=False,
            )
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    dimensions = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    if not all(dimension.dim_param for dimension in dimensions[:3]):
        raise ModelError(f"{path.name}: batch, height or width became a constant in the export")


def largest_difference(path: Path, deployed: DeployedNet) -> float:
    """Run the file and PyTorch on the same noise, and return the largest difference of a keypoint in pixels.

    Poses whose scores are nearly equal are not compared, because their order may differ. Raises ModelError if scores
    or further outputs differ.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    worst = 0.0
    for size in CHECKED_SIZES:
        images = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        found = session.run(list(deployed.output_names), {"images": images})
        scores, keypoints, keypoint_scores, *extra = found
        with torch.no_grad():
            wanted = [x.numpy() for x in deployed(torch.from_numpy(images))]
        if not np.allclose(scores, wanted[0], atol=1e-4):
            raise ModelError(f"{path.name}: scores differ from PyTorch by {np.abs(scores - wanted[0]).max():.2g}")
        gaps = np.abs(np.diff(wanted[0], axis=1))
        clear = (
            np.minimum(
                np.pad(gaps, ((0, 0), (1, 0)), constant_values=1), np.pad(gaps, ((0, 0), (0, 1)), constant_values=1)
            )
            > 1e-6
        )
        worst = max(worst, float(np.abs(keypoints - wanted[1])[clear].max(initial=0)))
        if not np.allclose(keypoint_scores[clear], wanted[2][clear], atol=1e-3):
            raise ModelError(f"{path.name}: keypoint scores differ from PyTorch")
        for place, values in enumerate(extra, 3):
            if not np.allclose(values[clear], wanted[place][clear], atol=1e-3, rtol=1e-3):
                raise ModelError(f"{path.name}: output {deployed.output_names[place]!r} differs from PyTorch")
    return worst
