"""Write annotated videos: H.264 in MP4, with the times of the frames and the sound of the source."""

import os
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posedet.draw import draw_on, draw_trail
from posedet.errors import PoseDetError
from posedet.files import one_line
from posedet.outputs import discard, replace
from posedet.poses import Poses
from posedet.video.source import Frame, import_av

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

# Fine enough for every frame rate, and what MP4 players expect.
TIME_BASE = Fraction(1, 90_000)
# Without B-frames, because times are irregular and the last frame would lose its duration.
H264_OPTIONS = {"crf": "23", "preset": "veryfast", "bf": "0"}
MP4_OPTIONS = {"video_track_timescale": str(TIME_BASE.denominator)}
# Sound that MP4 holds as it is; other sound becomes AAC.
MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")


class VideoWriter:
    """Writes one video. It gets its name when it is complete, so there is never a broken video of that name.

    Args:
        path: The video.
        generator: The command that writes it, see `posedet.outputs`.
        sound: A video file whose sound is kept.
    """

    def __init__(self, path: Path, generator: str, *, sound: Path | None = None) -> None:
        self._av = import_av()
        self.path, self._generator, self._sound_file = path, generator, sound
        self._partial = path.with_name(f".{secrets.token_hex(8)}.part.mp4")
        self._output: OutputContainer | None = None
        self._stream: Any = None
        self._sound: _Sound | None = None
        self._last, self._length = 0.0, 1 / 30

    def add(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Add a frame. picture: (H, W, 3) uint8 RGB, the size of the first one. Raises PoseDetError on a full disk."""
        try:
            if self._output is None:
                self._open(picture)
            height, width = picture.shape[:2]
            if height % 2 or width % 2:  # H.264 stores colours for squares of four pixels
                picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            encoded = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
            if (encoded.width, encoded.height) != (self._stream.width, self._stream.height):
                encoded = encoded.reformat(width=self._stream.width, height=self._stream.height)
            encoded.pts, encoded.time_base = round(frame.time / TIME_BASE), TIME_BASE
            if frame.time > self._last:
                self._length = frame.time - self._last
            self._last = frame.time
            self._encode(encoded)
            if self._sound is not None:
                self._mux(self._sound.until(frame.time))
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from None

    def close(self, *, complete: bool = True) -> None:
        """Complete the video, and give it its name. complete: the source has ended; keep sound that is longer."""
        if self._output is None:
            return
        try:
            self._encode(None)
            if self._sound is not None:
                self._mux(self._sound.until(inf if complete else self._last + self._length))
            self._output.close()
            replace(self._partial, self.path, self._generator)
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._failed(error) from None
        finally:
            if self._sound is not None:
                self._sound.close()
            self._output = None
            discard(self._partial)

    def _open(self, picture: NDArray[np.uint8]) -> None:
        # Never over a planted link: the file is made here, and FFmpeg writes into it.
        os.close(os.open(self._partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        output = self._av.open(f"file:{self._partial}", "w", format="mp4", options=MP4_OPTIONS)
        output.metadata["comment"] = f"generator: {self._generator}"
        stream = output.add_stream("libx264", options=dict(H264_OPTIONS))
        height, width = picture.shape[:2]
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        self._output, self._stream = output, stream
        if self._sound_file is not None:
            self._sound = _Sound.of(self._sound_file, output)

    def _encode(self, frame: "VideoFrame | None") -> None:
        """Encode a frame, or what is left. A packet lasts as long as the time since the frame before."""
        packets = self._stream.encode(frame)
        for packet in packets:
            packet.duration = round(self._length / TIME_BASE)
        self._mux(packets)

    def _mux(self, packets: "Iterable[Packet[Any]]") -> None:
        assert self._output is not None
        for packet in packets:
            self._output.mux(packet)

    def _failed(self, error: Exception) -> PoseDetError:
        reason = getattr(error, "strerror", None) or error
        return PoseDetError(f"{one_line(self.path)}: could not be written ({one_line(reason)})")


class _Sound:
    """The sound of a file, as packets for another one."""

    def __init__(self, source: "InputContainer", track: "AudioStream", output: "OutputContainer") -> None:
        self._source = source
        self._begin = (source.start_time or 0) / 1e6
        self._packets = source.demux(track)
        self._copied = track.codec_context.name in MP4_SOUND
        self._target: Any = (
            output.add_stream_from_template(track)
            if self._copied
            else output.add_stream("aac", rate=track.codec_context.sample_rate)
        )
        self._waiting: Packet[Any] | None = None
        self._ended = False

    @classmethod
    def of(cls, path: Path, output: "OutputContainer") -> "_Sound | None":
        """The first sound track of a file; None if it has none that can be read."""
        av = import_av()
        try:
            source = av.open(f"file:{path}", metadata_errors="replace")
        except (av.error.FFmpegError, OSError):
            return None
        try:
            if source.streams.audio:
                return cls(source, source.streams.audio[0], output)
        except (av.error.FFmpegError, ValueError):
            pass
        source.close()
        return None

    def until(self, time: float) -> "Iterator[Packet[Any]]":
        """The packets up to a time in seconds."""
        av = import_av()
        while not self._ended:
            try:
                packet = self._waiting or next(self._packets)
                self._waiting = packet
                if packet.pts is not None and packet.time_base is not None:
                    if packet.pts * packet.time_base - self._begin > time:
                        return
                    packet.pts -= round(self._begin / packet.time_base)
                    if packet.dts is not None:
                        packet.dts -= round(self._begin / packet.time_base)
                self._waiting = None
                if self._copied:
                    if packet.dts is None:  # the end
                        continue
                    packet.stream = self._target
                    yield packet
                else:
                    for frame in packet.decode():
                        yield from self._target.encode(frame)
            except (StopIteration, av.error.FFmpegError):
                self._ended = True
        if not self._copied:
            self._copied = True
            yield from self._target.encode(None)

    def close(self) -> None:
        self._source.close()


# Pictures that wait for being drawn and encoded.
WAITING_PICTURES = 4
TRAIL_SECONDS = 2.0


class Annotator:
    """Draws poses and writes the video in a thread of its own. Errors are raised by the next call."""

    def __init__(self, path: Path, generator: str, *, sound: Path | None = None, trails: bool = False) -> None:
        self._writer = VideoWriter(path, generator, sound=sound)
        self._trails: dict[int, deque[tuple[float, NDArray[np.floating[Any]]]]] | None = {} if trails else None
        self._pool = ThreadPoolExecutor(1, "posedet-annotator")
        self._waiting: deque[Future[None]] = deque()

    def add(self, frame: Frame, poses: Poses) -> None:
        """Add a frame with its poses."""
        self._waiting.append(self._pool.submit(self._draw, frame, poses))
        while len(self._waiting) > WAITING_PICTURES:
            self._waiting.popleft().result()

    def close(self, *, complete: bool) -> None:
        """Complete the video, also after an error elsewhere: what was added is kept. See `VideoWriter.close`."""
        try:
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._writer.close(complete=complete)

    def _draw(self, frame: Frame, poses: Poses) -> None:
        picture = Image.fromarray(frame.image)
        draw_on(picture, poses)
        if self._trails is not None:
            self._lengthen(frame.time, poses)
            for number, way in self._trails.items():
                draw_trail(picture, np.array([point for _, point in way]), number)
        self._writer.add(frame, np.asarray(picture))

    def _lengthen(self, time: float, poses: Poses) -> None:
        assert self._trails is not None
        for number, (x1, y1, x2, y2) in zip(poses.ids.tolist(), poses.boxes, strict=True):
            self._trails.setdefault(number, deque()).append((time, np.array([(x1 + x2) / 2, (y1 + y2) / 2])))
        for number, way in list(self._trails.items()):
            while way and way[0][0] < time - TRAIL_SECONDS:
                way.popleft()
            if not way:
                del self._trails[number]
