"""Reproduce docs/lab/speed.md: `python -m lab.speed claims | growth | video | endurance | ...`."""

import argparse
import sys
from collections.abc import Sequence

from lab.speed import GENERATOR
from posedet.commands.benchmark import (
    PHOTOS,
    add_against,
    add_report,
    add_rounds,
    add_timing_options,
    claim_report,
    cores,
    own,
    timed_photos,
    with_peers,
    write_results,
)
from posedet.commands.main import run
from posedet.commands.options import add_annotations, add_number, add_threads, annotated_photos
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import find_photos
from posedet.skeleton import COCO


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    description = "Reproduce the measurements of docs/lab/speed.md."
    parser = argparse.ArgumentParser(prog="python -m lab.speed", description=description)
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    claims = commands.add_parser("claims", help="check every claim; with --against also the claims about other models")
    add_timing_options(claims, default_engines="onnxruntime; with --against: openvino")
    add_against(claims)
    claims.set_defaults(command=_claims)

    folder = commands.add_parser(
        "folder", help="throughput of `posedet predict`, compared with that of the bare network"
    )
    add_timing_options(folder, default_engines="onnxruntime")
    add_number(folder, "--megapixels", "enlarge the photos to this size")
    folder.set_defaults(command=_folder)

    growth = commands.add_parser(
        "growth", help="time as a function of photo size, input size, people, batch and threads"
    )
    add_timing_options(growth, default_engines="onnxruntime")
    growth.set_defaults(command=_growth)

    sparse = commands.add_parser("sparse", help="time that sparse embedding saves in the paper's DLA-34 model")
    add_rounds(sparse)
    sparse.set_defaults(command=_sparse)

    video = commands.add_parser("video", help="throughput of `posedet track`, compared with that of the bare network")
    add_rounds(video)
    video.set_defaults(command=_video)

    endurance = commands.add_parser("endurance", help="memory and open files of `posedet track` over many frames")
    add_number(endurance, "--frames", "frames of the video (default: %(default)s)", default=100_000)
    add_report(endurance)
    endurance.set_defaults(command=_endurance)

    cluster = commands.add_parser("cluster", help="what a pool of processes, Ray Data and Spark add to one process")
    add_number(cluster, "--rounds", "how often everything is timed (default: %(default)s)", default=10)
    add_report(cluster)
    add_number(cluster, "--many", "photos of a large job (default: %(default)s)", default=240, metavar="PHOTOS")
    cluster.set_defaults(command=_cluster)

    first = commands.add_parser(
        "first-stage", help="share of people that the first stage keeps, by number of candidates"
    )
    add_annotations(first)
    first.add_argument("--model", help="ONNX file with its .safetensors beside it (default: posedet-s)")
    add_report(first)
    first.set_defaults(command=_first_stage)

    tiles = commands.add_parser("tiles", help="AP and time with and without tiles, on mosaics of annotated photos")
    add_annotations(tiles)
    tiles.add_argument("--model", help="ONNX file (default: posedet-s)")
    add_threads(tiles)
    add_report(tiles)
    tiles.set_defaults(command=_tiles)
    return parser


def _claims(options: argparse.Namespace) -> int:
    from lab.speed.claims import against_peers, claims_table, of_a_folder, of_one_model
    from lab.speed.throughput import time_folder
    from posedet.benchmark.comparison import columns, compare, comparison_dict, conditions

    claim_report(options, GENERATOR)
    photos = timed_photos(options)
    claims, details, lines = [], {}, ""
    if options.against:
        comparison = compare(with_peers(options), photos, rounds=options.rounds)
        claims = against_peers(comparison)
        details, lines = comparison_dict(comparison), f"\n\n{conditions(comparison)}"
    model = next(iter(own(options, "openvino" if options.against else "onnxruntime").values()))
    claims += of_one_model(model, photos, options.rounds)
    folder = time_folder(model, photos, options.rounds)
    claims += of_a_folder(folder)
    print(claims_table(claims) + lines)
    details["folder, ms for each photo"] = {work: columns(samples) for work, samples in folder.items()}
    write_results(options, {"claims": [claim.to_dict() for claim in claims], **details})
    return 0 if all(claim.holds for claim in claims) else 1


