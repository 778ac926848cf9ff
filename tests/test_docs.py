"""The documentation is whole: every page is in the site, every link leads somewhere, and the site can be built."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from posedet.runtime import onnx_file, session
from posedet.skeleton import MAX_KEYPOINTS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SECURITY = ROOT / "SECURITY.md"
TEXTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", SECURITY, *PAGES]

# Words of the clipped English that these pages once had, and " joint", which the field calls a keypoint.
OLD_WORDS = ("sooner", "goes on with", "at hand", "whoever", "stands there", "what came", " joint")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def links_of(page: Path) -> list[tuple[str, str]]:
    """(path, anchor) of each link and picture outside code blocks; a link within the page has no path."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    parts = [target.partition("#") for target in targets if not target.startswith(("http://", "https://"))]
    return [(path, anchor) for path, _, anchor in parts]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def pages_in(nav: Any) -> list[str]:
    """The pages of a (part of a) navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_in(part)]


def test_each_page_is_in_the_navigation() -> None:
    nav = pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_pages_are_found() -> None:
    assert len(PAGES) > 20 and sum(len(links_of(page)) for page in TEXTS) > 100


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links_of(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path}: no such file"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{path}: not part of the site"
        if anchor:
            assert anchor in anchors_of(target), f"{path}#{anchor}: no such heading"


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_plain_words(page: Path) -> None:
    text = " ".join(page.read_text().split()).lower()
    assert [word for word in OLD_WORDS if word in text] == []


def test_each_threat_names_a_test_that_exists() -> None:
    rows = [line for line in SECURITY.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        found = re.search(r"\| `(test_\w+\.py)::(test_\w+)` \|$", row)
        assert found, row
        assert f"\ndef {found[2]}(" in (ROOT / "tests" / found[1]).read_text(), row


def test_the_limits_of_a_model_file_are_those_in_the_code() -> None:
    text = " ".join(SECURITY.read_text().split())
    for limit in (
        f"{session.MAX_MODEL_BYTES // 10**9} GB, {onnx_file.MAX_FIELDS:,} fields, ",
        f"{onnx_file.MAX_METADATA_BYTES // 10**6} MB of metadata, {MAX_KEYPOINTS:,} keypoints, ",
        f"{onnx_file.MAX_RANK} sides of a tensor",
        f"more than 2^{onnx_file.MAX_ELEMENTS.bit_length() - 1} elements",
        f"{session.MAX_POSES:,} poses in an image",
        f"{onnx_file.MAX_DEPTH} deep",
        *(f"`{kind}`" for kind in onnx_file._SIZES),
    ):
        assert limit in text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason='needs MkDocs: pip install ".[docs]"')
def test_the_site_builds(tmp_path: Path) -> None:
    """Without a warning, with every page, and without anything from other servers."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for page in PAGES:
        html = (tmp_path / "site" / page.relative_to(DOCS)).with_suffix(".html").read_text()
        assert re.findall(r'<(?:script|link|img)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', html) == []
    reference = (tmp_path / "site" / "api.html").read_text()
    for name in ("PoseDet.batch", "Poses.to_coco", "Skeleton.from_file", "draw"):
        assert f'id="posedet.{name}"' in reference, name
