"""The command `posedet track`."""

import argparse
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from posedet import __version__
from posedet.commands.options import (
    AddCommand,
    add_detector_options,
    add_number,
    add_overwrite,
    claim,
    open_detector,
    settings_of,
)
from posedet.errors import ConfigError
from posedet.files import no_terminal, one_line

if TYPE_CHECKING:
    from posedet.journal import Journal
    from posedet.poses import Poses
    from posedet.runtime.detector import PoseDet
    from posedet.video.source import Frame, Source

FORMATS = ("csv", "parquet", "openpose", "trc")


def add_commands(add: AddCommand) -> None:
    track = add("track", "video -> annotated video and poses with ids", "track clip.mp4 --output found")
    track.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="video file; folder or quoted pattern of frames; camera (0, /dev/video0); address (rtsp://..., "
        "http://..., udp://...); - for standard input",
    )
    track.add_argument(
        "--output",
        type=Path,
        default=Path("tracks"),
        metavar="FOLDER",
        help="folder for NAME.mp4 and NAME.jsonl of each source (default: %(default)s)",
    )
    track.add_argument(
        "--format",
        action="append",
        default=[],
        choices=FORMATS,
        help="write the poses in this format, too: csv and parquet have a row per person and frame, openpose a file "
        "per frame, trc a file per person; repeatable",
    )
    track.add_argument("--no-video", action="store_true", help="write only the poses (faster)")
    track.add_argument("--trails", action="store_true", help="draw where each person came from")
    track.add_argument("--no-smoothing", action="store_true", help="keep the keypoints as the network finds them")
    track.add_argument("--frame-rate", type=float, metavar="RATE", help="frames a second of a folder of frames")
    add_number(track, "--frames", "stop after this many frames", metavar="COUNT")
    track.add_argument("--restart", action="store_true", help="do not resume an interrupted run, but start again")
    add_overwrite(track)
    add_detector_options(track)
    track.set_defaults(command=_track)


def _track(options: argparse.Namespace) -> int:
    from posedet.outputs import make_folder
    from posedet.runtime.parallel import available_cores
    from posedet.video.source import open_source, source_name
    from posedet.video.tables import FORMATS as WRITERS
    from posedet.video.tables import GENERATOR
    from posedet.video.track import TRACKED_SCORE

    if options.no_video and options.trails:
        raise ConfigError("--trails does not go with --no-video: trails are drawn into the video")
    if options.frame_rate is not None and not 0.01 <= options.frame_rate <= 1000:
        raise ConfigError(f"--frame-rate {options.frame_rate:g}: expected 0.01 to 1000 frames a second")
    stems = [options.output / name for name in _numbered([source_name(text) for text in options.sources])]
    suffixes = [".jsonl", *([] if options.no_video else [".mp4"])]
    suffixes += [WRITERS[name].suffix for name in options.format if WRITERS[name].suffix]
    outputs = [stem.with_name(stem.name + suffix) for stem in stems for suffix in suffixes]
    claim(options, GENERATOR, outputs, reads=[Path(text) for text in options.sources])
    options.reported = options.score_threshold
    options.score_threshold = min(TRACKED_SCORE, 1.0 if options.reported is None else options.reported)
    detector = open_detector(options, at_once=options.threads or available_cores())
    make_folder(options.output)
    for text, stem in zip(options.sources, stems, strict=True):
        with open_source(text, frame_rate=options.frame_rate) as source:
            _follow(options, source, stem, detector)
    return 0


def _follow(options: argparse.Namespace, source: "Source", stem: Path, detector: "PoseDet") -> None:
    """Track one source, and write its files."""
    from tqdm import tqdm

    from posedet.tracking.smoothing import Smoother
    from posedet.tracking.tracker import Tracker
    from posedet.video.tables import FORMATS as WRITERS
    from posedet.video.tables import GENERATOR, Tracks, TrackWriter
    from posedet.video.track import detected
    from posedet.video.writer import Annotator

    path = stem.with_name(f"{stem.name}.jsonl")
    tracker = Tracker() if options.reported is None else Tracker(new_score=options.reported)
    smoother = None if options.no_smoothing else Smoother()
    people: set[int] = set()
    number = 0
    with _journal(options, source, stem, detector) as journal:
        writer = TrackWriter(path, source.place, detector.skeleton, source.frame_rate)
        video = None
        if not options.no_video:
            video = Annotator(stem.with_name(f"{stem.name}.mp4"), GENERATOR, sound=source.path, trails=options.trails)
        try:
            found = detected(source, _remembered(detector, journal, source), detector.at_once)
            frames = islice(found, options.frames)
            for frame, poses in tqdm(frames, total=source.num_frames, unit="frame", disable=no_terminal()):
                if not source.live and frame.number not in journal.kept:
                    journal.keep(frame.number, poses.to_dict()["poses"])
                poses = tracker.update(poses, frame.time)
                if smoother is not None:
                    poses = smoother.update(poses, frame.time)
                writer.add(frame.number, frame.time, poses)
                if video is not None:
                    video.add(frame, poses)
                people.update(poses.ids.tolist())
                number += 1
        finally:
            writer.close()
            if video is not None:
                video.close()
        for name in options.format:
            WRITERS[name].write(Tracks(path), stem.with_name(f"{stem.name}{WRITERS[name].suffix}"))
    notes = "".join(f"; {note}" for note in source.notes)
    print(f"{one_line(source.place)}: {number} frames, {len(people)} people{notes} -> {one_line(stem)}{suffixes}")


def _remembered(detector: "PoseDet", journal: "Journal") -> "Callable[[Frame], Poses]":
    """The detector, which an interrupted run spares the frames that it has seen."""
    from posedet.poses import Poses

    skeleton = detector.skeleton.to_dict()

    def find(frame: "Frame") -> Poses:
        if (kept := journal.kept.get(frame.number)) is not None:
            return Poses.from_dict({"skeleton": skeleton, "poses": kept})
        return detector(frame.image)

    return find


def _numbered(names: Sequence[str]) -> list[str]:
    """The same names; one that occurs again gets a number."""
    unique: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate.casefold() in (each.casefold() for each in unique):
            number += 1
            candidate = f"{name}-{number}"
        unique.append(candidate)
    return unique