def _folder(options: argparse.Namespace) -> int:
    from lab.speed.throughput import folder_table, time_folder
    from posedet.benchmark.comparison import columns

    claim_report(options, GENERATOR)
    model = next(iter(own(options, "onnxruntime").values()))
    samples = time_folder(model, timed_photos(options), options.rounds, megapixels=options.megapixels)
    print(folder_table(samples))
    write_results(options, {"ms for each photo": {work: columns(timed) for work, timed in samples.items()}})
    return 0


def _growth(options: argparse.Namespace) -> int:
    from lab.speed.growth import draw_growth, growth_table, measure_growth

    claim_report(options, GENERATOR)
    alternatives = own(options, "onnxruntime")
    if len(alternatives) != 1:
        raise ConfigError(f"--engines {options.engines}: growth needs exactly one engine")
    curves = measure_growth(next(iter(alternatives.values())), timed_photos(options), options.rounds)
    print(growth_table(curves))
    results = {"engine": next(iter(alternatives)), "curves": {curve.name: curve.to_dict() for curve in curves}}
    write_results(options, results, lambda path: draw_growth(curves, path))
    return 0


def _sparse(options: argparse.Namespace) -> int:
    claim_report(options, GENERATOR)
    needs("python -m lab.speed sparse", "export", ("torch", "safetensors"))
    from lab.speed.sparse import refinement_table, time_refinement

    samples = time_refinement(cores(options), options.rounds)
    print(refinement_table(samples))
    write_results(options, {"samples": samples})
    return 0


def _video(options: argparse.Namespace) -> int:
    needs("python -m lab.speed video", "video", ("av",))
    claim_report(options, GENERATOR)
    from lab.speed.video import time_video, video_table

    samples = time_video([str(photo) for photo in find_photos([PHOTOS])], options.rounds, cores(options))
    print(video_table(samples))
    write_results(options, {"ms per frame": samples})
    return 0


def _endurance(options: argparse.Namespace) -> int:
    needs("python -m lab.speed endurance", "video", ("av",))
    claim_report(options, GENERATOR)
    from lab.speed.video import endurance, endure

    moments = endure([str(photo) for photo in find_photos([PHOTOS])], options.frames)
    result = endurance(moments)
    for name, value in result.items():
        print(f"{name}: {value}")
    write_results(options, {**result, "moments": moments})
    return 0


def _cluster(options: argparse.Namespace) -> int:
    needs("python -m lab.speed cluster", "parquet", ("pyarrow",))
    claim_report(options, GENERATOR)
    from lab.speed.cluster import jobs_table, time_jobs

    counts = (8, options.many)
    samples = time_jobs(find_photos([PHOTOS]), counts, options.rounds)
    print(jobs_table(samples, counts))
    write_results(options, {"photos": counts, "seconds": samples})
    return 0


def _first_stage(options: argparse.Namespace) -> int:
    needs("python -m lab.speed first-stage", "train", ("torch", "safetensors", "pycocotools", "yaml"))
    claim_report(options, GENERATOR)
    from lab.speed.sparse import first_stage, first_stage_table
    from posedet.benchmark.workers import file_for
    from posedet.runtime.detector import DEFAULT_MODEL
    from posedet.runtime.model_files import model_file

    weights = file_for(model_file(options.model or DEFAULT_MODEL), "pytorch")
    rows = first_stage(weights, annotated_photos(options, COCO))
    print(first_stage_table(rows))
    write_results(options, {"rows": [row._asdict() for row in rows]})
    return 0


def _tiles(options: argparse.Namespace) -> int:
    needs("python -m lab.speed tiles", "evaluate", ("pycocotools", "yaml"))
    claim_report(options, GENERATOR)
    from lab.speed.tiles import measure_tiles, tiles_table
    from posedet.runtime.detector import PoseDet

    detector = PoseDet(options.model, threads=options.threads, skeleton=COCO)
    rows = measure_tiles(detector, annotated_photos(options, COCO))
    print(tiles_table(rows))
    write_results(options, {"rows": [{**row._asdict(), "scores": row.scores.to_dict()} for row in rows]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
