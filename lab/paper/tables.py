"""Tables 1 to 5 of the paper and two comparisons of ours as plain data: training runs, and the paper's results.

A table defines its training runs and names the run of each row. Rows that differ only in the suppression of duplicates
share a run, and so do tables in the same folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row of a table."""

    label: str
    run: str | None = None  # the run that is evaluated; None: a method of others, which is not run
    decode: Mapping[str, object] = field(default_factory=dict)  # settings of only this row, which need no training
    paper: tuple[float, ...] = ()  # one value per column of the table; empty: not reported


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The effect of one choice: the mean difference over pairs of rows that differ only in that choice."""

    label: str
    pairs: tuple[tuple[int, int], ...]  # indices of the row with the choice, and of the row without


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its runs and rows."""

    name: str
    title: str
    protocol: Literal["coco", "crowdpose"]  # protocol of the paper's results
    columns: tuple[str, ...]  # the paper's columns, in points except FPS (photos per second)
    tta: bool = False
    preset: str | None = None  # preset of all runs by default; None: each run is the preset of its name
    runs: Mapping[str, tuple[str, ...]]  # name -> changes to the preset
    rows: tuple[TableRow, ...]
    effects: tuple[Effect, ...] = ()
    remark: str


# Explicit settings of all ablations, because a preset that replaces the paper's may have others. Our last refinement of
# each keypoint by itself is off: it would hide the effect of the paper's representation.
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
        TableRow(label="Associative Embedding, Hourglass-4, 512", paper=(4, 56.6, 81.8, 61.8, 49.8, 67.0)),
        TableRow(label="CMU-Pose, 3CM-3PAF (102), 368", paper=(10, 61.8, 84.9, 67.5, 57.1, 68.2)),
        TableRow(label="PersonLab, ResNet-152, 1401", paper=(2, 66.5, 88.0, 72.6, 62.4, 72.3)),
        TableRow(label="HigherHRNet, HRNet-W48, 640", paper=(4, 65.7, 86.3, 72.3, 60.8, 72.6)),
        TableRow(label="Point-set Anchors, HRNet-W48, 640", paper=(4, 67.4, 88.3, 74.6, 64.7, 73.0)),
        TableRow(label="PoseDet, HRNet-W48, 640", run="hrnet-w48-coco", paper=(10, 66.2, 87.5, 73.2, 62.3, 73.2)),
        TableRow(label="PoseDet, HRNet-W32, 512", run="hrnet-w32-coco", paper=(18, 64.4, 86.7, 71.0, 58.8, 73.3)),
        TableRow(label="PoseDet, DLA-34, 512", run="dla34-coco", paper=(42, 59.2, 84.3, 64.6, 52.7, 68.8)),
        TableRow(label="posedet-s (ours), MobileNetV2", run="posedet-s"),
    ),
    remark="The paper trains on COCO train2017 and reports results on COCO test-dev, whose annotations are not public. "
    "Its FPS is measured on a GTX 1080Ti, one photo at a time; ours too is from a photo in memory to its poses.",
)

TABLE2 = Table(
    name="table2",
    title="Table 2: COCO, test-time augmentation",
    protocol="coco",
    columns=_COCO,
    tta=True,
    runs={name: () for name in ("hrnet-w48-coco", "hrnet-w32-coco", "posedet-s")},
    rows=(
        TableRow(label="PersonLab, ResNet-152", paper=(68.7, 89.0, 75.4, 64.1, 75.5)),
        TableRow(label="Associative Embedding, Hourglass-4", paper=(65.5, 86.8, 72.3, 60.6, 72.6)),
        TableRow(label="SPM, Hourglass-8", paper=(66.9, 88.5, 72.9, 62.6, 73.1)),
        TableRow(label="HigherHRNet, HRNet-W48", paper=(70.5, 89.3, 77.2, 66.6, 75.8)),
        TableRow(label="Point-set Anchors, HRNet-W48", paper=(68.7, 89.9, 76.3, 64.8, 75.3)),
        TableRow(label="PoseDet, HRNet-W48", run="hrnet-w48-coco", paper=(67.8, 89.3, 75.0, 63.3, 75.5)),
        TableRow(label="PoseDet, HRNet-W32", run="hrnet-w32-coco", paper=(66.7, 88.5, 73.7, 62.2, 75.5)),
        TableRow(label="posedet-s (ours), MobileNetV2", run="posedet-s"),
    ),
    remark="As Table 1; ours use six sizes, each also mirrored, and one OKS-NMS over all, as in the paper.",
)

TABLE3 = Table(
    name="table3",
    title="Table 3: CrowdPose, test-time augmentation",
    protocol="crowdpose",
    columns=_CROWD,
    tta=True,
    runs={"hrnet-w48-crowdpose": ()},
    rows=(
        TableRow(label="Mask R-CNN", paper=(57.2, 83.5, 60.3, 69.4, 57.9, 45.8)),
        TableRow(label="AlphaPose", paper=(61.0, 81.3, 66.0, 71.2, 61.4, 51.1)),
        TableRow(label="Simple Baseline", paper=(60.8, 81.4, 65.7, 71.4, 61.2, 51.2)),
        TableRow(label="SPPE", paper=(66.0, 84.2, 71.5, 75.5, 66.3, 57.4)),
        TableRow(label="HigherHRNet", paper=(67.6, 87.4, 72.6, 75.8, 68.1, 58.9)),
        TableRow(
            label="PoseDet, HRNet-W48",
            run="hrnet-w48-crowdpose",
            paper=(67.3, 88.9, 72.8, 75.2, 68.0, 58.2),
        ),
    ),
    remark="The paper's results are on CrowdPose test; its configuration file cannot train, see docs/lab/fidelity.md.",
)

TABLE4 = Table(
    name="table4",
    title="Table 4: displacement refinement",
    protocol="crowdpose",
    columns=_CROWD,
    preset=ABLATED,
    runs={"no-refinement": ("model.refinements=0",), "base": ()},
    rows=(
        TableRow(label="without refinement", run="no-refinement", paper=(51.7, 85.2, 54.9, 57.8, 52.1, 45.5)),
        TableRow(label="with refinement", run="base", paper=(65.9, 87.7, 76.1, 73.6, 66.8, 56.9)),
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
        TableRow(
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
    remark="The paper does not state the threshold of its IoU-NMS; here both rules use the preset's, see "
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
    rows=tuple(TableRow(label=label, run=run) for run, label in _FORMS.values()),
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
        TableRow(
            label=f"{nms.upper()}-NMS at {threshold:g}",
            run="posedet-s",
            decode={"nms": nms, "nms_threshold": threshold},
        )
        for nms, threshold in product(("oks", "iou"), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    ),
    remark="One network, decoded in several ways. The paper compares the rules in Table 5 and Figure 3.",
)

TABLES = {table.name: table for table in (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, REPRESENTATIONS, SUPPRESSION)}
