"""A page of HTML in one file, without scripts: its parts, tables with bars, and charts as SVG."""

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from posedet import __version__

GREY = "#9aa3ad"

STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#e3e7ec;--paper:#fff;--wash:#f5f7f9;--blue:#2f6fde}
*{box-sizing:border-box}
body{margin:0;background:var(--wash);color:var(--ink)}
body{font:16px/1.5 system-ui,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:960px;margin:0 auto;padding:28px 16px 60px}
h1{font-size:1.9rem;line-height:1.2;margin:.2em 0}
h2{font-size:1.25rem;margin:0 0 .3em}
h3{font-size:1rem;margin:1.4em 0 .2em}
p{margin:.3em 0 .8em;max-width:50em}
.soft,figcaption,th{color:var(--soft)}
section{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:18px 0}
.findings li{margin:.55em 0}
.numbers{display:flex;flex-wrap:wrap;gap:10px;margin:16px 0 10px}
.numbers div{background:var(--wash);border-radius:8px;padding:8px 14px;min-width:84px}
.numbers b{display:block;font-size:1.35rem}
.numbers span{font-size:.8rem;color:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th{font-weight:500;text-align:left;font-size:.82rem}
td,th{padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:middle}
td:first-child{min-width:120px}
td.n,th.n{text-align:right;white-space:nowrap}
td.bar{width:34%;min-width:130px}
.bar div{height:13px;border-radius:3px;background:var(--blue)}
.bar .stack{display:flex;background:none;overflow:hidden}
.bar .stack i{display:block;height:13px}
.pair{display:flex;flex-wrap:wrap;gap:26px}
.pair>*{flex:1 1 300px;min-width:0}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:14px;align-items:start}
figure{margin:0}
figure img{width:100%;max-height:290px;object-fit:contain;object-position:left;border-radius:6px;display:block}
figcaption{font-size:.8rem;margin-top:3px}
.key{font-size:.85rem;display:flex;flex-wrap:wrap;gap:4px 16px;margin:.2em 0 .8em}
.key i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:5px}
svg{width:100%;height:auto;max-width:460px}
svg text{font-size:12px;fill:#5b6675}
details{margin-top:6px}
"""


class Curve(NamedTuple):
    """A line of a chart; x and y from 0 to 1."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]


def page(title: str, sections: Sequence[str]) -> str:
    """The whole page of sections, which are HTML, and below them how it was made; the title is text."""
    command = escape(shlex.join(["posedet", *sys.argv[1:]]))
    made = f"posedet {__version__}, {datetime.now(UTC):%d %B %Y}: <code>{command}</code>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + f'\n<p class="soft">{made}</p>\n</main>\n</body>\n</html>\n'
    )


def section(title: str, text: str, *parts: str) -> str:
    """A part of the page with a heading and what is to be seen; all HTML."""
    return f"<section><h2>{title}</h2><p class=soft>{text}</p>{''.join(parts)}</section>"


def details(text: str) -> str:
    """What only some want to know, folded."""
    return f"<details><summary class=soft>How this is measured</summary><p class=soft>{text}</p></details>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, bars: Sequence[int]) -> str:
    """Cells are HTML; the first column is text, `bars` are bars, the others numbers."""

    def kind(place: int) -> str:
        return ' class="bar"' if place in bars else ' class="n"' if place else ""

    head = "".join(f"<th{kind(place)}>{name}</th>" for place, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{kind(place)}>{cell}</td>" for place, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def bar(share: float) -> str:
    """A bar for a table, of a share of the column's width; nothing below 0."""
    return f'<div style="width:{100 * min(max(share, 0), 1):.1f}%"></div>'


def chart(curves: Sequence[Curve], x_label: str, y_label: str, *, bars: Sequence[float] = ()) -> str:
    """Lines in the unit square as SVG; `bars` over equal parts of the x axis, and then the diagonal."""
    left, top, side_x, side_y = 46, 8, 380, 280

    def at(x: float, y: float) -> str:
        return f"{left + side_x * x:.1f},{top + side_y * (1 - y):.1f}"

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, bottom), y = at(tick, 0).split(","), at(0, tick).split(",")[1]
        parts.append(f'<path d="M{at(0, tick)}H{left + side_x}M{at(tick, 0)}V{top}" stroke="#e3e7ec" fill="none"/>')
        parts.append(f'<text x="{x}" y="{float(bottom) + 16:.1f}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 7}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    width = 1 / max(1, len(bars))
    for place, share in enumerate(bars):
        corner = f"M{at(place * width, 0)}L{at(place * width, share)}"
        parts.append(
            f'<path d="{corner}L{at((place + 0.92) * width, share)}L{at((place + 0.92) * width, 0)}Z" fill="#dbe2ea"/>'
        )
    if bars:
        parts.append(f'<path d="M{at(0, 0)}L{at(1, 1)}" stroke="{GREY}" stroke-dasharray="4 4"/>')
    for curve in curves:
        points = " ".join(at(x, y) for x, y in zip(curve.x, curve.y, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{curve.colour}" stroke-width="2.2"/>')
        if bars:
            dots = (at(x, y).split(",") for x, y in zip(curve.x, curve.y, strict=True))
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{curve.colour}"/>' for x, y in dots]
    parts.append(f'<text x="{left + side_x / 2}" y="{top + side_y + 34}" text-anchor="middle">{x_label}</text>')
    middle = f"translate(11 {top + side_y / 2}) rotate(-90)"
    parts.append(f'<text transform="{middle}" text-anchor="middle">{y_label}</text>')
    key = "".join(f'<span><i style="background:{each.colour}"></i>{escape(each.label)}</span>' for each in curves)
    size = f'viewBox="0 0 {left + side_x + 14} {top + side_y + 42}"'
    return (
        f'<div class=key>{key}</div><svg {size} role="img" aria-label="{y_label} over {x_label}">{"".join(parts)}</svg>'
    )
