"""The command `posedet benchmark`: how fast a model is, stage by stage, and beside others."""

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posedet.errors import ConfigError, DataError
from posedet.files import find_photos, one_line

if TYPE_CHECKING:
    from posedet.benchmark.workers import Alternative

# Where the repository keeps photos.
PHOTOS = "photos"


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    benchmark = add("benchmark", "how fast it is here, stage by stage, and beside others", "benchmark team.jpg")
    add_timing_options(benchmark, default_engines="all that are installed; with --against openvino")
    benchmark.add_argument(
        "--batch", default="4", metavar="SIZES", help="photos at once, joined by commas (default: %(default)s)"
    )
    add_against(benchmark)
    benchmark.set_defaults(command=_benchmark)


def add_timing_options(parser: argparse.ArgumentParser, *, default_engines: str) -> None:
    """The options of everything that times our models on photos."""
    parser.add_argument(
        "photos", nargs="*", metavar="PATH", help=f"photos, folders or patterns (default: the folder {PHOTOS}/)"
    )
    parser.add_argument("--model", help="ONNX file, for PyTorch with its weights beside it (default: the shipped one)")
    parser.add_argument(
        "--engines", help=f"of onnxruntime, openvino and pytorch, joined by commas (default: {default_engines})"
    )
    parser.add_argument("--threads", type=int, metavar="CORES", help="how many to use (default: all)")
    parser.add_argument("--rounds", type=int, default=10, help="times over all photos (default: %(default)s)")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for a JSON report with all samples, and a picture"
    )


def add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="any other model (.onnx, .xml, .tflite), in turns with ours, all in OpenVINO; may be repeated; one of "
        "posedet's own, by path or name, runs in all --engines",
    )


def prepare(options: argparse.Namespace) -> None:
    """Check the options of `add_timing_options`, and make the folder for the report."""
    if options.rounds < 1:
        raise ConfigError(f"--rounds {options.rounds}: expected at least 1")
    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"--threads {options.threads}: expected at least 1")
    make_report_folder(options)


def make_report_folder(options: argparse.Namespace) -> None:
    """Make the folder that `--output` names, before anything is measured."""
    if options.output is not None:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"--output {one_line(options.output)}: cannot be made ({reason})") from None


def timed_photos(options: argparse.Namespace) -> list[str]:
    """The photos that the options name, or those of the repository."""
    if not options.photos and not Path(PHOTOS).is_dir():
        raise DataError("no photos: name some, or a folder of them")
    return [str(photo) for photo in find_photos(options.photos or [PHOTOS])]


def cores(options: argparse.Namespace) -> int:
    """As many cores as the options say, or all."""
    from posedet.runtime.parallel import available_cores

    return options.threads or available_cores()


def own(options: argparse.Namespace, default: str | None) -> "dict[str, Alternative]":
    """Our model in each engine that is asked for; else in `default`, or if that is None in all that are installed."""
    from posedet.benchmark.workers import TITLES, Alternative, engines_at_hand, file_for
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.model_files import model_file

    model = model_file(options.model or DEFAULT_MODEL)
    wanted = options.engines or default
    engines = engines_at_hand(model, wanted.split(",") if wanted else None)
    threads = cores(options)
    return {
        f"{model.stem}, {TITLES[engine]}": Alternative(str(file_for(model, engine)), engine, threads)
        for engine in engines
    }


def with_peers(options: argparse.Namespace) -> "dict[str, Alternative]":
    """Our model, and the files that `--against` names."""
    from posedet.benchmark.workers import ENGINES, TITLES, Alternative, is_posedet
    from posedet.runtime.model_files import RELEASES, model_file

    alternatives = own(options, "openvino" if options.against else None)
    engines = {alternative.engine for alternative in alternatives.values()} - {"pytorch"}
    for path in options.against:
        file = str(model_file(path)) if path in RELEASES else path
        rivals = {Path(file).stem: Alternative(file, "openvino", cores(options), foreign=True)}
        if engines and is_posedet(Path(file)):
            rivals = {
                f"{Path(file).stem}, {TITLES[engine]}": Alternative(file, engine, cores(options))
                for engine in ENGINES
                if engine in engines
            }
        for name, rival in rivals.items():
            if name in alternatives:
                raise ConfigError(f"--against {one_line(path)}: a second file of this name; rename it")
            alternatives[name] = rival
    return alternatives


def _benchmark(options: argparse.Namespace) -> int:
    from posedet.benchmark.comparison import compare, conditions, draw, table, to_dict

    prepare(options)
    try:
        batches = [int(size) for size in options.batch.split(",") if int(size) != 1]
    except ValueError:
        batches = [0]
    if min(batches, default=2) < 1:
        raise ConfigError(f"--batch {options.batch}: expected whole numbers joined by commas, such as 4,8")
    comparison = compare(with_peers(options), timed_photos(options), rounds=options.rounds, batches=batches)
    print(f"{table(comparison)}\n\n{conditions(comparison)}")
    write_results(options, to_dict(comparison), lambda path: draw(comparison, path))
    return 0


def write_results(
    options: argparse.Namespace, results: dict[str, Any], draw: Callable[[Path], None] | None = None
) -> None:
    """The report, and the picture where there is one and matplotlib to draw it."""
    if options.output is None:
        return
    from posedet.evaluation.report import write_report

    write_report(options.output / "benchmark.json", results)
    if draw is None:
        return
    if find_spec("matplotlib") is None:
        print('posedet: no picture: it needs matplotlib: pip install "posedet[evaluate]"', file=sys.stderr)
    else:
        draw(options.output / "benchmark.png")
