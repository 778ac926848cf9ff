"""The errors of a model as one HTML page: findings in words first, then the numbers and pictures behind them.

Everything is inside the file, pictures too: it opens without a network, and holds no script.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from posedet.data.annotations import AnnotatedPhoto
from posedet.diagnosis.calibration import Reliability
from posedet.diagnosis.findings import Finding, findings
from posedet.diagnosis.groups import Group, groups, keypoint_reliability, score_reliability
from posedet.diagnosis.matching import KINDS, Correction, Joint, Matching, corrections, joints, match
from posedet.diagnosis.page import GREY, Curve, bar, chart, details, page, section, table
from posedet.diagnosis.pictures import Kind, best_cases, picture, worst_cases
from posedet.errors import ConfigError, DataError
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import Protocol
from posedet.evaluation.report import make_output, markdown_table
from posedet.evaluation.run import Predict, person_category, predict_all
from posedet.files import one_line, write_atomically

COLOURS = ("#3a9d5d", "#e6c34a", "#d9483b", "#8b5fbf", "#9aa3ad")  # of `KINDS`
BLUE, ORANGE = "#2f6fde", "#e07b1f"

MEANINGS = {
    "jitter": "near the true place, but less exactly than people mark it",
    "inversion": "on the same person's other side: left taken for right",
    "swap": "on somebody else",
    "miss": "far from every place where it could belong",
    "all keypoints": "the four together, and each keypoint put exactly right",
    "order of scores": "a worse pose has a higher score than a better one",
    "false positives": "poses where the truth has nobody",
    "duplicates": "a second pose of a person already found",
    "missed people": "no pose comes near them",
}

OF_WHAT = {"order of scores": "poses", "false positives": "poses", "duplicates": "poses", "missed people": "people"}


def report_errors(
    photos: Sequence[AnnotatedPhoto],
    results: Path | Predict,
    protocol: Protocol,
    output: Path,
    *,
    truth: str,
    name: str = "",
    pictures: bool = True,
) -> tuple[list[Finding], str]:
    """Analyse results, write the page, and return its findings, and what each error costs as a Markdown table.

    photos: with the protocol's keypoints. results: a file in COCO's format, or what predicts poses with the protocol's
    keypoints, weak ones too. truth, name: what the page calls the photos and the model; of a file its name if not
    given. pictures: or a page without, for which the photos of a file of results need not be there. Raises DataError as
    `evaluate_keypoints`, or where nobody is to find or nothing was predicted, ConfigError if `output` is a folder, and
    PhotoError for a photo that cannot be read.
    """
    match(photos, [], protocol)  # what is wrong shall be known before minutes of predicting
    make_output(output.parent)
    if output.is_dir():
        raise ConfigError(f"{one_line(output)}: a folder; give the page a name in it, such as errors.html")
    files = {photo.image_id: photo.path for photo in photos}
    category_id = person_category(photos, protocol)
    found = results if isinstance(results, Path) else predict_all(results, files.items(), category_id=category_id)
    matching = match(photos, found, protocol)
    content, said, costs = error_page(
        matching,
        evaluate_keypoints(photos, found, protocol),
        files if pictures else None,
        model=name or Path(str(results)).name,
        truth=truth,
    )
    write_atomically(output, content.encode(errors="backslashreplace"))  # names may be no Unicode
    return said, _costs_in_short(matching, costs)


def error_page(
    matching: Matching, scores: KeypointAP, photos: Mapping[int, Path] | None, *, model: str, truth: str
) -> tuple[str, list[Finding], list[Correction]]:
    """The page, its findings, and what each error costs, the dearest first and that of all keypoints last.

    model, truth: what the page calls them. photos: image id -> file, None for no pictures.
    """
    if not matching.to_find.any() or not matching.poses:
        what = "no person to find" if matching.poses else "no pose predicted"
        raise DataError(f"{truth}: {what} in {len(matching.photos)} photos, so there are no errors to show")
    costs = sorted(corrections(matching), key=lambda cost: (cost.name == "all keypoints", -cost.ap))
    parts, by_joint = groups(matching), joints(matching)
    trust = score_reliability(matching), keypoint_reliability(matching)
    found = findings(matching, costs, parts, by_joint, *trust)
    sections = [
        _opening(scores, model, truth, found),
        _costs(matching, costs),
        _gallery("What it looks like", worst_cases(matching), matching, photos),
        _people(parts),
        _keypoints(by_joint),
        _precision(matching),
        _trust(*trust),
        _gallery("The best", [best_cases(matching)], matching, photos),
    ]
    return page(f"What {model} gets wrong", sections), found, costs


def _opening(scores: KeypointAP, model: str, truth: str, found: Sequence[Finding]) -> str:
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_medium": "AP medium", "ap_large": "AP large", "ar": "AR"}
    tiles = "".join(
        f"<div><b>{_points(getattr(scores, field))}</b><span>{name}</span></div>" for field, name in names.items()
    )
    items = "".join(f"<li><b>{escape(each.headline)}.</b> {escape(each.text)}</li>" for each in found)
    return (
        f"<h1>What {escape(model)} gets wrong</h1>\n"
        f'<p class="soft">{scores.num_poses:,} poses in the {scores.num_photos:,} photos of {escape(truth)}, '
        f"{scores.num_persons:,} people to find, scored by the rules of {escape(scores.protocol)}.</p>\n"
        f'<section><h2>In short</h2><ol class="findings">{items}</ol><div class="numbers">{tiles}</div>'
        "<p class=soft>OKS says how near a pose is to the true one: 1 is exact, from 0.5 on a person counts as found. "
        "AP, 0 to 100, is how well all people are found without false poses, on average over OKS 0.5 to 0.95; AP50 and "
        "AP75 ask for an OKS of 0.5 and 0.75. AR is the share of the people found.</p></section>"
    )


def _costs(matching: Matching, costs: Sequence[Correction]) -> str:
    ap = matching.ap()
    *order, together = costs
    most = max(0.01, *(cost.ap - ap for cost in order))
    rows = [
        [
            f"<b>{escape(cost.name)}</b><br><span class=soft>{escape(MEANINGS[cost.name])}</span>",
            f"{cost.num_errors:,}",
            "" if cost is together else bar((cost.ap - ap) / most),
            f"{100 * (cost.ap - ap):+.1f}",
            _points(cost.ap),
            _points(cost.ap50),
            _points(cost.ap75),
        ]
        for cost in costs
    ]
    return section(
        "What each error costs",
        f"AP is {_points(ap)}. Each row puts one kind of error right, and only that: how far AP would rise. Gains do "
        "not add up, since a pose can have several errors.",
        table(["error", "how many", "gain", "", "AP", "AP50", "AP75"], rows, bars=(2,)),
        details(
            "A keypoint of a person found (OKS from 0.1 on) is compared with the truth by its share of OKS, 0 to 1: "
            "good from 0.85 on, jitter from 0.5 on; below, an inversion or a swap if it comes to 0.5 with the other "
            "side of the person or with somebody else, or else a miss. Put right means: a jitter moved to where it is "
            "just good, a miss to where it is a jitter, an inversion or swap as near to the right place as it was to "
            "the wrong one (Ronchi and Perona, 2017). Order of scores: each pose scored by its true OKS. False "
            "positives and duplicates are left out (which can lower AP, where a second pose fits better than the "
            "first), missed people not asked for."
        ),
    )


def _costs_in_short(matching: Matching, costs: Sequence[Correction]) -> str:
    rows = [["put right", "how many", "AP", "gain"]]
    for name, number, ap, *_ in costs:
        rows.append(
            [name, f"{number:,} {OF_WHAT.get(name, 'keypoints')}", _points(ap), f"{100 * (ap - matching.ap()):+.1f}"]
        )
    return markdown_table(rows)


def _gallery(title: str, kinds: Sequence[Kind], matching: Matching, photos: Mapping[int, Path] | None) -> str:
    if photos is None:
        return ""
    parts = []
    for kind in kinds:
        figures = []
        for case in kind.cases:
            content = base64.b64encode(picture(matching, case, photos)).decode()
            caption = escape(case.caption)
            figures.append(
                f'<figure><img alt="{caption}: predicted and true pose" src="data:image/jpeg;base64,{content}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
        parts.append(f"<h3>{kind.title}</h3><p class=soft>{kind.text}</p><div class=cases>{''.join(figures)}</div>")
    return section(
        title,
        "Left what was predicted, right the truth. The person's left side is blue, the right one orange; hollow dots "
        "are hidden.",
        *parts,
    )


def _people(parts: Mapping[str, Sequence[Group]]) -> str:
    titles = {
        "size": "By size (root of the person's area)",
        "labelled keypoints": "By number of labelled keypoints",
        "overlapping people": "By crowding (whose boxes overlap)",
    }
    most = max(0.01, *(group.ap for split in parts.values() for group in split))
    tables = []
    for name, split in parts.items():
        rows = [
            [
                escape(group.name),
                f"{group.num_people:,}",
                bar(group.ap / most),
                _points(group.ap),
                f"{100 * group.found:.0f} %",
                f"{100 * group.exact:.0f} %",
            ]
            for group in split
            if group.num_people
        ]
        heads = ["", "people", "AP", "", "found at 0.5", "at 0.75"]
        tables.append(f"<h3>{titles[name]}</h3>{table(heads, rows, bars=(2,))}")
    return section(
        "For whom it works",
        "The same poses, for some of the people only. Found: the share who have a pose of that OKS, whatever its "
        "score. Small groups say little.",
        *tables,
        details(
            "AP of a group counts its people as the only ones to find; poses of others are left out. A false positive "
            "belongs to nobody, so each group takes its share of them (Hoiem et al., 2012): groups compare, and the "
            "AP of all people together is COCO's. Boxes overlap from an intersection over union of 0.1 on."
        ),
    )


def _keypoints(by_joint: Sequence[Joint]) -> str:
    key = "".join(f'<span><i style="background:{c}"></i>{kind}</span>' for c, kind in zip(COLOURS, KINDS, strict=True))
    rows = []
    for joint in by_joint:
        parts = zip(COLOURS, joint.shares, strict=True)
        stack = "".join(f'<i style="width:{100 * share:.2f}%;background:{colour}"></i>' for colour, share in parts)
        cells = [escape(joint.name.replace("_", " ")), f"<div class=stack>{stack}</div>"]
        shares = [f"{100 * share:.0f} %" if joint.num_judged else "" for share in joint.shares]
        rows.append([*cells, *shares, f"{100 * joint.median_error:.0f} %", f"{joint.num_judged:,}"])
    heads = ["", "", *KINDS, "median error", "judged"]
    return section(
        "Which keypoints",
        "Of people found, how each keypoint fares. The median error is a share of the person's size, the root of the "
        "area.",
        f"<div class=key>{key}</div>",
        table(heads, rows, bars=(1,)),
    )


def _precision(matching: Matching) -> str:
    recalls = np.linspace(0, 1, 101).tolist()
    shown: dict[str, tuple[int | slice, str]] = {
        "OKS 0.50": (0, BLUE),
        "OKS 0.75": (5, ORANGE),
        "mean of 0.50 to 0.95": (slice(None), GREY),
    }
    curves = []
    for name, (threshold, colour) in shown.items():
        values = np.moveaxis(matching.precision[threshold], -2, 0).reshape(101, -1)
        curve = values[:, values[0] > -1].mean(axis=1)
        curves.append(Curve(f"{name}: AP {_points(float(curve.mean()))}", colour, recalls, curve.tolist()))
    return section(
        "Precision and recall",
        "From the surest pose to the weakest: which share of the people is found (recall), and which share of the "
        "poses up to there is right (precision). Where a curve falls to 0, the rest of the people is never found.",
        chart(curves, "recall", "precision"),
    )


def _trust(of_scores: Reliability | None, of_keypoints: Reliability | None) -> str:
    def half(title: str, text: str, curve: Reliability | None, x_label: str, y_label: str) -> str:
        if curve is None:
            return f"<div><h3>{title}</h3><p class=soft>Not to be measured here: {text}</p></div>"
        some = curve.counts > 0
        line = Curve(
            f"expected calibration error {curve.error:.3f}",
            BLUE,
            curve.predicted[some].tolist(),
            curve.observed[some].tolist(),
        )
        bars = (curve.counts / curve.counts.sum()).tolist()
        return f"<div><h3>{title}</h3><p class=soft>{text}</p>{chart([line], x_label, y_label, bars=bars)}</div>"

    return section(
        "Can scores be trusted?",
        "On the diagonal a score of 0.7 comes true 7 times in 10; above it scores promise too little, below too much. "
        "Bars: the share of the scores that lies there.",
        "<div class=pair>"
        + half(
            "Person scores",
            "Right is a pose that COCO's rules match with somebody at an OKS of 0.5; poses on ignored people are left "
            "out.",
            of_scores,
            "person score",
            "share that is right",
        )
        + half(
            "Keypoint scores",
            "Labelled keypoints of people found at an OKS of 0.5: did the annotators flag them as seen, or as hidden?",
            of_keypoints,
            "keypoint score",
            "share that is seen",
        )
        + "</div>",
    )


def _points(ap: float) -> str:
    return f"{100 * ap:.1f}" if ap >= 0 else "-"
