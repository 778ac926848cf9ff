"""The command `posedet evaluate`."""

import argparse
from pathlib import Path

from posedet.commands.options import (
    AddCommand,
    add_annotations,
    add_detector_options,
    add_keypoints,
    add_number,
    add_output,
    add_tiles,
    annotated_photos,
    check_scored,
    claim,
    judged_detector,
    photos_named_by,
    rules_for_results,
    settings_of,
    source_of,
)
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line


def add_commands(add: AddCommand) -> None:
    evaluate = add("evaluate", "keypoint AP of a model on annotated photos", "evaluate coco-dev.json --output report")
    add_annotations(evaluate)
    add_keypoints(evaluate)
    evaluate.add_argument(
        "--protocol",
        choices=("coco", "crowdpose", "ochuman", "cropped"),
        help="rules of a benchmark (default: the one that fits the keypoints, or else COCO's); cropped: COCO's, on "
        "photos cut so that people extend beyond the border",
    )
    evaluate.add_argument(
        "--tta",
        choices=("paper", "merged"),
        help="test-time augmentation with six sizes, each also mirrored; duplicates are dropped as in the paper, or "
        "averaged (merged: scores higher)",
    )
    evaluate.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="score an existing results file (COCO format, from any program) instead of running a model",
    )
    add_output(
        evaluate,
        "folder for results.json and report.json; for a list of images without annotations (COCO test-dev), for a zip "
        "file that the benchmark's server takes",
        required=False,
    )
    add_detector_options(evaluate)
    add_tiles(evaluate)
    add_number(evaluate, "--batch", "photos or tiles of one size per run (default: 1); faster on GPUs", metavar="N")
    evaluate.set_defaults(command=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    needs("posedet evaluate", "evaluate", ("pycocotools", "yaml"))
    from posedet.evaluation.report import score_table
    from posedet.evaluation.run import GENERATOR, evaluate, evaluate_file
    from posedet.evaluation.submission import read_image_list, submission_file, write_submission
    from posedet.runtime.tta import Augmented

    if options.output is not None:
        written = ("report.json",) if options.results is not None else ("report.json", "results.json")
        claim(options, GENERATOR, [options.output / name for name in written])
    if options.results is not None:
        if options.protocol == "cropped":
            raise ConfigError("--protocol cropped does not go with --results: it cuts photos before they are predicted")
        photos, protocol = rules_for_results(options, "tta", "tiles", "photos", "batch")
        scores = evaluate_file(options.results, photos, protocol, output=options.output, truth=options.annotations)
        print(scores.scored_keypoints, score_table({f"{options.results}, {protocol.name}": scores}), sep="\n\n")
        return 0
    if options.tta and options.long_side:
        raise ConfigError("--long-side does not go with --tta, which has six sizes of its own")
    batch = options.batch or 1
    if options.tta and batch > 1:
        raise ConfigError("--batch does not go with --tta, which takes one photo at a time")
    detector, protocol = judged_detector(options)
    name = options.model or detector.about.name
    predict = Augmented(detector, merge=options.tta) if options.tta else detector
    settings = settings_of(options, detector) | {"tta": options.tta}
    source = source_of(options)
    with photos_named_by("--photos FOLDER"):
        images = read_image_list(source)
    if images is not None:
        if options.output is None or protocol.view == "cropped":
            needed = "--output, a folder for the results" if options.output is None else "a protocol for whole photos"
            raise ConfigError(f"{source.path}: has no annotations to score by, so it needs {needed}")
        claim(options, GENERATOR, [submission_file(options.output, source.path, detector.about.name)])
        made = write_submission(
            predict,
            images,
            protocol,
            options.output,
            images=source.path,
            model=detector.about.name,
            settings=settings,
            batch=batch,
        )
        print(f"no annotations: {made.num_poses} poses in {made.num_photos} photos -> {one_line(made.file)}")
        return 0
    photos = annotated_photos(options, protocol.skeleton)
    check_scored(photos, protocol, source)
    scores = evaluate(
        predict,
        photos,
        protocol,
        output=options.output,
        model=name,
        truth=options.annotations,
        settings=settings,
        batch=batch,
    )
    label = f"{name}, {protocol.name}" + (f", --tta {options.tta}" if options.tta else "")
    print(scores.scored_keypoints, score_table({label: scores}), sep="\n\n")
    return 0
