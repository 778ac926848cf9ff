"""Optional packages: every command asks for those that it imports, and says how to install them."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from posedet.commands.main import main
from posedet.skeleton import COCO
from sets import changed, made_up_set

ROOT = Path(__file__).parent.parent
RELEASED = ROOT / "src" / "posedet" / "released"
# Each optional module, and the package that has it.
PACKAGES = {
    "av": "av",
    "cv2": "opencv-python-headless",
    "fastapi": "fastapi",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "openvino": "openvino",
    "prometheus_client": "prometheus-client",
    "pyarrow": "pyarrow",
    "pycocotools": "pycocotools",
    "python_multipart": "python-multipart",
    "safetensors": "safetensors",
    "torch": "torch",
    "uvicorn": "uvicorn",
    "yaml": "pyyaml",
}


class Need(NamedTuple):
    """One call of `needs`: the command as typed (None where it is not a literal), its extra and its modules."""

    command: str | None
    extra: str
    modules: tuple[str, ...]


def all_needs() -> list[Need]:
    """Every call of `needs` in the package and the laboratory, read from the source."""
    found = []
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "lab").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "needs":
                command, extra, modules = node.args
                literal = ast.literal_eval(command) if isinstance(command, ast.Constant) else None
                found.append(Need(literal, ast.literal_eval(extra), ast.literal_eval(modules)))
    return found


NEEDS = {need.command: need for need in all_needs() if need.command is not None}
# Commands that are asked to run with dummy arguments, only as far as their check.
ARGUMENTS = {
    "posedet calibrate": "calibrate x.json --output y",
    "posedet convert": "convert x.pth y.safetensors --preset posedet-s",
    "posedet data check": "data check x.json",
    "posedet data show": "data show posedet-s --data x.json --output y",
    "posedet errors": "errors x.json --output y.html",
    "posedet evaluate": "evaluate x.json",
    "posedet export": "export x.safetensors y.onnx",
    "posedet identity": "identity x.safetensors y.safetensors --data z.json",
    "posedet plot": "plot x",
    "posedet predict --format parquet": f"predict {ROOT / 'photos' / 'food.jpg'} --output y --format parquet",
    "posedet quantise": "quantise x.onnx y.onnx --photos z",
    "posedet serve": "serve --port 0",
    "posedet stress": "stress x.json --output y",
    "posedet track": "track x.mp4 --output y",
    "posedet train": "train posedet-s --data x.json --run y",
    "posedet uncertainty": "uncertainty x.safetensors y.safetensors --data z.json --held-out w.json",
    "PyTorch weights": f"predict {ROOT / 'photos' / 'food.jpg'} --output y --model "
    f"{RELEASED / 'posedet-s.safetensors'}",
}


def test_every_command_that_needs_more_is_tested() -> None:
    inside = {"posedet train --validate", "posedet benchmark --against", "posedet track --format parquet"}
    inside |= {"posedet.cluster"}
    commands = {command for command in NEEDS if not command.startswith(("python -m lab", "to_", "from_"))}
    assert commands - inside == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("command", "module"), [(command, module) for command in ARGUMENTS for module in NEEDS[command].modules]
)
def test_a_missing_module_is_one_line_that_says_what_to_install(
    command: str,
    module: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == module else find(name, *more))
    monkeypatch.chdir(tmp_path)
    assert main(ARGUMENTS[command].split()) == 2
    advice = f'install them with: pip install "posedet[{NEEDS[command].extra}]"'
    assert capsys.readouterr().err == f"posedet: error: '{command}' needs optional packages; {advice}\n"


# --- what an extra holds ---------------------------------------------------------------------------------------------


def packages_of(extra: str) -> set[str]:
    """The names of an extra's packages, and of those of the extras that it names."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names: set[str] = set()
    for requirement in extras[extra]:
        own = re.fullmatch(r"posedet\[(.+)\]", requirement)
        if own:
            names = names.union(*(packages_of(part.strip()) for part in own[1].split(",")))
        else:
            names.add(re.split(r"[^\w.-]", requirement)[0].lower())
    return names


@pytest.mark.parametrize("need", all_needs(), ids=lambda need: f"{need.command} [{need.extra}]")
def test_the_extra_that_a_command_names_is_the_smallest_with_its_modules(need: Need) -> None:
    packages = {PACKAGES[module] for module in need.modules}
    enough = {
        extra: packages_of(extra)
        for extra in ("evaluate", "quantise", "export", "train", "openvino", "video", "parquet", "serve")
        if packages <= packages_of(extra)
    }
    assert need.extra in enough
    assert len(enough[need.extra]) == min(map(len, enough.values()))


