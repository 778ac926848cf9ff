"""The commands that show what is wrong with a model: `posedet errors | stress | calibrate`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posedet.commands.options import (
    SOURCE_HELP,
    AddCommand,
    add_annotations,
    add_detector_options,
    add_keypoints,
    add_number,
    add_output,
    annotated_photos,
    check_scored,
    claim,
    judged_detector,
    open_detector,
    photos_named_by,
    rules_for_results,
    source_of,
)
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line
from posedet.outputs import make_folder

if TYPE_CHECKING:
    from posedet.data.annotations import AnnotatedPhoto


def add_commands(add: AddCommand) -> None:
    errors = add("errors", "what a model gets wrong, as an HTML page", "errors coco-dev.json --output errors.html")
    add_annotations(errors)
    add_output(errors, "the page to write, one file", metavar="HTML")
    _add_protocol(errors)
    errors.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="examine an existing results file (COCO format, from any program) instead of running a model",
    )
    add_detector_options(errors)
    errors.set_defaults(command=_errors)

    stress = add("stress", "AP on photos altered one way at a time", "stress coco-dev.json --output stress --count 100")
    add_annotations(stress)
    add_output(stress, "folder for stress.md, stress.json and stress.png")
    _add_protocol(stress)
    add_number(stress, "--count", "use only this many photos, evenly spaced (default: all)", metavar="PHOTOS")
    add_detector_options(stress)
    stress.set_defaults(command=_stress)

    calibrate = add(
        "calibrate",
        "measure how well keypoint scores and covariances match reality, and correct the scores",
        "calibrate dev.json --output report",
    )
    add_annotations(calibrate, f"photos that the model was not trained on: {SOURCE_HELP}")
    add_output(calibrate, "folder for calibration.png and calibration.json")
    calibrate.add_argument(
        "--write", type=Path, metavar="FILE", help="write weights with corrected scores; needs --model x.safetensors"
    )
    calibrate.add_argument(
        "--labelled",
        action="store_true",
        help="judge only labelled keypoints: for annotations that leave visible keypoints unlabelled",
    )
    calibrate.add_argument(
        "--covariances", action="store_true", help="measure the ellipses of keypoints, too; the model must have them"
    )
    add_detector_options(calibrate)
    calibrate.set_defaults(command=_calibrate)


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add the protocols that take COCO-style files as they are, and whether they need all keypoints."""
    add_keypoints(parser)
    parser.add_argument(
        "--protocol", choices=("coco", "crowdpose"), help="rules (default: the ones that fit the keypoints)"
    )


def _errors(options: argparse.Namespace) -> int:
    needs("posedet errors", "evaluate", ("jinja2", "pycocotools", "yaml"))
    from posedet.diagnosis.error_report import GENERATOR, report_errors

    claim(options, GENERATOR, [options.output])
    truth, pictures = source_of(options).path.name, True
    if options.results is None:
        results, protocol = judged_detector(options)
        name, photos = results.about.name, annotated_photos(options, protocol.skeleton)
    else:
        photos, protocol = rules_for_results(options)
        results, name = options.results, ""
        pictures = _has_photo_files(options, photos)
    scored = check_scored(photos, protocol, source_of(options))
    found, costs = report_errors(photos, results, protocol, options.output, truth=truth, name=name, pictures=pictures)
    for finding in found:
        print(f"- {finding.headline}. {finding.text}")
    print(f"\n{costs}\n\n{scored}\n-> {one_line(options.output)}")
    return 0


def _has_photo_files(options: argparse.Namespace, photos: "Sequence[AnnotatedPhoto]") -> bool:
    """Whether the page can show pictures. Missing photos are an error only if the user has named their folder."""
    from posedet.data.sources import check_photo_files

    if source_of(options).beside is None and not any(os.path.isfile(photo.path) for photo in photos):
        return False
    with photos_named_by("--photos FOLDER"):
        check_photo_files(photos)
    return True


def _stress(options: argparse.Namespace) -> int:
    needs("posedet stress", "evaluate", ("matplotlib", "pycocotools", "yaml"))
    from posedet.diagnosis.stress import GENERATOR, stress

    claim(options, GENERATOR, [options.output / f"stress.{kind}" for kind in ("md", "json", "png")])
    predict, protocol = judged_detector(options)
    photos = annotated_photos(options, protocol.skeleton)
    check_scored(photos, protocol, source_of(options))
    model, truth = options.model or predict.about.name, str(source_of(options).path)
    print(stress(predict, photos, protocol, options.output, truth=truth, count=options.count, model=model))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    needs("posedet calibrate", "evaluate", ("matplotlib", "yaml"))
    from posedet.diagnosis.calibration import GENERATOR, calibration, coverage, found_people, plot_reliability
    from posedet.evaluation.report import write_report
    from posedet.runtime.model_files import model_file

    weights = None if options.model is None else model_file(options.model)
    if options.write is not None and (weights is None or weights.suffix != ".safetensors"):
        raise ConfigError("--write: needs --model x.safetensors; `posedet export` turns the result into ONNX")
    reports = [options.output / f"calibration.{kind}" for kind in ("json", "png")]
    claim(options, GENERATOR, reports if options.write is None else [*reports, options.write])
    make_folder(options.output)
    detector = open_detector(options, covariances=options.covariances)
    photos = annotated_photos(options, detector.skeleton)
    found = found_people(detector, photos)
    ellipses = coverage(found)
    measured = calibration(found, labelled=options.labelled)
    people: dict[str, Any] = {"num_photos": len(photos), "num_people": len(found.photos), "labelled": options.labelled}
    if ellipses:
        people["ellipses"] = [each._asdict() for each in ellipses]
    results = {"model": detector.about.name, **people, **measured.to_dict()}
    write_report(options.output / "calibration.json", GENERATOR, results)
    plot_reliability(measured, options.output / "calibration.png")
    what = "labelled keypoints" if options.labelled else "keypoints"
    slope, offset = measured.correction
    print(
        f"{measured.num_keypoints} {what} of {len(found.photos)} detected people; {measured.share_seen:.1%} are "
        f"visible\nexpected calibration error {measured.as_is.error:.3f}; corrected (cross-validated) "
        f"{measured.corrected.error:.3f}: logit -> {slope:.3f} * logit {offset:+.3f}"
    )
    for each in ellipses:
        print(each)
    if options.write is not None and weights is not None:
        from posedet.weights.checkpoint import load_weights, save_weights, stored_skeleton
        from posedet.weights.keypoints import corrected_keypoint_scores

        tensors, config, info = load_weights(weights)
        corrected = corrected_keypoint_scores(tensors, *measured.correction)
        save_weights(options.write, GENERATOR, corrected, config, stored_skeleton(info, weights), info)
        print(f"weights with this correction -> {one_line(options.write)}")
    return 0
