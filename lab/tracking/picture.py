"""The moving picture of docs/use/video.md: people of a shipped photo, over which a camera wanders."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lab.speed.video import make_clip
from lab.tracking import GENERATOR
from posedet import draw, track
from posedet.outputs import write_atomically

SIZE = (288, 448)  # height, width
NUM_FRAMES = 100
EVERY = 3  # of how many frames one is shown


def moving_picture(photos: Sequence[str], path: Path) -> None:
    """Track people in a clip made of `photos`, and write every third frame as an animated WebP."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, photos, SIZE, NUM_FRAMES)
        frames = [Image.fromarray(draw(frame.image, frame.poses)) for frame in track(str(clip))][::EVERY]
    content = io.BytesIO()
    mark = Image.Exif()
    mark[0x0131] = f"generator: {GENERATOR}"  # Software
    frames[0].save(
        content, "WEBP", save_all=True, append_images=frames[1:], duration=40 * EVERY, loop=0, quality=60, exif=mark
    )
    write_atomically(path, GENERATOR, content.getvalue())
