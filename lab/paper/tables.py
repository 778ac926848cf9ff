"""Tables 1 to 5 of the paper as plain data, and two comparisons of ours: what is trained, and what the paper reports.

A table names its training runs and, for each row, the run that it is measured on: rows that differ in the suppression
of duplicates alone share one, and so do tables that are written into the same folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table."""

    label: str
    run: str | None = None  # that it is measured on; None: another method, which is not ours to run
    decode: Mapping[str, object] = field(default_factory=dict)  # settings of this row alone, which need no training
    paper: tuple[float, ...] = ()  # one for each of the table's columns; empty: none reported


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one choice is worth: the mean over pairs of rows that differ in nothing else."""

    label: str
    pairs: tuple[tuple[int, int], ...]  # places of the row with it, and of the row without


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: its runs, its rows."""

    name: str
    title: str
    protocol: Literal["coco", "crowdpose"]  # of the paper's figures
    columns: tuple[str, ...]  # of the paper's figures: points, but for FPS (photos a second)
    tta: bool = False
    preset: str | None = None  # of all runs, unless another is asked for; None: each run is the preset of its name
    runs: Mapping[str, tuple[str, ...]]  # name -> settings that differ from the preset
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...] = ()
    remark: str


# What the ablations start from, said outright: a preset that is chosen instead of the paper's may have it otherwise.
# A last refinement at each keypoint alone, which is ours, would hide what the paper's representation is worth.
BASE = (
    "model.representation='pose'",
    "model.local_channels=0",
    "model.heatmaps=true",
    "assign.centre='keypoints'",
)
ABLATED = "hrnet-w48-crowdpose"

_CROWD = ("AP", "AP50", "AP75", "AP easy", "AP medium", "AP hard")
_COCO = ("AP", "AP50", "AP75", "APm", "APl")

TABLE1 = Table(
    name="table1",
    title="Table 1: COCO, single scale",
    protocol="coco",
    columns=("FPS", *_COCO),
    runs={name: () for name in ("hrnet-w48-coco", "hrnet-w32-coco", "dla34-coco", "posedet-s")},
    rows=(
        Row(label="Associative Embedding, Hourglass-4, 512", paper=(4, 56.6, 81.8, 61.8, 49.8, 67.0)),
        Row(label="CMU-Pose, 3CM-3PAF (102), 368", paper=(10, 61.8, 84.9, 67.5, 57.1, 68.2)),
        Row(label="PersonLab, ResNet-152, 1401", paper=(2, 66.5, 88.0, 72.6, 62.4, 72.3)),
        Row(label="HigherHRNet, HRNet-W48, 640", paper=(4, 65.7, 86.3, 72.3, 60.8, 72.6)),
        Row(label="Point-set Anchors, HRNet-W48, 640", paper=(4, 67.4, 88.3, 74.6, 64.7, 73.0)),
        Row(label="PoseDet, HRNet-W48, 640", run="hrnet-w48-coco", paper=(10, 66.2, 87.5, 73.2, 62.3, 73.2)),
        Row(label="PoseDet, HRNet-W32, 512", run="hrnet-w32-coco", paper=(18, 64.4, 86.7, 71.0, 58.8, 73.3)),
        Row(label="PoseDet, DLA-34, 512", run="dla34-coco", paper=(42, 59.2, 84.3, 64.6, 52.7, 68.8)),
        Row(label="posedet-s (ours), MobileNetV2", run="posedet-s"),
    ),
    remark="The paper's figures are of COCO test-dev, whose truth is not public, after training on COCO train2017; FPS "
    "on a GTX 1080Ti, for ours see `posedet benchmark`.",
)

TABLE2 = Table(
    name="table2",
    title="Table 2: COCO, test-time augmentation",
    protocol="coco",
    columns=_COCO,
    tta=True,
    runs={name: () for name in ("hrnet-w48-coco", "hrnet-w32-coco", "posedet-s")},
    rows=(
        Row(label="PersonLab, ResNet-152", paper=(68.7, 89.0, 75.4, 64.1, 75.5)),
        Row(label="Associative Embedding, Hourglass-4", paper=(65.5, 86.8, 72.3, 60.6, 72.6)),
        Row(label="SPM, Hourglass-8", paper=(66.9, 88.5, 72.9, 62.6, 73.1)),
        Row(label="HigherHRNet, HRNet-W48", paper=(70.5, 89.3, 77.2, 66.6, 75.8)),
        Row(label="Point-set Anchors, HRNet-W48", paper=(68.7, 89.9, 76.3, 64.8, 75.3)),
        Row(label="PoseDet, HRNet-W48", run="hrnet-w48-coco", paper=(67.8, 89.3, 75.0, 63.3, 75.5)),
        Row(label="PoseDet, HRNet-W32", run="hrnet-w32-coco", paper=(66.7, 88.5, 73.7, 62.2, 75.5)),
        Row(label="posedet-s (ours), MobileNetV2", run="posedet-s"),
    ),
    remark="As Table 1; ours are six sizes, each also mirrored, and one OKS-NMS over all, as in the paper.",
)

