"""Small videos for the tests, made with PyAV."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 25
CLOCK = Fraction(1, 90_000)


def picture(number: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Red above left, green above right, blue below; brighter with the number."""
    pixels = np.zeros((height, width, 3), np.uint8)
    light = 100 + 10 * (number % 15)
    pixels[: height // 2, : width // 2, 0] = light
    pixels[: height // 2, width // 2 :, 1] = light
    pixels[height // 2 :, :, 2] = light
    return pixels


def write_clip(
    path: Path,
    pictures: Sequence[NDArray[np.uint8]] | int = 8,
    *,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    sound: str | None = None,
    format: str | None = None,
) -> Path:
    """Write a video of pictures, or of as many as given. times: seconds; sound: a codec for a second of a tone."""
    if isinstance(pictures, int):
        pictures = [picture(number) for number in range(pictures)]
    with av.open(str(path), "w", format=format) as output:
        stream: Any = output.add_stream(codec, rate=RATE, options=dict(options or {}))
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        tone: Any = None if sound is None else output.add_stream(sound, rate=44_100)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = CLOCK
        for number, pixels_of in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels_of, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[number] / CLOCK), CLOCK
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if tone is not None:
            queue = av.AudioFifo()
            wave = np.sin(np.arange(44_100) / 44_100 * 440 * 2 * np.pi)[None]
            if sound == "pcm_s16le":
                samples = av.AudioFrame.from_ndarray((wave * 20_000).astype(np.int16), format="s16p", layout="mono")
            else:
                samples = av.AudioFrame.from_ndarray(wave.astype(np.float32), format="fltp", layout="mono")
            samples.sample_rate = 44_100
            queue.write(samples)
            while (part := queue.read(1024, partial=True)) is not None:
                output.mux(tone.encode(part))
            output.mux(tone.encode(None))
    return path
