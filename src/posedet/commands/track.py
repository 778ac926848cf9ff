"""The command `posedet track`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

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
from posedet.extras import needs
from posedet.files import one_line

MOST_FILLED = 2.0  # seconds: so long, frames wait in memory
FORMATS = ("csv", "parquet", "openpose", "trc")


def add_commands(add: AddCommand) -> None:
    track = add(
        "track", "video -> annotated video and poses with ids (needs posedet[video])", "track clip.mp4 --output found"
    )
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
    track.add_argument(
        "--fill",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="fill in people who were not found for up to this time; 0: never (default: %(default)s)",
    )
    track.add_argument("--frame-rate", type=float, metavar="RATE", help="frames a second of a folder of frames")
    add_number(track, "--frames", "stop after this many frames", metavar="COUNT")
    track.add_argument("--restart", action="store_true", help="do not resume an interrupted run, but start again")
    add_overwrite(track)
    add_detector_options(track)
    track.set_defaults(command=_track)


def _track(options: argparse.Namespace) -> int:
    needs("posedet track", "video", ("av",))
    from posedet.outputs import make_folder
    from posedet.runtime.parallel import available_cores
    from posedet.video.run import follow, outputs
    from posedet.video.source import open_source, source_name
    from posedet.video.tables import GENERATOR
    from posedet.video.track import with_tracker

    if options.no_video and options.trails:
        raise ConfigError("--trails does not go with --no-video: trails are drawn into the video")
    if options.frame_rate is not None and not 0.01 <= options.frame_rate <= 1000:
        raise ConfigError(f"--frame-rate {options.frame_rate:g}: expected 0.01 to 1000 frames a second")
    if not 0 <= options.fill <= MOST_FILLED:
        raise ConfigError(f"--fill {options.fill:g}: expected 0 to {MOST_FILLED:g} seconds")
    stems = [options.output / name for name in _numbered([source_name(text) for text in options.sources])]
    files = [path for stem in stems for path in outputs(stem, options.format, video=not options.no_video)]
    claim(options, GENERATOR, files, reads=[Path(text) for text in options.sources])
    detector = open_detector(options, at_once=options.threads or available_cores(), embedding=True)
    make_folder(options.output)
    for text, stem in zip(options.sources, stems, strict=True):
        with open_source(text, frame_rate=options.frame_rate) as source:
            weak, tracker = with_tracker(detector)
            done = follow(
                source,
                stem,
                weak,
                tracker,
                settings=settings_of(options, detector),
                smooth=not options.no_smoothing,
                fill=options.fill,
                video=not options.no_video,
                trails=options.trails,
                formats=options.format,
                most_frames=options.frames,
                restart=options.restart,
            )
        notes = "".join(f"; {note}" for note in source.notes)
        print(f"{one_line(text)}: {done.num_frames} frames, {done.num_people} people{notes} -> {one_line(stem)}.*")
    return 0


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