TABLE3 = Table(
    name="table3",
    title="Table 3: CrowdPose, test-time augmentation",
    protocol="crowdpose",
    columns=_CROWD,
    tta=True,
    runs={"hrnet-w48-crowdpose": ()},
    rows=(
        Row(label="Mask R-CNN", paper=(57.2, 83.5, 60.3, 69.4, 57.9, 45.8)),
        Row(label="AlphaPose", paper=(61.0, 81.3, 66.0, 71.2, 61.4, 51.1)),
        Row(label="Simple Baseline", paper=(60.8, 81.4, 65.7, 71.4, 61.2, 51.2)),
        Row(label="SPPE", paper=(66.0, 84.2, 71.5, 75.5, 66.3, 57.4)),
        Row(label="HigherHRNet", paper=(67.6, 87.4, 72.6, 75.8, 68.1, 58.9)),
        Row(
            label="PoseDet, HRNet-W48",
            run="hrnet-w48-crowdpose",
            paper=(67.3, 88.9, 72.8, 75.2, 68.0, 58.2),
        ),
    ),
    remark="The paper's figures are of CrowdPose test; its configuration file cannot train, see docs/lab/fidelity.md.",
)

TABLE4 = Table(
    name="table4",
    title="Table 4: displacement refinement",
    protocol="crowdpose",
    columns=_CROWD,
    preset=ABLATED,
    runs={"no-refinement": ("model.refinements=0",), "base": ()},
    rows=(
        Row(label="without refinement", run="no-refinement", paper=(51.7, 85.2, 54.9, 57.8, 52.1, 45.5)),
        Row(label="with refinement", run="base", paper=(65.9, 87.7, 76.1, 73.6, 66.8, 56.9)),
    ),
    effects=(Effect(label="refinement", pairs=((1, 0),)),),
    remark="The paper's AP75 with refinement, 76.1, is above that of Table 3 with test-time augmentation, 72.8, "
    "though its AP is lower; it may be a misprint.",
)

# (centroid, suppression) -> AP easy, medium, hard without and with intermediate supervision.
_TABLE5 = {
    ("box", "iou"): ((72.4, 65.3, 54.4), (73.3, 65.9, 55.2)),
    ("box", "oks"): ((72.9, 66.1, 55.7), (73.6, 66.7, 56.6)),
    ("keypoints", "iou"): ((72.6, 65.5, 55.0), (73.3, 66.1, 55.7)),
    ("keypoints", "oks"): ((72.9, 66.2, 56.6), (73.6, 66.8, 56.9)),
}
_RUNS5 = {
    ("box", False): "box-centre-no-heatmaps",
    ("box", True): "box-centre",
    ("keypoints", False): "no-heatmaps",
    ("keypoints", True): "base",
}

TABLE5 = Table(
    name="table5",
    title="Table 5: centroid, suppression, intermediate supervision",
    protocol="crowdpose",
    columns=("AP easy", "AP medium", "AP hard"),
    preset=ABLATED,
    runs={
        "box-centre-no-heatmaps": ("assign.centre='box'", "model.heatmaps=false"),
        "box-centre": ("assign.centre='box'",),
        "no-heatmaps": ("model.heatmaps=false",),
        "base": (),
    },
    rows=tuple(
        Row(
            label=f"centre of {centre}, {nms.upper()}-NMS, {'with' if heatmaps else 'without'} supervision",
            run=_RUNS5[centre, heatmaps],
            decode={"nms": nms},
            paper=paper[heatmaps],
        )
        for (centre, nms), paper in _TABLE5.items()
        for heatmaps in (False, True)
    ),
    effects=(
        Effect(label="OKS-NMS instead of IoU-NMS", pairs=((2, 0), (3, 1), (6, 4), (7, 5))),
        Effect(label="centre of the keypoints instead of their box", pairs=((4, 0), (5, 1), (6, 2), (7, 3))),
        Effect(label="intermediate supervision", pairs=((1, 0), (3, 2), (5, 4), (7, 6))),
    ),
    remark="The paper is silent on the threshold of its IoU-NMS; here both rules have the preset's, see "
    "`python -m lab.paper suppression` for others.",
)

# Value of the setting -> run, label.
_FORMS = {
    "pose": ("base", "pose embedding: samples at the coarse keypoints"),
    "centre": ("centre-point", "centre point: all samples at the location"),
    "box": ("box-grid", "box grid: samples on a grid in the box of the coarse pose"),
    "anchors": ("pose-anchors", "fixed pose anchors: samples at the mean pose around the location"),
}

REPRESENTATIONS = Table(
    name="representations",
    title="What represents a person",
    protocol="crowdpose",
    columns=(),
    preset=ABLATED,
    runs={run: () if form == "pose" else (f"model.representation='{form}'",) for form, (run, _) in _FORMS.items()},
    rows=tuple(Row(label=label, run=run) for run, label in _FORMS.values()),
    effects=tuple(
        Effect(label=f"pose embedding instead of {label.partition(':')[0]}", pairs=((0, place),))
        for place, (_, label) in enumerate(_FORMS.values())
        if place
    ),
    remark="The paper argues for the pose embedding, without a table of its own; its figures against other systems, "
    "Point-set Anchors among them, are in Table 1.",
)

SUPPRESSION = Table(
    name="suppression",
    title="Suppression of duplicates over thresholds",
    protocol="coco",
    columns=(),
    runs={"posedet-s": ()},
    rows=tuple(
        Row(
            label=f"{nms.upper()}-NMS at {threshold:g}",
            run="posedet-s",
            decode={"nms": nms, "nms_threshold": threshold},
        )
        for nms, threshold in product(("oks", "iou"), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    ),
    remark="One network, decoded in several ways. The paper compares the rules in Table 5 and Figure 3.",
)

TABLES = {table.name: table for table in (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, REPRESENTATIONS, SUPPRESSION)}
