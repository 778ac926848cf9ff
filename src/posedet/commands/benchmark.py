"""The command `posedet benchmark`: how fast a model is, stage by stage, and compared with others."""

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posedet.commands.options import AddCommand, add_number, add_output, add_threads, claim
from posedet.errors import ConfigError, DataError
from posedet.extras import needs
from posedet.files import find_photos, one_line
from posedet.outputs import make_folder

if TYPE_CHECKING:
    from posedet.benchmark.workers import Alternative

# The folder of photos in the repository.
PHOTOS = "photos"


def add_commands(add: AddCommand) -> None:
    benchmark = add("benchmark", "speed on this machine, by stage and against other models", "benchmark team.jpg")
    add_timing_options(benchmark, default_engines="every installed engine; with --against: openvino")
    benchmark.add_argument(
        "--batch", default="4", metavar="SIZES", help="batch sizes, separated by commas (default: %(default)s)"
    )
    add_against(benchmark)
    benchmark.set_defaults(command=_benchmark)


def add_photos(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", nargs="*", metavar="PATH", help=f"photos, folders or quoted patterns (default: the folder {PHOTOS}/)"
    )


def add_timing_options(parser: argparse.ArgumentParser, *, default_engines: str) -> None:
    """Add the options of every command that times our models on photos."""
    add_photos(parser)
    parser.add_argument("--model", help="ONNX file; PyTorch needs its .safetensors beside it (default: posedet-s)")
    engines = f"onnxruntime, openvino, pytorch, or several separated by commas (default: {default_engines})"
    parser.add_argument("--engines", help=engines)
    add_rounds(parser)


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that takes turns, with or without photos."""
    add_threads(parser)
    add_number(parser, "--rounds", "how often everything is timed (default: %(default)s)", default=10)
    add_report(parser)


def add_report(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "folder for a JSON report with every sample, and a chart", required=False)


def add_against(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="another model to compare with: .onnx, .xml or .tflite, run by OpenVINO; a posedet model, by path or "
        "name, runs in all --engines; repeatable",
    )


def timed_photos(options: argparse.Namespace) -> list[str]:
    """The photos that the options name; by default those of the repository."""
    if not options.photos and not Path(PHOTOS).is_dir():
        raise DataError("no photos: name some photos, or a folder of photos")
    return [str(photo) for photo in find_photos(options.photos or [PHOTOS])]


def cores(options: argparse.Namespace) -> int:
    """The number of cores to use."""
    from posedet.runtime.parallel import available_cores

    return options.threads or available_cores()


def own(options: argparse.Namespace, default: str | None) -> "dict[str, Alternative]":
    """Our model in each engine of `--engines`; otherwise in `default`, or if that is None in all installed engines."""
    from posedet.benchmark.workers import TITLES, Alternative, available_engines, file_for
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.model_files import model_file

    model = model_file(options.model or DEFAULT_MODEL)
    wanted = options.engines or default
    try:
        engines = available_engines(model, wanted.split(",") if wanted else None)
    except ConfigError as error:
        raise ConfigError(f"--engines {one_line(options.engines)}: {error}") from None
    threads = cores(options)
    return {
        f"{model.stem}, {TITLES[engine]}": Alternative(str(file_for(model, engine)), engine, threads)
        for engine in engines
    }


def with_peers(options: argparse.Namespace) -> "dict[str, Alternative]":
    """Our model, and the files that `--against` names."""
    from posedet.benchmark.workers import ENGINES, TITLES, Alternative, is_posedet
    from posedet.runtime.model_files import RELEASES, model_file

    if options.against:
        needs("posedet benchmark --against", "openvino", ("openvino",))
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
                raise ConfigError(f"--against {one_line(path)}: another model has the same file name; rename one")
            alternatives[name] = rival
    return alternatives


def _benchmark(options: argparse.Namespace) -> int:
    from posedet.benchmark.comparison import compare, comparison_dict, comparison_table, conditions, draw_comparison

    claim_report(options, "posedet benchmark")
    try:
        batches = [int(size) for size in options.batch.split(",") if int(size) != 1]
    except ValueError:
        batches = [0]
    if min(batches, default=2) < 1:
        raise ConfigError(f"--batch {options.batch}: expected whole numbers separated by commas, such as 4,8")
    comparison = compare(with_peers(options), timed_photos(options), rounds=options.rounds, batches=batches)
    print(f"{comparison_table(comparison)}\n\n{conditions(comparison)}")
    write_results(options, comparison_dict(comparison), lambda path: draw_comparison(comparison, path))
    return 0


def claim_report(options: argparse.Namespace, generator: str) -> None:
    """Claim what `write_results` writes, and make its folder."""
    if options.output is not None:
        claim(options, generator, [options.output / f"benchmark.{kind}" for kind in ("json", "png")])
        make_folder(options.output)


def write_results(
    options: argparse.Namespace, results: dict[str, Any], draw: Callable[[Path], None] | None = None
) -> None:
    """Write the report, and a chart if `draw` makes one and matplotlib is installed."""
    if options.output is None:
        return
    from posedet.evaluation.report import write_report

    write_report(options.output / "benchmark.json", options.generator, results)
    if draw is None:
        return
    if find_spec("matplotlib") is None:
        print('posedet: no chart: matplotlib is not installed: pip install "posedet[evaluate]"', file=sys.stderr)
    else:
        draw(options.output / "benchmark.png")
