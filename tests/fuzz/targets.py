"""Everything that reads what others wrote: for each kind its seeds, how to change them, and what reads them."""

import asyncio
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clips import write_clip
from fuzz.mutate import (
    Mutator,
    change_bytes,
    change_chunks,
    change_fields,
    change_json,
    change_lines,
    change_safetensors,
)
from posedet.config import load_config, to_toml
from posedet.data.check import check
from posedet.data.formats.coco import read_content
from posedet.data.remarks import refuse
from posedet.data.sources import Source, read_photos
from posedet.evaluation.checked_entries import read_entries
from posedet.evaluation.protocols import COCO_PROTOCOL
from posedet.image import Letterbox, network_input, read_photo, size_of
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.runtime.session import open_session
from posedet.skeleton import BODY19, COCO, CROWDPOSE, Skeleton
from test_ochuman import ochuman
from test_session import small_model

PHOTOS = Path(__file__).parents[2] / "photos"
CUT = b"\n----8<----\n"  # between two files of one input


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        seeds: Good inputs, small and quick to read.
        read: Reads an input. It may raise PoseDetError.
        mutators: How to change an input.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    mutators: tuple[Mutator, ...]


@cache
def folder() -> Path:
    """A folder of this process, removed at its end."""
    kept = tempfile.TemporaryDirectory(prefix="posedet-fuzz-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[Any] = []


def written(name: str, content: bytes) -> Path:
    path = folder() / name
    path.write_bytes(content)
    return path


# --- photos ----------------------------------------------------------------------------------------------------------


def photos(format: str) -> list[bytes]:
    """A shipped photo in small, in every mode of a format."""
    with Image.open(PHOTOS / "skiers.jpg") as opened:
        photo = opened.resize((48, 36))
    turned = Image.Exif()
    turned[0x0112] = 6
    variants: list[tuple[Image.Image, dict[str, Any]]] = [(photo, {})]
    match format:
        case "JPEG":
            variants += [(photo, {"progressive": True, "exif": turned}), (photo.convert("CMYK"), {"dpi": (72, 72)})]
            variants += [(photo.convert("L"), {"quality": 5, "comment": b"words"})]
        case "PNG":
            deep = Image.fromarray(np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 37)
            variants += [
                (photo.convert("RGBA"), {"exif": turned}),
                (photo.quantize(16), {"transparency": 3}),
                (deep, {}),
            ]
            variants += [(photo.convert("1"), {}), (photo, {"save_all": True, "append_images": [photo.rotate(9)]})]
        case "WEBP":
            variants += [(photo.convert("RGBA"), {"lossless": True}), (photo, {"exif": turned})]
            variants += [(photo, {"save_all": True, "append_images": [photo.rotate(9)]})]
        case "AVIF":
            variants += [(photo.convert("RGBA"), {"quality": 40}), (photo, {"exif": turned, "subsampling": "4:4:4"})]
        case "GIF":
            variants += [(photo.quantize(8), {"save_all": True, "append_images": [photo.rotate(9)]})]
        case "TIFF":
            variants += [
                (photo, {"compression": each}) for each in ("tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate")
            ]
            variants += [(photo.convert("I;16"), {}), (photo.convert("1"), {"compression": "group4"})]
        case "BMP":
            variants += [(photo.quantize(16), {}), (photo.convert("1"), {}), (photo.convert("RGBA"), {})]
    found = []
    for image, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        found.append(buffer.getvalue())
    return found


def read_a_photo(content: bytes) -> None:
    height, width = size_of(content)
    network_input(content, partial(Letterbox.fit, long_side=64))
    # As an array, the largest photo that is allowed takes 3 s and 1.5 GB.
    if height * width < 40_000_000:
        read_photo(content)


# --- annotations, results and tracks ---------------------------------------------------------------------------------


def truth(change: Callable[[dict[str, Any]], object] = lambda data: None) -> bytes:
    """The first people of the shipped annotations."""
    data = json.loads((PHOTOS / "truth.json").read_text())
    data["images"] = data["images"][:2]
    known = {photo["id"] for photo in data["images"]}
    data["annotations"] = [each for each in data["annotations"] if each["image_id"] in known][:3]
    change(data)
    return json.dumps(data).encode()


def as_crowdpose(data: dict[str, Any]) -> None:
    data["categories"] = [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE.keypoints), "skeleton": [[16, 14]]}]
    for photo in data["images"]:
        photo["crowdIndex"] = 0.3
    for person in data["annotations"]:
        person["keypoints"] = person["keypoints"][: 3 * CROWDPOSE.num_keypoints]
        del person["area"]


