"""The paper's results next to ours, as Markdown and JSON."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.paper import GENERATOR
from lab.paper.tables import Effect, Table, TableRow
from posedet.evaluation.keypoint_ap import KeypointAP
from posedet.evaluation.report import markdown_table, write_report
from posedet.outputs import write_markdown

# Column -> field of the scores.
FIELDS = {
    "coco": {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APm": "ap_medium", "APl": "ap_large"},
    "crowdpose": {
        "AP": "ap",
        "AP50": "ap50",
        "AP75": "ap75",
        "AP easy": "ap_easy",
        "AP medium": "ap_medium_crowd",
        "AP hard": "ap_hard",
    },
}


class Measured(NamedTuple):
    """The results of a row."""

    row: TableRow
    scores: list[tuple[int, KeypointAP]]  # by seed
    note: str  # why results are missing
    speeds: Sequence[float] = ()  # photos per second, if the table has a column for them

    def points(self, column: str, protocol: str) -> dict[int, float]:
        """Points from 0 to 100 by seed, without seeds whose score is undefined."""
        found = {seed: getattr(scores, FIELDS[protocol][column]) for seed, scores in self.scores}
        return {seed: 100 * score for seed, score in found.items() if score is not None and score >= 0}


def write_table(table: Table, measured: Sequence[Measured], output: Path, about: Mapping[str, Any]) -> str:
    """Write TABLE.md and TABLE.json into the folder `output`; returns the Markdown.

    about: further fields of the JSON; "protocol" is the one of our results.
    """
    protocol = about["protocol"]
    columns = list(FIELDS[protocol])
    parts = [f"**{table.title}**", _rows(table, measured, columns, protocol)]
    if table.effects:
        parts.append(_effects(table, measured, columns, protocol))
    speed = f" Our FPS: on {about['device']}." if any(each.speeds for each in measured) else ""
    parts.append(f"Ours: {protocol}'s rules on {about['data']}.{speed} {table.remark}")
    text = "\n\n".join(parts) + "\n"
    rows = [
        {
            "label": each.row.label,
            "run": each.row.run,
            "decode": dict(each.row.decode),
            "paper": dict(zip(table.columns, each.row.paper, strict=False)),
            "ours": {seed: scores.to_dict() for seed, scores in each.scores},
            "fps": list(each.speeds),
            "note": each.note,
        }
        for each in measured
    ]
    effects = [
        {
            "label": effect.label,
            "paper": {column: paper_effect(table, effect, column) for column in table.columns},
            "ours": {column: effect_by_seed(measured, effect, column, protocol) for column in columns},
        }
        for effect in table.effects
    ]
    write_report(
        output / f"{table.name}.json", GENERATOR, {"table": table.title, **about, "rows": rows, "effects": effects}
    )
    write_markdown(output / f"{table.name}.md", GENERATOR, text)
    return text


def _rows(table: Table, measured: Sequence[Measured], columns: Sequence[str], protocol: str) -> str:
    fps = ["ours: FPS"] if "FPS" in table.columns else []  # beside the paper's, the first column
    papers = [f"paper: {column}" for column in table.columns]
    lines = [["", *papers[: len(fps)], *fps, *papers[len(fps) :], *(f"ours: {column}" for column in columns), "seeds"]]
    for each in measured:
        paper = [f"{points:.1f}" for points in each.row.paper] or ["-"] * len(table.columns)
        paper[len(fps) : len(fps)] = [spread(each.speeds) for _ in fps]
        ours = [spread(list(each.points(column, protocol).values())) for column in columns]
        lines.append([each.row.label, *paper, *ours, each.note or (str(len(each.scores)) if each.scores else "")])
    return markdown_table(lines)


def _effects(table: Table, measured: Sequence[Measured], columns: Sequence[str], protocol: str) -> str:
    lines = [["effect", *(f"paper: {column}" for column in table.columns), *(f"ours: {column}" for column in columns)]]
    for effect in table.effects:
        paper = [f"{paper_effect(table, effect, column):+.1f}" for column in table.columns]
        ours = [
            spread(list(effect_by_seed(measured, effect, column, protocol).values()), sign="+") for column in columns
        ]
        lines.append([effect.label, *paper, *ours])
    return markdown_table(lines)


def paper_effect(table: Table, effect: Effect, column: str) -> float:
    """The paper's difference in points, averaged over the pairs of the effect."""
    place = table.columns.index(column)
    return statistics.mean(table.rows[a].paper[place] - table.rows[b].paper[place] for a, b in effect.pairs)


def effect_by_seed(measured: Sequence[Measured], effect: Effect, column: str, protocol: str) -> dict[int, float]:
    """Our difference in points, averaged over the pairs of the effect, for each seed that all its rows have."""
    pairs = [(measured[a].points(column, protocol), measured[b].points(column, protocol)) for a, b in effect.pairs]
    seeds = set.intersection(*(set(points) for pair in pairs for points in pair))
    return {seed: statistics.mean(a[seed] - b[seed] for a, b in pairs) for seed in sorted(seeds)}


def spread(points: Sequence[float], sign: str = "") -> str:
    """Mean and, for several points, sample standard deviation: "30.4 ± 0.3"; "-" for none."""
    if not points:
        return "-"
    mean = f"{statistics.mean(points):{sign}.1f}"
    return mean if len(points) == 1 else f"{mean} ± {statistics.stdev(points):.1f}"
