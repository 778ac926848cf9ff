"""Read frames with their times from video files, folders of frames, cameras, network streams and standard input."""

import io
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from posedet.errors import ConfigError, DataError
from posedet.extras import needs
from posedet.files import PHOTO_SUFFIXES, VIDEO_SUFFIXES, find_photos, one_line
from posedet.image import read_photo
from posedet.outputs import stamp

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Demuxers for files. Others are attack surface; playlists among them would open further files and addresses.
FILE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,ivf,h264,hevc,mjpeg,yuv4mpegpipe"
)
# Protocols that an address may use, also by redirection: never `file`.
NETWORK_PROTOCOLS = "http,https,tls,tcp,udp,rtp,rtsp,srt,crypto,hls"
ADDRESS = re.compile(r"(?i)(https?|rtsps?|rtmps?|udp|tcp|rtp|srt)://")
CAMERA = re.compile(r"\d{1,3}|/dev/video\d{1,3}")
PHOTO_RATE = 30.0  # frames a second of a folder of frames, unless stated
CONNECT_SECONDS, READ_SECONDS = 10.0, 10.0
# Waiting times before the attempts to reconnect a live source; after the last one it has ended.
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
# A decoder keeps up to 17 frames. 8K has 35 million pixels; packets with larger frames count as damaged.
MAX_FRAME_PIXELS = 40_000_000
# A source whose packets are all damaged is given up after so many without a frame.
MAX_DAMAGED_IN_A_ROW = 1000


class Frame(NamedTuple):
    """A frame of a source."""

    number: int  # from 0; frames that were dropped count
    time: float  # seconds since the beginning of the source
    image: NDArray[np.uint8]  # (H, W, 3) RGB, upright


@dataclass
class Source:
    """Frames, in order; iterate once. Use it in a `with` statement, or call `close`.

    Attributes:
        place: How the source was named, for messages.
        path: The file; None for all but video files.
        identity: Tells whether frames are the same as before; None if they cannot be read again.
        live: Frames come at their own pace, and those that come too fast are dropped.
        num_frames: About how many frames there are, if that is known.
        frame_rate: Frames a second, if that is known; 0 otherwise.
        notes: What went wrong on the way, one line each, when the iteration has ended.
    """

    place: str
    frames: Iterator[Frame]
    path: Path | None = None
    identity: object = None
    live: bool = False
    num_frames: int | None = None
    frame_rate: float = 0.0
    notes: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Frame]:
        return self.frames

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def is_video(text: str) -> bool:
    """Whether a name means a video rather than photos: by its suffix, or because it is an address or a camera."""
    return bool(ADDRESS.match(text) or CAMERA.fullmatch(text)) or text.lower().endswith(VIDEO_SUFFIXES)


def source_name(text: str) -> str:
    """The name of the outputs of a source: the stem of a file, or "camera-0", "stdin", "stream"."""
    if text == "-":
        return "stdin"
    if CAMERA.fullmatch(text):
        return f"camera-{re.sub('[^0-9]', '', text)}"
    if ADDRESS.match(text):
        return "stream"
    path = Path(text)
    return (path.name if os.path.isdir(path) else "" if any(sign in text for sign in "*?[") else path.stem) or "frames"


def open_source(source: str | os.PathLike[str] | bytes | BinaryIO, *, frame_rate: float | None = None) -> Source:
    """Open a source of frames.

    Args:
        source: Path of a video file, its bytes, or a binary file that is open; folder or pattern of photos, which are
            the frames in the order of their names; number or device of a camera (`0`, `/dev/video0`); address
            (`rtsp://...`, `http://...`, `udp://...`); or `-` for a stream on standard input.
        frame_rate: Frames a second of a folder of photos. Default: 30.

    Raises:
        ConfigError: If an optional package is missing.
        DataError: If the source cannot be opened or has no video.
    """
    file: Any = sys.stdin.buffer if source == "-" else io.BytesIO(source) if isinstance(source, bytes) else source
    opened = hasattr(file, "read")
    text = "-" if source == "-" else "video" if opened else os.fspath(file)
    path = Path(text)
    if not (opened or is_video(text)) and (os.path.isdir(path) or any(sign in text for sign in "*?[")):
        return _photos(text, frame_rate or PHOTO_RATE)
    if path.suffix.lower() in PHOTO_SUFFIXES and path.suffix.lower() != ".gif":
        raise DataError(f"{one_line(text)}: a photo, expected a video or a folder of frames; use `posedet predict`")
    if frame_rate is not None:
        raise ConfigError("frame_rate is only for a folder of frames: a video has its own times")
    if opened:
        return _video(text, lambda: _open(file, text, format_whitelist=FILE_FORMATS))
    if CAMERA.fullmatch(text):
        return _live(text, lambda: _open_camera(text))
    if ADDRESS.match(text):
        return _address(text)
    options = {"format_whitelist": FILE_FORMATS, "protocol_whitelist": "file"}
    # FFmpeg would take the beginning of a name such as `concat:a.mp4` for a protocol.
    video = _video(text, lambda: _open(f"file:{text}", text, **options))
    video.path, video.identity = path, [str(path.absolute()), stamp(path)]
    return video


