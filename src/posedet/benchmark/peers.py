"""Models of other projects (.onnx, .xml, .tflite), run by OpenVINO and timed in the same way as ours.

The pixels are passed as bytes and scaled in the graph, and the photo is resized by the same code. The outputs of two
common families are decoded: [1, N, 57] (the best poses: box, score, class, 17 keypoints) and [1, 56, N] (every
location: box given by its centre, score, 17 keypoints). For any other model, only the network is timed.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.benchmark.stages import QUANTISED, TOTAL, Ours, Subject, Timed, peak_memory_mb, timed_input
from posedet.benchmark.timing import Clock
from posedet.errors import ModelError
from posedet.files import one_line
from posedet.image import Letterbox, Photo, network_input
from posedet.oks import iou_nms
from posedet.poses import Poses
from posedet.runtime.onnx_file import onnx_metadata
from posedet.runtime.session import open_session
from posedet.skeleton import COCO

# Input size of models that take any size: the long side, and the stride that divides both sides.
LONG_SIDE, MULTIPLE = 640, 32
# Usual defaults of such models.
SCORE_THRESHOLD, BOX_OVERLAP, MAX_POSES = 0.25, 0.7, 300


def open_peer(path: Path, threads: int) -> Subject:
    """Open a model file in OpenVINO, in float32 unless it is quantised. A posedet model is returned as `Ours`.

    Raises ModelError if the file is not a model with a single image as its input.
    """
    import openvino

    name = one_line(path)
    if not os.path.isfile(path):
        raise ModelError(f"{name}: no such model file")
    # OpenVINO's own formats and TensorFlow's are for models of people you trust.
    is_onnx = path.suffix.lower() not in (".xml", ".tflite")
    ours = is_onnx and "posedet" in onnx_metadata(path, name, foreign=True)
    try:
        model = openvino.Core().read_model(path)
    except Exception as error:
        *_, reason = [
            type(error).__name__,
            *str(error).strip().splitlines(),
        ]  # the lines before it are source locations
        raise ModelError(f"{name}: not a model that OpenVINO can read ({reason:.200})") from None
    if ours:
        return Ours(open_session(path, runtime="openvino", threads=threads), arithmetic(model))
    return Peer(model, name, threads)


class Peer:
    """A model with one input image, (1, 3, H, W) or (1, H, W, 3), with pixels from 0 to 1."""

    def __init__(self, model: Any, name: str, threads: int) -> None:
        import openvino

        self.precision = arithmetic(model)
        self._name = name
        shapes = [port.partial_shape for port in model.inputs]
        sides = [[None if side.is_dynamic else side.get_length() for side in shape] for shape in shapes]
        layouts = {1: "NCHW", 3: "NHWC"}
        places = [place for place in layouts if len(sides) == 1 and len(sides[0]) == 4 and sides[0][place] == 3]
        if not places:
            raise ModelError(f"{name}: takes {', '.join(map(str, shapes))}, expected one image with 3 channels")
        self._side = {"H": sides[0][2 if places[0] == 1 else 1], "W": sides[0][3 if places[0] == 1 else 2]}
        steps = openvino.preprocess.PrePostProcessor(model)
        steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        steps.input().model().set_layout(openvino.Layout(layouts[places[0]]))
        if model.input().element_type != openvino.Type.u8:
            steps.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        self._compiled = openvino.Core().compile_model(steps.build(), "CPU", settings)

    def measure(self, photo: Photo, long_side: int | None = None, batch: int = 1) -> Timed:
        if batch > 1:
            raise ModelError(f"{self._name}: only posedet models are timed in batches")
        fit = partial(self._letterbox, long_side=long_side or LONG_SIDE)
        for _ in range(2):
            clock = Clock()
            letterbox, image = timed_input(partial(network_input, fit=fit), photo, clock)
            outputs = list(self._compiled.create_infer_request().infer([image[None]]).values())
            clock.lap("network")
            decoded = poses_from_output(outputs[0], letterbox) if len(outputs) == 1 else None
            clock.lap("poses")
        if decoded is None:
            del clock.ms["poses"]
        else:
            clock.ms[TOTAL] = sum(clock.ms.values())
        return Timed(clock.ms, None if decoded is None else len(decoded), peak_memory_mb())

    def _letterbox(self, photo_size: tuple[int, int], *, long_side: int) -> Letterbox:
        height, width = self._side["H"], self._side["W"]
        if height is None or width is None:
            return Letterbox.fit(photo_size, long_side=long_side, multiple=MULTIPLE)
        factor = min(height / photo_size[0], width / photo_size[1])
        resized = (max(1, round(photo_size[0] * factor)), max(1, round(photo_size[1] * factor)))
        return Letterbox(photo_size, resized, (height, width))


def arithmetic(model: Any) -> str:
    """The precision in which OpenVINO runs a model when float32 is requested."""
    quantised = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
    return QUANTISED if quantised else "float32"


def poses_from_output(output: NDArray[np.float32], letterbox: Letterbox) -> Poses | None:
    """The poses in pixels of the photo; None unless the output is (1, N, 57) or (1, 56, N)."""
    if output.ndim != 3 or output.shape[0] != 1:
        return None
    if output.shape[2] == 57:
        rows = output[0][output[0, :, 4] > SCORE_THRESHOLD]
        scores, table = rows[:, 4], rows[:, 6:]
    elif output.shape[1] == 56:
        rows = output[0].T[output[0, 4] > SCORE_THRESHOLD]
        low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
        boxes = np.concatenate([low, high], axis=1)
        kept = iou_nms(boxes, rows[:, 4], iou_threshold=BOX_OVERLAP, max_poses=MAX_POSES)
        scores, table = rows[kept, 4], rows[kept, 5:]
    else:
        return None
    keypoints = table.reshape(-1, COCO.num_keypoints, 3)
    places = keypoints[..., :2]
    if len(places) and np.abs(places).max() <= 2:  # fractions of the input, not pixels
        places = places * np.array(letterbox.input_size[::-1], np.float32)
    # Such models place pixel centres at half-integers.
    placed = letterbox.to_photo(places - 0.5).astype(np.float32)
    return Poses(placed, np.clip(scores, 0, 1), np.clip(keypoints[..., 2], 0, 1), COCO)