def test_help_names_the_right_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    named = re.findall(r"\b(\w+) [^()]*\(needs posedet\[(\w+)\]\)", text)
    assert len(named) == text.count("(needs posedet[")
    summaries = dict(re.findall(r" (\w+) [^()]*?\(needs posedet\[(\w+)\]\)", text))
    for extra in summaries.values():
        assert extra in {need.extra for need in NEEDS.values()}


# --- in an interpreter without the other modules ---------------------------------------------------------------------

# An entry of None makes Python treat a module as missing, both in an import and in find_spec.
PROGRAM = """
import sys
blocked, wanted, runs = {blocked!r}, {wanted!r}, {runs!r}
sys.modules.update(dict.fromkeys(blocked))
from posedet.commands.main import main
for run in runs:
    try:
        code = main(run)
    except SystemExit as end:
        code = end.code
    print("CODE", code)
print("UNUSED", *sorted(set(wanted) - set(sys.modules)))
"""


def run_without(others_than: tuple[str, ...], *runs: list[str], folder: Path) -> tuple[list[str], str, str]:
    """Run commands in a fresh interpreter that has no optional modules but these.

    Returns the exit codes, the modules that were not imported, and what was printed.
    """
    blocked = sorted(set(PACKAGES) - set(others_than))
    program = PROGRAM.format(blocked=blocked, wanted=others_than, runs=list(runs))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=300, check=False
    )
    printed = done.stdout + done.stderr
    codes = re.findall(r"^CODE (\S+)$", done.stdout, flags=re.MULTILINE)
    unused = re.search(r"^UNUSED ?(.*)$", done.stdout, flags=re.MULTILINE)
    assert unused is not None, printed
    return codes, unused[1], printed


def test_every_command_explains_itself_without_optional_modules(tmp_path: Path) -> None:
    commands = {arguments.split()[0] for arguments in ARGUMENTS.values()} | {"benchmark", "info", "predict", "weights"}
    runs = [["--help"], *([command, "--help"] for command in sorted(commands))]
    runs += [["data", "check", "--help"], ["data", "show", "--help"], ["weights", "list"]]
    codes, _, printed = run_without((), *runs, folder=tmp_path)
    assert codes == ["0"] * len(runs), printed


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two annotated photos of noise, one person in each."""

    def with_areas(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["area"] = 4000

    return changed(made_up_set(tmp_path / "truth.json", COCO.keypoints, num_photos=2), with_areas)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("posedet evaluate", "evaluate truth.json --threads 1 --output report"),
        ("posedet errors", "errors PHOTOS/truth.json --photos PHOTOS --threads 1 --output errors.html"),
        ("posedet data check", "data check PHOTOS/truth.json --photos PHOTOS"),
        ("posedet plot", "plot ."),
        pytest.param(
            "posedet calibrate",
            "calibrate PHOTOS/truth.json --photos PHOTOS --output y --threads 1",
            marks=pytest.mark.slow,
        ),
        pytest.param("posedet stress", "stress truth.json --threads 1 --count 1 --output y", marks=pytest.mark.slow),
    ],
)
def test_a_command_runs_with_the_modules_that_it_asks_for(
    command: str, arguments: str, truth: Path, photos: Path, tmp_path: Path
) -> None:
    """So 'posedet evaluate', for example, runs where torch cannot be imported."""
    (tmp_path / "log.jsonl").write_text('{"step": 0, "loss": 2.0, "rate": 0.1, "seconds": 1.0}\n')
    arguments = arguments.replace("PHOTOS", str(photos))
    codes, unused, printed = run_without(NEEDS[command].modules, arguments.split(), folder=tmp_path)
    assert codes == ["0"] and unused == "", printed


def test_predict_needs_nothing_more_also_where_its_outputs_exist(photos: Path, tmp_path: Path) -> None:
    run = ["predict", str(photos / "food.jpg"), "--output", "out", "--threads", "1"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "poses.json").write_text("mine")
    codes, _, printed = run_without((), run, run, [*run[:3], "mine"], folder=tmp_path)
    assert codes == ["0", "0", "2"], printed
    assert printed.count("\nposedet: error: mine/poses.json: exists, and `posedet predict` did not write it") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["posedet convert", "posedet data show", "posedet export", "posedet quantise", "posedet train"]
)
def test_slow_commands_ask_for_what_they_import(command: str, tmp_path: Path) -> None:
    """They end at a file that is not there, after their imports; PyTorch imports onnxscript only while exporting."""
    codes, unused, printed = run_without(NEEDS[command].modules, ARGUMENTS[command].split(), folder=tmp_path)
    assert codes == ["2"] and unused in ("", "onnxscript"), printed
    assert re.search(r"(x\.(json|onnx|pth|safetensors)|z)\b", printed)