def as_teachers(data: dict[str, Any]) -> None:
    for person in data["annotations"]:
        person |= {"score": 0.5, "keypoint_scores": [0.25] * 17, "iscrowd": 0}
    data["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [3, 3]}}


def read_annotations(content: bytes) -> None:
    path = written("set.json", content)
    check(Source(path, str(folder())))
    read_photos(Source(path, str(folder())), COCO, check_files=False)


ULTRALYTICS = (
    b"path: .\ntrain: images\nval: images\nkpt_shape: [3, 3]\nnames: {0: person}\nflip_idx: [0, 2, 1]\n"
    + CUT
    + b"0 0.5 0.5 0.4 0.8 0.5 0.25 2 0.25 0.5 1 0 0 0\n" * 2,
    b"train: images\nkpt_shape: [2, 2]\nnames:\n- person\n- dog\nkpt_names:\n  0: [nose, b]\n  1: [nose, b]\n"
    + CUT
    + b"0 .5 .5 .4 .8 .5 .25 .5 .25\n1 .5 .5 .4 .8 .5 .25 0 0\n",
    b"train: list.txt\nkpt_shape: [3, 3]\nkpt_names: {0: [nose, left_wrist, right_wrist]}\nflip_idx: [0, 2, 1]\n"
    + CUT
    + b"0 0.5 0.5 0.4 0.8 0.5 0.25 2 0.25 0.5 1 0 0 0\n",
    # Each name stands for ten of the one before.
    b"train: images\na: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (b + 1, b + 1, b", ".join([b"*%c" % b] * 10)) for b in b"abcdefghijk")
    + b"names: *l\nkpt_names: *l\nkpt_shape: [3, 3]\nflip_idx: *l\n",
)


def read_ultralytics(content: bytes) -> None:
    settings, _, labels = content.partition(CUT)
    root = folder() / "ultralytics"
    if not root.exists():
        for name in ("images", "labels"):
            (root / name).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(root / "images" / "a.png")
        (root / "list.txt").write_text("images/a.png\n")
    (root / "data.yaml").write_bytes(settings)
    (root / "labels" / "a.txt").write_bytes(labels)
    check(Source(root))
    read_photos(Source(root), COCO.subset(["nose", "left_wrist", "right_wrist"]))


@cache
def annotated() -> Any:
    return read_content(json.loads(truth()), "truth.json", folder(), COCO, refuse)


def some_poses() -> Poses:
    keypoints = np.arange(2 * 17 * 2, dtype=np.float32).reshape(2, 17, 2)
    extra = {"id": np.array([1, 2]), "keypoint_x": np.zeros((2, 17), np.float32)}
    return Poses(keypoints, np.array([0.9, 0.5], np.float32), np.full((2, 17), 0.5, np.float32), COCO, extra)


def read_results(content: bytes) -> None:
    read_entries(annotated(), written("results.json", content), COCO_PROTOCOL)


def read_poses(content: bytes) -> None:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return  # whoever calls `Poses.from_dict` has parsed it
    if isinstance(data, list):
        json.dumps(Poses.from_coco(data, COCO).to_coco(1), allow_nan=False)
    else:
        json.dumps(Poses.from_dict(data).to_dict(), allow_nan=False)


def tracks() -> list[bytes]:
    first = {"generator": "posedet track", "source": "a.mp4", "frame_rate": 25.0, "skeleton": COCO.to_dict()}
    poses = some_poses().to_dict()["poses"]
    frames = [{"frame": number, "time": number / 25, "poses": poses} for number in range(3)]
    return ["".join(json.dumps(line) + "\n" for line in (first, *frames)).encode()]


def read_tracks(content: bytes) -> None:
    from posedet.video.tables import Tracks

    for track in Tracks(written("tracks.jsonl", content)):
        track.poses.ids  # noqa: B018


# --- settings and weights --------------------------------------------------------------------------------------------


def skeletons() -> list[bytes]:
    by_name = (
        b'name = "mine"\nkeypoints = ["nose", "left_wrist", "right_wrist"]\nlimbs = [["nose", "left_wrist"], [0, 2]]\n'
    )
    return [by_name + b"pairs = [[1, 2]]\nsigmas = [0.03, 0.06, 0.06]\n", by_name]


def read_skeleton(suffix: str, content: bytes) -> None:
    Skeleton.from_file(written(f"skeleton{suffix}", content))


def presets() -> list[bytes]:
    return [to_toml(load_config(name)).encode() for name in ("posedet-s", "dla34-coco")]


def read_preset(content: bytes) -> None:
    load_config(str(written("preset.toml", content)))


def weights() -> list[bytes]:
    import torch
    from safetensors.torch import save

    from posedet.weights.checkpoint import FORMAT

    found = []
    for name in ("posedet-s", "dla34-coco"):
        info = {"format": FORMAT, "config": load_config(name).to_dict(), "skeleton": BODY19.to_dict(), "step": 7}
        tensors = {"bypass.offsets.weight": torch.zeros(6, 2), "other": torch.zeros(3, dtype=torch.float16)}
        found.append(save(tensors, {"posedet": json.dumps(info)}))
    return found


def read_weights(content: bytes) -> None:
    from posedet.weights.checkpoint import load_weights, stored_skeleton

    path = written("weights.safetensors", content)
    _, _, info = load_weights(path)
    stored_skeleton(info, path)


def models() -> list[bytes]:
    return [small_model(folder() / "seed.onnx").read_bytes()]


def run_model(content: bytes) -> None:
    session = open_session(written("model.onnx", content), threads=1)
    detector = PoseDet(session, long_side=128)
    poses = detector(np.zeros((96, 128, 3), np.uint8))
    json.dumps(poses.to_dict(), allow_nan=False)


# --- videos and requests ---------------------------------------------------------------------------------------------


def videos() -> list[bytes]:
    pictures = [_noise(number) for number in range(3)]
    found = []
    for suffix, codec, options in (
        (".mp4", "libx264", {"preset": "ultrafast"}),
        (".mkv", "libx264", {"preset": "ultrafast"}),
        (".webm", "libvpx", {}),
        (".avi", "mjpeg", {}),
        (".mpg", "mpeg1video", {}),
        (".flv", "flv1", {}),
        (".gif", "gif", {}),
    ):
        pixels = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        found.append(
            write_clip(folder() / f"seed{suffix}", pictures, codec=codec, pixels=pixels, options=options).read_bytes()
        )
    return found


def _noise(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def read_video(content: bytes) -> None:
    from posedet.video.source import open_source

    with open_source(str(written("video.mp4", content))) as source:
        for _ in islice(source, 10):
            pass


def requests() -> list[bytes]:
    photo = photos("JPEG")[0]
    body = (
        b"--x\r\n"
        + b'Content-Disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
        + photo
        + b"\r\n--x--\r\n"
    )
    form = b"Content-Type: multipart/form-data; boundary=x\r\n"
    post = b"POST /v1/poses%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n%s"
    return [
        post % (b"?skeleton=coco&format=coco&score_threshold=0.2", len(photo), b"Content-Type: image/jpeg\r\n", photo),
        post % (b"?long_side=128&skeleton=nose,left_wrist", len(body), form, body),
        b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer x\r\nOrigin: http://localhost\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\n\r\n",
    ]


class Served:
    """The server's application without a socket: it gets what a server would make of the bytes of a request."""

    def __init__(self) -> None:
        from posedet.serve.app import Limits, create_app

        detector = PoseDet(small_model(folder() / "served.onnx"), threads=1, long_side=128)
        limits = Limits(max_body_bytes=1 << 18, max_pixels=4_000_000, max_waiting=4)
        self._app = create_app(detector, limits, origins=["http://localhost"])
        self._loop = asyncio.new_event_loop()

    def ask(self, content: bytes) -> None:
        head, _, body = content.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, target, *_ = [*first.split(b" "), b"", b""]
        try:
            path, query = (part.encode() for part in urlsplit(target.decode("latin-1"))[2:4])
        except ValueError:
            return
        headers = [line.split(b":", 1) for line in lines if b":" in line]
        named = [(name.strip().lower(), value.strip()) for name, value in headers]
        # A server checks the length before the application sees it.
        named = [(name, value) for name, value in named if name != b"content-length" or value.isdigit()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method.decode("latin-1").upper(),
            "scheme": "http",
            "path": path.decode(errors="replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": named,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        status, answer = self._loop.run_until_complete(self._answer(scope, body))
        if status >= 500 and status != 503:
            raise AssertionError(f"answered {status}: {answer[:300]!r}")
        if status >= 400 and method in (b"POST", b"GET") and answer:
            assert "\n" not in json.loads(answer)["error"], answer[:300]

    async def _answer(self, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
        waiting: Iterator[dict[str, Any]] = iter(({"type": "http.request", "body": body, "more_body": False},))
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return next(waiting, None) or await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        status = next(message["status"] for message in sent if message["type"] == "http.response.start")
        return status, b"".join(message.get("body", b"") for message in sent)


@cache
def served() -> Served:
    return Served()


def ask(content: bytes) -> None:
    served().ask(content)


TARGETS = {
    **{
        format.lower(): Target(partial(photos, format), read_a_photo, (change_bytes,))
        for format in ("JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")
    },
    "png": Target(partial(photos, "PNG"), read_a_photo, (change_bytes, change_chunks, change_chunks)),
    "coco": Target(lambda: [truth(), truth(as_teachers)], read_annotations, (change_bytes, *[change_json] * 4)),
    "crowdpose": Target(lambda: [truth(as_crowdpose)], read_annotations, (change_bytes, *[change_json] * 4)),
    "ochuman": Target(lambda: [json.dumps(ochuman()).encode()], read_annotations, (change_bytes, *[change_json] * 4)),
    "ultralytics": Target(
        lambda: list(ULTRALYTICS),
        read_ultralytics,
        (change_bytes, *[change_lines] * 4),
    ),
    "results": Target(
        lambda: [json.dumps(some_poses().to_coco(448076)).encode()], read_results, (change_bytes, *[change_json] * 4)
    ),
    "poses": Target(
        lambda: [json.dumps(some_poses().to_dict()).encode(), json.dumps(some_poses().to_coco(1)).encode()],
        read_poses,
        (change_json,),
    ),
    "tracks": Target(tracks, read_tracks, (change_bytes, change_lines, change_json)),
    "skeleton-toml": Target(skeletons, partial(read_skeleton, ".toml"), (change_bytes, *[change_lines] * 4)),
    "skeleton-json": Target(
        lambda: [json.dumps(COCO.to_dict()).encode(), truth()],
        partial(read_skeleton, ".json"),
        (change_bytes, *[change_json] * 4),
    ),
    "preset": Target(presets, read_preset, (change_bytes, *[change_lines] * 4)),
    "safetensors": Target(weights, read_weights, (change_bytes, *[change_safetensors] * 4)),
    "onnx": Target(models, run_model, (change_bytes, *[change_fields] * 4)),
    "video": Target(videos, read_video, (change_bytes,)),
    "http": Target(requests, ask, (change_bytes, change_lines, change_lines)),
}
