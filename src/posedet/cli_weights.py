"""The commands about models that are there already: `posedet weights list | fetch`, and `posedet calibrate`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from posedet.cli_predict import add_detector_options, open_detector
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line, photo_folder


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    weights = add("weights", "list or fetch released models", "weights list")
    whats = weights.add_subparsers(required=True, metavar="WHAT")
    listing = whats.add_parser("list", help="the models known by name, their sizes, and where they are")
    listing.set_defaults(command=_list)
    fetch = whats.add_parser("fetch", help="have a model's file at hand, and print where it is")
    fetch.add_argument("model", metavar="NAME|URL|PATH", help="a name, a path, or https://...#sha256=HEX")
    fetch.add_argument("--offline", action="store_true", help="download nothing (as POSEDET_OFFLINE=1 does everywhere)")
    fetch.set_defaults(command=_fetch)

    calibrate = add(
        "calibrate", "are keypoint scores probabilities? measure and correct", "calibrate coco-dev.json --output report"
    )
    calibrate.add_argument("annotations", type=Path, help="COCO-style keypoint JSON of photos that were not trained on")
    calibrate.add_argument("--photos", type=Path, help="folder of the photos (default: beside the JSON, same name)")
    calibrate.add_argument("--output", type=Path, required=True, help="folder for calibration.png and calibration.json")
    calibrate.add_argument(
        "--write", type=Path, metavar="FILE", help="weights with corrected keypoint scores; needs --model x.safetensors"
    )
    calibrate.add_argument(
        "--labelled",
        action="store_true",
        help="judge by labelled keypoints alone: where those that are not labelled may be seen all the same",
    )
    add_detector_options(calibrate)
    calibrate.set_defaults(command=_calibrate)


def _list(_: argparse.Namespace) -> int:
    from posedet.weights import RELEASES, cache_folder, present

    width = max(map(len, RELEASES))
    for name, release in RELEASES.items():
        path = present(name)
        where = one_line(path) if path else f"to be fetched from {release.url}"
        where = where if release.url else "in the package"
        print(f"{name:<{width}}  {release.num_bytes / 1e6:6.1f} MB  {where}")
    print(f"cache: {one_line(cache_folder())}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from posedet.weights import model_file

    print(one_line(model_file(options.model, offline=options.offline)))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    needs("calibrate", "train", ("matplotlib",))
    from posedet.data.annotations import read_annotations
    from posedet.evaluation.calibration import calibration, keypoint_scores, plot
    from posedet.evaluation.report import write_report
    from posedet.weights import model_file

    weights = None if options.model is None else model_file(options.model)
    if options.write is not None and (weights is None or weights.suffix != ".safetensors"):
        raise ConfigError(
            "--write: needs weights to correct, --model x.safetensors; `posedet export` makes ONNX of them"
        )
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {one_line(options.output)}: {error.strerror}; choose another folder") from None
    detector = open_detector(options)
    folder = options.photos or photo_folder(options.annotations)
    photos = read_annotations(options.annotations, folder, detector.skeleton)
    found = keypoint_scores(detector, photos)
    measured = calibration(found, labelled=options.labelled)
    people = {"num_photos": len(photos), "num_people": len(found.photos), "labelled": options.labelled}
    write_report(options.output / "calibration.json", {"model": detector.about.name, **people, **measured.to_dict()})
    plot(measured, options.output / "calibration.png")
    what = "labelled keypoints" if options.labelled else "keypoints"
    slope, offset = measured.correction
    print(
        f"{measured.num_keypoints} {what} of {len(found.photos)} people found, {measured.share_seen:.1%} of them seen"
    )
    print(f"expected calibration error {measured.as_is.error:.3f}; corrected, on photos not fitted on, ", end="")
    print(f"{measured.corrected.error:.3f}: logit -> {slope:.3f} * logit {offset:+.3f}")
    if options.write is not None and weights is not None:
        _write_corrected(weights, options.write, measured.correction)
        print(f"weights with this correction -> {one_line(options.write)}")
    return 0


def _write_corrected(weights: Path, output: Path, correction: tuple[float, float]) -> None:
    from posedet.training.checkpoint import load_weights, save_weights, stored_skeleton
    from posedet.training.joints import corrected_keypoint_scores

    tensors, config, info = load_weights(weights)
    corrected = corrected_keypoint_scores(tensors, *correction)
    save_weights(output, corrected, config, stored_skeleton(info, weights), info)