def _photos(text: str, rate: float) -> Source:
    paths = sorted(find_photos([text]), key=_natural)

    def frames() -> Iterator[Frame]:
        for number, path in enumerate(paths):
            yield Frame(number, number / rate, read_photo(path))

    identity = [rate, [[str(path.absolute()), stamp(path)] for path in paths]]
    return Source(text, frames(), identity=identity, num_frames=len(paths), frame_rate=rate)


def _natural(path: Path) -> list[tuple[int, str]]:
    """The order of people: frame-2 before frame-10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _address(text: str) -> Source:
    """An address of a file, which is read at our pace, or of a live source."""
    container = _open_address(text)
    if text.lower().startswith("http") and (container.duration or 0) > 0:
        return _video(text, lambda: container)
    first: list[InputContainer] = [container]
    return _live(text, lambda: first.pop() if first else _open_address(text))


def _open_address(text: str) -> "InputContainer":
    options = {"protocol_whitelist": NETWORK_PROTOCOLS}
    if text.lower().startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # UDP loses packets, which look like damage
    return _open(text, text, **options)


def _open_camera(text: str) -> "InputContainer":
    number = re.sub("[^0-9]", "", text)
    if sys.platform == "darwin":
        return _open(number, text, format="avfoundation", framerate="30")
    if sys.platform == "win32":
        raise DataError(f"{text}: cameras are not supported on Windows; stream the camera to an address instead")
    return _open(f"/dev/video{number}", text, format="video4linux2")


def _open(file: Any, place: str, *, format: str | None = None, **options: str) -> "InputContainer":
    av = import_av()
    options["max_pixels"] = str(MAX_FRAME_PIXELS)  # also for the frames that are decoded to find out what is inside
    try:
        container: InputContainer = av.open(
            file, format=format, options=options, timeout=(CONNECT_SECONDS, READ_SECONDS), metadata_errors="replace"
        )
    except (av.error.FFmpegError, OSError, TypeError, ValueError) as error:  # TypeError: a file in text mode
        hint = "; not a video, or cut off" if isinstance(error, av.error.InvalidDataError) else ""
        raise DataError(f"{_shown(place)}: cannot be opened ({_reason(error)}{hint})") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{_shown(place)}: contains no video")
    # PyAV has no context if FFmpeg has no decoder.
    if (decoder := container.streams.video[0].codec_context) is None:
        container.close()
        raise DataError(f"{_shown(place)}: its video is in an unknown format; convert it, for example to H.264")
    decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return container


def import_av() -> Any:
    """PyAV, or ConfigError if it is not installed."""
    needs("posedet track", "video", ("av",))
    import av

    av.logging.set_level(None)
    return av


def _video(place: str, connect: "Callable[[], InputContainer]") -> Source:
    """A source that is read at our pace."""
    container = connect()
    stream = container.streams.video[0]
    source = Source(place, iter(()))
    source.frame_rate = float(stream.average_rate or stream.guessed_rate or 0)
    source.num_frames = stream.frames or _estimate(container, source.frame_rate)
    source.frames, source.close = _decoded(container, stream, source), container.close
    return source


def _estimate(container: "InputContainer", rate: float) -> int | None:
    return round(container.duration / 1e6 * rate) if container.duration and container.duration > 0 and rate else None


def _decoded(container: "InputContainer", stream: "VideoStream", source: Source) -> Iterator[Frame]:
    """Decode all frames. What is damaged is skipped and counted in `source.notes`."""
    stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
    # Times count from the beginning of the file, where sound and picture may begin at different times.
    begin = (container.start_time or 0) / 1e6
    number, last, rate = 0, -1.0, source.frame_rate or PHOTO_RATE
    for frame in _Deinterlaced(stream, _undamaged(container, stream, source)):
        now = last + 1 / rate if frame.time is None else frame.time - begin
        # Some files have equal or falling times, for example where two recordings were joined.
        now = max(now, 0.0) if number == 0 else now if now > last else last + 1 / rate
        yield Frame(number, now, _upright(frame))
        number, last = number + 1, now
    if number == 0:
        raise DataError("; ".join([f"{_shown(source.place)}: contains no frames", *source.notes]))


def _undamaged(container: "InputContainer", stream: "VideoStream", source: Source) -> "Iterator[VideoFrame]":
    """Decode what can be decoded, and note what cannot."""
    av = import_av()
    damaged, in_a_row = 0, 0
    packets = container.demux(stream)
    while in_a_row <= MAX_DAMAGED_IN_A_ROW:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError) as error:
            source.notes.append(f"breaks off ({_reason(error)})")
            break
        if packet is None:
            break
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            damaged, in_a_row = damaged + 1, in_a_row + 1
            continue
        in_a_row = 0
        damaged += bool(packet.is_corrupt or any(frame.is_corrupt for frame in decoded))
        yield from decoded
    if damaged:
        source.notes.append(f"{damaged} damaged packets")


def _upright(frame: "VideoFrame") -> NDArray[np.uint8]:
    """The pixels in the direction in which a player shows them: phones store how they were held."""
    array = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


class _Deinterlaced:
    """Frames with whole pictures: from the first interlaced frame on, all go through a filter."""

    def __init__(self, stream: "VideoStream", frames: "Iterator[VideoFrame]") -> None:
        self._stream, self._frames = stream, frames
        self._graph: Any = None

    def __iter__(self) -> "Iterator[VideoFrame]":
        for frame in self._frames:
            if self._graph is None and frame.interlaced_frame:
                self._graph = _deinterlacer(self._stream)
            if self._graph is None:
                yield frame
            else:
                self._graph.push(frame)
                yield from self._pulled()
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled()

    def _pulled(self) -> "Iterator[VideoFrame]":
        av = import_av()
        while True:
            try:
                yield self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


def _deinterlacer(stream: "VideoStream") -> Any:
    av = import_av()
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame"), graph.add("buffersink")
    ).configure()
    return graph


def _live(place: str, connect: "Callable[[], InputContainer]") -> Source:
    """A source with a pace of its own: only its latest frame waits, and a broken connection is made anew."""
    container = connect()  # a wrong address is an error, not a source that broke
    source = Source(place, iter(()), live=True)
    stream = container.streams.video[0]
    source.frame_rate = float(stream.average_rate or stream.guessed_rate or 0)
    latest: queue.Queue[Frame | None] = queue.Queue(1)
    stopped = threading.Event()
    counts = {"dropped": 0, "reconnected": 0}

    def offer(frame: Frame | None) -> None:
        while True:
            try:
                latest.put_nowait(frame)
                return
            except queue.Full:
                try:
                    latest.get_nowait()
                    counts["dropped"] += 1
                except queue.Empty:
                    continue

    def read() -> None:
        nonlocal container
        number, begin, attempt = 0, time.monotonic(), 0
        while not stopped.is_set():
            part = Source(place, iter(()), frame_rate=source.frame_rate)
            try:
                for frame in _decoded(container, container.streams.video[0], part):
                    if stopped.is_set():
                        break
                    # The clock, because the times of a stream start anew with each connection.
                    offer(Frame(number, time.monotonic() - begin, frame.image))
                    number, attempt = number + 1, 0
            except DataError:
                pass
            container.close()
            while not stopped.is_set():
                if attempt == len(BACKOFF_SECONDS):
                    source.notes.append("the connection broke and could not be made again")
                    offer(None)
                    return
                stopped.wait(BACKOFF_SECONDS[attempt])
                attempt += 1
                try:
                    container = connect()
                except DataError:
                    continue
                counts["reconnected"] += 1
                break

    thread = threading.Thread(target=read, name="posedet-live", daemon=True)

    def frames() -> Iterator[Frame]:
        thread.start()
        try:
            while (frame := latest.get()) is not None:
                yield frame
        finally:
            source.notes += [f"{count} {what}" for what, count in _live_notes(counts) if count]

    def close() -> None:
        stopped.set()
        if thread.is_alive():
            thread.join(READ_SECONDS + 1)

    source.frames, source.close = frames(), close
    return source


def _live_notes(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [
        ("frames dropped, because they came faster than they could be processed", counts["dropped"]),
        ("times reconnected", counts["reconnected"]),
    ]


def _shown(place: str) -> str:
    """The name of a source without a password that is part of an address."""
    return one_line(re.sub(r"(?<=://)[^/@]*@", "", place))


def _reason(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return one_line(strerror or error)
