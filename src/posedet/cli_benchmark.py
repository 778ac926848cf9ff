"""The command `posedet benchmark`: how fast a model is, stage by stage, and beside others."""

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posedet.errors import ConfigError, DataError
from posedet.extras import needs
from posedet.files import find_photos, one_line, photo_folder

if TYPE_CHECKING:
    from posedet.benchmark.workers import Alternative

# Where the repository keeps photos.
PHOTOS = "photos"


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    benchmark = add("benchmark", "how fast it is here, stage by stage, and beside others", "benchmark team.jpg")
    benchmark.add_argument(
        "photos", nargs="*", metavar="PATH", help=f"photos, folders or patterns (default: the folder {PHOTOS}/)"
    )
    benchmark.add_argument(
        "--model", help="ONNX file, for PyTorch with its weights beside it (default: the shipped one)"
    )
    benchmark.add_argument(
        "--engines",
        help="of onnxruntime, openvino and pytorch, joined by commas (default: all that are installed; with --against "
        "openvino, with the others below onnxruntime)",
    )
    benchmark.add_argument("--threads", type=int, metavar="CORES", help="how many to use (default: all)")
    benchmark.add_argument("--rounds", type=int, default=10, help="times over all photos (default: %(default)s)")
    benchmark.add_argument(
        "--batch", default="4", metavar="SIZES", help="photos at once, joined by commas (default: %(default)s)"
    )
    benchmark.add_argument(
        "--output", type=Path, metavar="FOLDER", help="for a JSON report with all samples, and a picture"
    )
    benchmark.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="any other model (.onnx, .xml, .tflite), in turns with ours, all in OpenVINO; may be repeated; one of "
        "posedet's own, by path or name, runs in all --engines",
    )
    other = benchmark.add_mutually_exclusive_group()
    other.add_argument("--claims", action="store_true", help="hold what docs/speed.md claims; also against FILE")
    other.add_argument(
        "--growth", action="store_true", help="time over photo size, input size, people, batch and threads"
    )
    other.add_argument("--sparse", action="store_true", help="what sparse embedding saves in the paper's DLA-34 model")
    other.add_argument(
        "--first-stage", type=Path, metavar="ANNOTATIONS", help="people whom the first stage keeps, over candidates"
    )
    other.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        help="the paper's models on a GPU, see docs/gpu.md; cpu: the same at a toy size, to see that it works",
    )
    device = benchmark.add_argument_group("with --device")
    device.add_argument(
        "--parts", help="some of limits, inference, accuracy, sampling, training, loader, compiled (default: all)"
    )
    device.add_argument("--minutes", type=float, default=8.0, help="for all of it (default: %(default)g)")
    device.add_argument(
        "--annotations", type=Path, metavar="FILE", help=f"for accuracy and loader (default: {PHOTOS}/truth.json)"
    )
    benchmark.set_defaults(command=_benchmark)


def _benchmark(options: argparse.Namespace) -> int:
    if options.rounds < 1:
        raise ConfigError(f"--rounds {options.rounds}: expected at least 1")
    if options.threads is not None and options.threads < 1:
        raise ConfigError(f"--threads {options.threads}: expected at least 1")
    if options.output is not None:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"--output {one_line(options.output)}: cannot be made ({reason})") from None
    if options.device is not None:
        return _device(options)
    if options.first_stage is not None:
        return _first_stage(options)
    if options.sparse:
        return _sparse(options)
    if options.growth:
        return _growth(options)
    return _claims(options) if options.claims else _compare(options)


def _photos(options: argparse.Namespace) -> list[str]:
    if not options.photos and not Path(PHOTOS).is_dir():
        raise DataError("no photos: name some, or a folder of them")
    return [str(photo) for photo in find_photos(options.photos or [PHOTOS])]


def _threads(options: argparse.Namespace) -> int:
    from posedet.parallel import available_cores

    return options.threads or available_cores()


def _own(options: argparse.Namespace, default: str | None) -> "dict[str, Alternative]":
    """Our model in each engine that is asked for; else in `default`, or if that is None in all that are installed."""
    from posedet.benchmark.workers import TITLES, Alternative, engines_at_hand, file_for
    from posedet.detector import DEFAULT_MODEL
    from posedet.weights import model_file

    model = model_file(options.model or DEFAULT_MODEL)
    wanted = options.engines or default
    engines = engines_at_hand(model, wanted.split(",") if wanted else None)
    threads = _threads(options)
    return {
        f"{model.stem}, {TITLES[engine]}": Alternative(str(file_for(model, engine)), engine, threads)
        for engine in engines
    }


def _with_peers(options: argparse.Namespace) -> "dict[str, Alternative]":
    from posedet.benchmark.workers import ENGINES, TITLES, Alternative, is_posedet
    from posedet.weights import RELEASES, model_file

    alternatives = _own(options, "openvino" if options.against else None)
    engines = {alternative.engine for alternative in alternatives.values()} - {"pytorch"}
    for path in options.against:
        file = str(model_file(path)) if path in RELEASES else path
        rivals = {Path(file).stem: Alternative(file, "openvino", _threads(options), foreign=True)}
        if engines and is_posedet(Path(file)):
            rivals = {
                f"{Path(file).stem}, {TITLES[engine]}": Alternative(file, engine, _threads(options))
                for engine in ENGINES
                if engine in engines
            }
        for name, rival in rivals.items():
            if name in alternatives:
                raise ConfigError(f"--against {one_line(path)}: a second file of this name; rename it")
            alternatives[name] = rival
    return alternatives


