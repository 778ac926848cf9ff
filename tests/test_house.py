"""What contributors and package builders rely on: pins, workflows, templates, and the source distribution."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from posedet import __version__

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Each file for a host or a service, and the schema for it that check-jsonschema brings along.
SCHEMAS = {
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".github/workflows/release.yml": "vendor.github-workflows",
    ".github/workflows/pages.yml": "vendor.github-workflows",
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/idea.yml": "vendor.github-issue-forms",
    "CITATION.cff": "vendor.citation-file-format",
}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """The packages of constraints.txt and their versions."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normalised(name): version for name, version in found}


def test_every_development_package_is_pinned() -> None:
    """Also those that the packages named in pyproject.toml need, as far as they are installed here."""
    extras = PROJECT["project"]["optional-dependencies"]
    installed = re.search(r'-e "\.\[(.*)\]"', (ROOT / "Makefile").read_text())
    assert installed is not None
    waiting = [f"posedet[{installed[1]}]", *PROJECT["project"]["dependencies"]]
    needed: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = normalised(re.split(r"[^\w.-]", requirement)[0])
        if name == "posedet":
            waiting += [each for extra in requirement[8:-1].split(",") for each in extras[extra]]
        if name in needed or name == "posedet":
            continue
        needed.add(name)
        try:
            waiting += [each for each in requires(name) or () if ";" not in each]
        except ImportError:  # not installed here
            continue
    assert needed <= set(pins())


def test_pins_are_of_no_machine() -> None:
    """No local version such as 2.13.0+cpu, and no address of an index."""
    text = (ROOT / "constraints.txt").read_text()
    entries = [line for line in text.splitlines() if not line.startswith("#")]
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", entry), entry
    assert len(entries) == len(pins())


def test_pre_commit_has_the_versions_of_the_pins() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    revisions = {repository["repo"].rsplit("/", 1)[1]: repository["rev"] for repository in config["repos"]}
    assert revisions["ruff-pre-commit"] == f"v{pins()['ruff']}"
    assert revisions["codespell"] == f"v{pins()['codespell']}"


@pytest.mark.skipif(find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed")
@pytest.mark.parametrize("name", SCHEMAS)
def test_files_for_the_host_fit_their_schemas(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from check_jsonschema import main

    with pytest.raises(SystemExit) as caught:
        main(["--builtin-schema", SCHEMAS[name], str(ROOT / name)])
    assert caught.value.code == 0, capsys.readouterr().out


def test_workflows_ask_for_few_rights_and_pin_what_they_use() -> None:
    for path in (ROOT / ".github" / "workflows").iterdir():
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] in ({}, {"contents": "read"}), path
        for name, job in workflow["jobs"].items():
            assert job["timeout-minutes"] <= 60, name
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"[\w./-]+@v\d+\.\d+\.\d+", step["uses"]), step


def test_ci_tests_the_python_versions_that_the_package_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    named = [
        classifier.rsplit(" ", 1)[1]
        for classifier in PROJECT["project"]["classifiers"]
        if re.search(r"Python :: 3\.\d+$", classifier)
    ]
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_version_stands_in_the_citation_and_the_changelog() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_source_distribution_holds_all_that_git_holds() -> None:
    """So `make demo` and `make test` work in an unpacked one."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone of the repository")
    builders = pytest.importorskip("hatchling.builders.sdist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    packed = {each.relative_path for each in builders.SdistBuilder(str(ROOT)).recurse_included_files()}
    assert tracked - packed == {".gitignore", "pyproject.toml"}  # which hatchling always adds


def test_checks_leave_out_what_make_installs() -> None:
    """In an unpacked source distribution ruff does not read .gitignore."""
    folders = dict(re.findall(r"^(RUNTIME|DEVELOP) := (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    always_excluded = {".venv"}
    assert set(folders.values()) <= {*PROJECT["tool"]["ruff"]["extend-exclude"]} | always_excluded
