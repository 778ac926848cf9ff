"""AP of one model on crowded or cut people: CrowdPose, OCHuman and cropped COCO in one table."""

from collections.abc import Mapping
from pathlib import Path

from lab.paper import GENERATOR
from lab.paper.evaluations import evaluated, open_for
from posedet.commands.options import photos_named_by
from posedet.data.sources import Source, read_photos
from posedet.errors import ConfigError, PoseDetError
from posedet.evaluation.keypoint_ap import KeypointAP
from posedet.evaluation.protocols import PROTOCOLS
from posedet.evaluation.report import markdown_table, write_report
from posedet.outputs import make_folder, write_markdown
from posedet.runtime.detector import PoseDet

# Protocol -> label of its row. The command has an option for each protocol.
SETS = {"crowdpose": "CrowdPose", "ochuman": "OCHuman", "cropped": "COCO, cropped"}
COLUMNS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "APm": "ap_medium",
    "APl": "ap_large",
    "AP easy": "ap_easy",
    "AP medium": "ap_medium_crowd",
    "AP hard": "ap_hard",
    "AR": "ar",
}
REMARK = (
    "APm and APl split people by size; AP easy, medium and hard split photos by crowd index. Cropped: a straight cut "
    "removes 25 to 60 % of one person in each photo, and keypoints beyond the cut count."
)


def reproduce_crowds(model: Path, sets: Mapping[str, Source], output: Path, *, device: str = "cpu") -> str:
    """Evaluate a model on each set, write crowds.md and crowds.json into `output`, and return the Markdown.

    sets: key of `SETS` -> annotated photos; some may be missing. Evaluations in `output` are reused. Raises ConfigError
    if there is no set, or if the model lacks keypoints of one; DataError as `evaluate`.
    """
    if not sets:
        raise ConfigError(f"nothing to evaluate: give at least one of {', '.join(f'--{name}' for name in SETS)}")
    if device != "cpu" and model.suffix != ".safetensors":
        raise ConfigError(f"--device {device} needs PyTorch weights: --model x.safetensors")
    session = open_for(model, device)
    photos = {}
    for name, source in sets.items():
        with photos_named_by(f"--{name} {source.path}:FOLDER"):
            photos[name] = read_photos(source, PROTOCOLS[name].skeleton)
        try:
            PoseDet(session, skeleton=PROTOCOLS[name].skeleton)
        except PoseDetError as error:
            raise ConfigError(f"--{name} does not go with {model.name}: {error}") from None
    make_folder(output)
    found = {
        name: evaluated(session, model, photos[name], PROTOCOLS[name], output, truth=str(sets[name]), label=label)
        for name, label in SETS.items()
        if name in sets
    }
    text = "\n\n".join((f"**{session.about.name} in crowds**", _table(found), REMARK)) + "\n"
    rows = {
        name: {"data": str(sets[name]), **found[name].to_dict()} if name in found else {"note": _why_not(name)}
        for name in SETS
    }
    write_report(output / "crowds.json", GENERATOR, {"model": str(model), "sets": rows})
    write_markdown(output / "crowds.md", GENERATOR, text)
    return text


def _table(found: Mapping[str, KeypointAP]) -> str:
    lines = [["", "photos", "people", *COLUMNS, ""]]
    for name, label in SETS.items():
        if name not in found:
            lines.append([label, *["-"] * (2 + len(COLUMNS)), _why_not(name)])
            continue
        scores = found[name]
        points = [getattr(scores, field) for field in COLUMNS.values()]
        cells = ["-" if each is None or each < 0 else f"{100 * each:.1f}" for each in points]
        lines.append([label, f"{scores.num_photos:,}", f"{scores.num_persons:,}", *cells, ""])
    return markdown_table(lines)


def _why_not(name: str) -> str:
    return f"not run: no --{name}"
