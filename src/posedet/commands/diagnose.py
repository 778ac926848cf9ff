"""The commands that say what is wrong with a model: `posedet errors | stress | calibrate`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posedet.commands.options import (
    SOURCE_HELP,
    add_annotations,
    add_detector_options,
    annotated_photos,
    judged_detector,
    open_detector,
    photos_named_by,
    rules_for_results,
    source_of,
)
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line

if TYPE_CHECKING:
    from posedet.data.annotations import AnnotatedPhoto

# Of the protocols: those of COCO-style files, as they are.
_PLAIN_PROTOCOLS = ("coco", "crowdpose")


def add_commands(add: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one from its name, summary and example."""
    errors = add("errors", "what a model is bad at, as an HTML page", "errors coco-dev.json --output errors.html")
    add_annotations(errors)
    errors.add_argument("--output", type=Path, required=True, metavar="HTML", help="the page, complete in one file")
    errors.add_argument("--protocol", choices=_PLAIN_PROTOCOLS, help="the rules (default: that of the keypoints)")
    errors.add_argument(
        "--results", type=Path, metavar="FILE", help="results in COCO's format, of any program, in place of a model's"
    )
    add_detector_options(errors)
    errors.set_defaults(command=_errors)

    stress = add("stress", "AP on photos altered one way at a time", "stress coco-dev.json --output stress --count 100")
    add_annotations(stress)
    stress.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for stress.md, .json and .png")
    stress.add_argument("--protocol", choices=_PLAIN_PROTOCOLS, help="the rules (default: that of the keypoints)")
    stress.add_argument("--count", type=int, metavar="PHOTOS", help="take so many, evenly spread (default: all)")
    add_detector_options(stress)
    stress.set_defaults(command=_stress)

    calibrate = add(
        "calibrate", "are keypoint scores probabilities? measure and correct", "calibrate coco-dev.json --output report"
    )
    add_annotations(calibrate, f"of photos that were not trained on: {SOURCE_HELP}")
    calibrate.add_argument("--output", type=Path, required=True, help="folder for calibration.png and calibration.json")
    calibrate.add_argument(
        "--write", type=Path, metavar="FILE", help="weights with corrected keypoint scores; needs --model x.safetensors"
    )
    calibrate.add_argument(
        "--labelled",
        action="store_true",
        help="judge only by labelled keypoints: where those that are not labelled may be seen all the same",
    )
    add_detector_options(calibrate)
    calibrate.set_defaults(command=_calibrate)


def _errors(options: argparse.Namespace) -> int:
    needs("posedet errors", "evaluate", ("jinja2", "pycocotools", "yaml"))
    from posedet.diagnosis.error_report import report_errors

    truth, pictures = source_of(options).path.name, True
    if options.results is None:
        results, protocol = judged_detector(options)
        name, photos = results.about.name, annotated_photos(options, protocol.skeleton)
    else:
        photos, protocol = rules_for_results(options, "model", "long_side", "score_threshold")
        results, name = options.results, ""
        pictures = _are_there(options, photos)
    found, costs = report_errors(photos, results, protocol, options.output, truth=truth, name=name, pictures=pictures)
    for finding in found:
        print(f"- {finding.headline}. {finding.text}")
    print(f"\n{costs}\n\n-> {one_line(options.output)}")
    return 0


def _are_there(options: argparse.Namespace, photos: "Sequence[AnnotatedPhoto]") -> bool:
    """Whether there are photos for pictures; a page of results can do without, unless they are asked for."""
    from posedet.data.sources import check_photo_files

    if source_of(options).beside is None and not any(photo.path.is_file() for photo in photos):
        return False
    with photos_named_by("--photos FOLDER"):
        check_photo_files(photos)
    return True


def _stress(options: argparse.Namespace) -> int:
    needs("posedet stress", "evaluate", ("matplotlib", "pycocotools", "yaml"))
    from posedet.diagnosis.stress import stress

    if options.count is not None and options.count < 1:
        raise ConfigError(f"--count {options.count}: expected at least 1 photo")
    predict, protocol = judged_detector(options)
    photos = annotated_photos(options, protocol.skeleton)
    model, truth = options.model or predict.about.name, str(source_of(options).path)
    print(stress(predict, photos, protocol, options.output, truth=truth, count=options.count, model=model))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    needs("posedet calibrate", "evaluate", ("matplotlib", "yaml"))
    from posedet.diagnosis.calibration import calibration, keypoint_scores, plot_reliability
    from posedet.evaluation.report import write_report
    from posedet.runtime.model_files import model_file

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
    photos = annotated_photos(options, detector.skeleton)
    found = keypoint_scores(detector, photos)
    measured = calibration(found, labelled=options.labelled)
    people = {"num_photos": len(photos), "num_people": len(found.photos), "labelled": options.labelled}
    write_report(options.output / "calibration.json", {"model": detector.about.name, **people, **measured.to_dict()})
    plot_reliability(measured, options.output / "calibration.png")
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
    from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton
    from posedet.weights.keypoints import corrected_keypoint_scores

    tensors, config, info = load_weights(weights)
    corrected = corrected_keypoint_scores(tensors, *correction)
    save_weights(output, corrected, config, stored_skeleton(info, weights), info)
