"""Make what the tests of the page need, with the Python package: results to compare with, and files to open."""

import base64
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from posedet import PoseDet, draw
from posedet.image import Letterbox, read_photo
from posedet.runtime.decode import decode
from posedet.runtime.session import Outputs
from posedet.skeleton import SKELETONS

PHOTOS = sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))
RNG = np.random.default_rng(0)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make_files(folder)
    expected = {
        "poses": {
            "default": found(PHOTOS, PoseDet()),
            "crowdpose": found(PHOTOS, PoseDet(skeleton="crowdpose", score_threshold=0.2)),
            # Not ONNX Runtime: without VNNI instructions, its products of 8 bits saturate, unlike those of the browser.
            "int8": found(PHOTOS, PoseDet("posedet-s-int8", runtime="openvino")),
            "other files": found([folder / name for name in ("turned.jpg", "large.png", "clear.png")], PoseDet()),
        },
        "skeletons": {name: skeleton.keypoints for name, skeleton in SKELETONS.items()},
        "resized": [resized(*sizes) for sizes in SIZES],
        "decoded": [decoded(nms, clamp) for nms in ("oks", "iou") for clamp in (False, True)],
    }
    (folder / "expected.json").write_text(json.dumps(expected))


def found(photos: list[Path], detector: PoseDet) -> list[dict[str, Any]]:
    # As arrays: a large JPEG file would be decoded at a reduced size, which browsers do not offer.
    return [{"file_name": path.name, "poses": detector(read_photo(path)).to_dict()["poses"]} for path in photos]


# (width, height) of a photo and of the network input: smaller, larger, and so large that whole pixels are averaged.
SIZES = [
    ((640, 427), (576, 384)),
    ((97, 61), (576, 362)),
    ((576, 300), (576, 300)),
    ((1200, 31), (576, 15)),
    ((1501, 1003), (100, 67)),
    ((2313, 701), (61, 19)),
]


def resized(size: tuple[int, int], to: tuple[int, int]) -> dict[str, Any]:
    photo = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
    result = Letterbox((size[1], size[0]), (to[1], to[0]), (to[1], to[0])).apply(photo)
    return {"from": size, "to": to, "pixels": text(photo), "result": text(result)}


def text(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def decoded(nms: Any, clamp: bool) -> dict[str, Any]:
    """Outputs of a network that has found twelve people several times each, partly outside the photo."""
    detector = PoseDet()
    skeleton = detector.about.skeleton
    config = replace(detector.config, nms=nms, clamp=clamp, score_threshold=0.0)
    people = RNG.uniform(-50, 600, (12, 1, 2)) + RNG.uniform(0, 150, (12, 19, 2))
    keypoints = (people.repeat(8, axis=0) + RNG.normal(0, 12, (96, 19, 2))).astype(np.float32)
    scores = RNG.uniform(0, 1.01, 96).astype(np.float32)
    scores[:8] = scores[0]
    keypoints[20, 3] = np.nan
    keypoint_scores = RNG.uniform(0, 1, (96, 19)).astype(np.float32)
    photo = (900, 1200)
    letterbox = Letterbox.fit(photo, long_side=config.long_side)
    poses = decode(Outputs(scores, keypoints, keypoint_scores), letterbox, skeleton, config)
    about = {
        "name": "made",
        "skeleton": skeleton.to_dict(),
        "decode": {"nms": nms, "nmsThreshold": config.nms_threshold, "minArea": config.min_area, "clamp": clamp},
    }
    outputs = {
        "scores": scores.tolist(),
        "keypoints": [None if np.isnan(value) else value for value in keypoints.ravel().tolist()],
        "keypoint_scores": keypoint_scores.ravel().tolist(),
    }
    return {"about": about, "photo": photo[::-1], "outputs": outputs, "poses": poses.to_dict()["poses"]}


def make_files(folder: Path) -> None:
    skiers = read_photo(PHOTOS[0].with_name("skiers.jpg"))
    picture = Image.fromarray(skiers)
    Image.fromarray(draw(skiers, PoseDet()(skiers))).save(folder / "drawn.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, exif=exif)
    picture.resize((5 * picture.width, 5 * picture.height), Image.Resampling.BICUBIC).save(folder / "large.png")
    clear = picture.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size).point(lambda value: max(128, value)))
    clear.save(folder / "clear.png")
    (folder / "letter.jpg").write_text("This is not a photo.")
    (folder / "empty.jpg").write_bytes(b"")
    # Compressed to a few kilobytes, and 400 million pixels.
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "broken.mp4").write_bytes(bytes(1000))
    (folder / "broken.onnx").write_bytes(RNG.bytes(1000))
    frame = io.BytesIO()
    picture.save(frame, "JPEG", quality=95)
    (folder / "camera.mjpeg").write_bytes(frame.getvalue() * 10)
    with av.open(folder / "clip.webm", "w") as clip:
        stream = clip.add_stream("libvpx", rate=5, options={"crf": "8", "b": "2M"})
        stream.width, stream.height, stream.pix_fmt = picture.width // 2 * 2, picture.height // 2 * 2, "yuv420p"
        for _ in range(15):
            clip.mux(stream.encode(av.VideoFrame.from_image(picture)))
        clip.mux(stream.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