def _compare(options: argparse.Namespace) -> int:
    from posedet.benchmark.report import compare, conditions, draw, table, to_dict

    try:
        batches = [int(size) for size in options.batch.split(",") if int(size) != 1]
    except ValueError:
        batches = [0]
    if min(batches, default=2) < 1:
        raise ConfigError(f"--batch {options.batch}: expected whole numbers joined by commas, such as 4,8")
    comparison = compare(_with_peers(options), _photos(options), rounds=options.rounds, batches=batches)
    print(f"{table(comparison)}\n\n{conditions(comparison)}")
    _write(options, to_dict(comparison), lambda path: draw(comparison, path))
    return 0


def _claims(options: argparse.Namespace) -> int:
    from posedet.benchmark.claims import against_peers, claims_table, of_a_folder, of_one_model
    from posedet.benchmark.folder import time_folder
    from posedet.benchmark.report import columns, compare, conditions, to_dict

    photos = _photos(options)
    claims, details, lines = [], {}, ""
    if options.against:
        comparison = compare(_with_peers(options), photos, rounds=options.rounds)
        claims = against_peers(comparison)
        details, lines = to_dict(comparison), f"\n\n{conditions(comparison)}"
    own = next(iter(_own(options, "openvino" if options.against else "onnxruntime").values()))
    claims += of_one_model(own, photos, options.rounds)
    folder = time_folder(own, photos, options.rounds)
    claims += of_a_folder(folder)
    print(claims_table(claims) + lines)
    details["folder, ms for each photo"] = {work: columns(samples) for work, samples in folder.items()}
    _write(options, {"claims": [claim.to_dict() for claim in claims], **details}, None)
    return 0 if all(claim.holds for claim in claims) else 1


def _growth(options: argparse.Namespace) -> int:
    from posedet.benchmark.growth import draw_growth, grow, growth_table

    alternatives = _own(options, "onnxruntime")
    if len(alternatives) != 1:
        raise ConfigError(f"--growth: of one engine, but --engines names {len(alternatives)}")
    curves = grow(next(iter(alternatives.values())), _photos(options), options.rounds)
    print(growth_table(curves))
    results = {"engine": next(iter(alternatives)), "curves": {curve.name: curve.to_dict() for curve in curves}}
    _write(options, results, lambda path: draw_growth(curves, path))
    return 0


def _sparse(options: argparse.Namespace) -> int:
    needs("benchmark --sparse", "train", ("torch", "safetensors", "pycocotools"))
    from posedet.benchmark.sparse import refinement_table, time_refinement

    samples = time_refinement(_threads(options), options.rounds)
    print(refinement_table(samples))
    _write(options, {"samples": samples}, None)
    return 0


def _first_stage(options: argparse.Namespace) -> int:
    needs("benchmark --first-stage", "train", ("torch", "safetensors", "pycocotools"))
    if len(options.photos) > 1:
        raise ConfigError("--first-stage: one folder, of the photos that the annotations name")
    from posedet.benchmark.sparse import first_stage, first_stage_table
    from posedet.benchmark.workers import file_for
    from posedet.detector import DEFAULT_MODEL
    from posedet.weights import model_file

    folder = Path(options.photos[0]) if options.photos else photo_folder(options.first_stage)
    weights = file_for(model_file(options.model or DEFAULT_MODEL), "pytorch")
    rows = first_stage(weights, options.first_stage, folder)
    print(first_stage_table(rows))
    _write(options, {"rows": [row._asdict() for row in rows]}, None)
    return 0


def _device(options: argparse.Namespace) -> int:
    needs("benchmark --device", "train", ("torch", "safetensors", "cv2"))
    from posedet.benchmark.gpu.rows import Plan
    from posedet.benchmark.gpu.run import PARTS, draw, run, summary, to_dict

    parts = options.parts.split(",") if options.parts else PARTS
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"--parts {part}: expected some of {', '.join(PARTS)}")
    if not options.minutes > 0:
        raise ConfigError(f"--minutes {options.minutes:g}: expected more than 0")
    annotations = options.annotations or Path(PHOTOS) / "truth.json"
    plan = Plan(options.device, options.device == "cpu", tuple(_photos(options)), str(annotations), _threads(options))

    def tell(line: str) -> None:
        print(line, flush=True)

    rows = run(plan, parts=parts, seconds=60 * options.minutes, output=options.output, tell=tell)
    print(f"\n{summary(rows)}")
    if plan.toy:
        print("On a CPU, at a toy size: what is not counted means nothing but that it works.")
    _write(options, to_dict(plan, rows), lambda path: draw(rows, path))
    return 0


def _write(options: argparse.Namespace, results: dict[str, Any], draw: Callable[[Path], None] | None) -> None:
    """The report, and the picture where there is one and matplotlib to draw it."""
    if options.output is None:
        return
    from posedet.evaluation.report import write_report

    write_report(options.output / "benchmark.json", results)
    if draw is None:
        return
    if find_spec("matplotlib") is None:
        print('posedet: no picture: it needs matplotlib: pip install "posedet[train]"', file=sys.stderr)
    else:
        draw(options.output / "benchmark.png")
