"""Track a source from beginning to end, and write its files; an interrupted run resumes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from posedet import __version__
from posedet.errors import DataError
from posedet.files import no_terminal, one_line
from posedet.journal import Journal
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.tracking.smoothing import GapFiller, Smoother
from posedet.tracking.tracker import Tracker
from posedet.video.source import Frame, Source
from posedet.video.tables import FORMATS, GENERATOR, Tracks, TrackWriter
from posedet.video.track import detected, followed
from posedet.video.writer import Annotator


class Done(NamedTuple):
    """What was found."""

    num_frames: int
    num_people: int  # ids


def outputs(stem: Path, formats: Sequence[str], *, video: bool) -> list[Path]:
    """The files that `follow` writes, but for those of which there is one per frame or person."""
    suffixes = [".jsonl", *([".mp4"] if video else []), *(FORMATS[name].suffix for name in formats)]
    return [stem.with_name(stem.name + suffix) for suffix in suffixes if suffix]


def follow(
    source: Source,
    stem: Path,
    detector: PoseDet,
    tracker: Tracker,
    *,
    settings: Mapping[str, Any],
    smooth: bool,
    fill: float,
    video: bool,
    trails: bool,
    formats: Sequence[str],
    most_frames: int | None,
    restart: bool,
) -> Done:
    """Track one source, and write its files.

    Args:
        source: The frames.
        stem: The path of the files without their suffixes.
        detector: Finds the poses.
        tracker: Decides who is who.
        settings: Everything that the poses of `detector` depend on.
        smooth: Smooth the keypoints.
        fill: Longest gap in seconds in which a person who was not found is filled in; 0: none. Never for live sources.
        video: Write an annotated video.
        trails: Draw where each person came from.
        formats: Further forms of the tracks, see `tables.FORMATS`.
        most_frames: Stop after so many frames.
        restart: Start again, even if an interrupted run could be resumed.

    Raises:
        DataError: If the source cannot be read.
        PoseDetError: If a file cannot be written.
    """
    # A live source waits for nobody, and nobody for it.
    filler = GapFiller(fill) if fill and not source.live else None
    path = stem.with_name(f"{stem.name}.jsonl")
    people: set[int] = set()
    number = 0
    with _journal(source, stem, settings, restart=restart) or nullcontext() as journal:
        writer = TrackWriter(path, source.place, detector.skeleton, source.frame_rate)
        annotator = None
        if video:
            annotator = Annotator(stem.with_name(f"{stem.name}.mp4"), GENERATOR, sound=source.path, trails=trails)
        found = islice(_found(source, detector, journal), most_frames)
        frames = followed(found, tracker, Smoother() if smooth else None, filler)
        complete = False
        try:
            for frame, poses in tqdm(frames, total=source.num_frames, unit="frame", disable=no_terminal()):
                writer.add(frame.number, frame.time, poses)
                if annotator is not None:
                    annotator.add(frame, poses)
                people.update(poses.ids.tolist())
                number += 1
            complete = number != most_frames
        finally:
            writer.close()
            if annotator is not None:
                annotator.close(complete=complete)
        for name in formats:
            FORMATS[name].write(Tracks(path), stem.with_name(stem.name + FORMATS[name].suffix))
    return Done(number, len(people))


def _journal(source: Source, stem: Path, settings: Mapping[str, Any], *, restart: bool) -> Journal | None:
    """Keeps the poses of each frame; None for what cannot be read again."""
    if source.identity is None:
        return None
    everything = {"version": __version__, "source": source.identity, **settings}
    journal = Journal(stem, GENERATOR, everything, source.num_frames, unit="frames")
    if restart:
        journal.forget()
    return journal


def _found(source: Source, detector: PoseDet, journal: Journal | None) -> Iterator[tuple[Frame, Poses]]:
    """The frames and their poses; those that an interrupted run has found are read from its journal."""
    frames = iter(source)
    if journal is not None:
        skeleton = detector.skeleton.to_dict()
        # Not zip: it would take a frame that it then drops.
        for number, entries in journal.results():
            frame = next(frames, None)
            if frame is None or frame.number != number:
                raise DataError(f"{one_line(source.place)}: other frames than before; start again with --restart")
            yield frame, Poses.from_dict({"skeleton": skeleton, "poses": entries})
    for frame, poses in detected(frames, detector, detector.at_once, live=source.live):
        if journal is not None:
            journal.keep(frame.number, poses.to_dict()["poses"])
        yield frame, poses
