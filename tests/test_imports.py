"""Imports go one way, and running needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "posedet"
HEAVY = {"torch", "torchvision", "onnx", "onnxscript", "cv2", "pycocotools", "safetensors", "openvino", "supervision"}
HEAVY |= {"av", "fiftyone", "jinja2", "matplotlib", "pyarrow", "yaml"}
WEB = {"fastapi", "prometheus_client", "pydantic", "python_multipart", "starlette", "uvicorn"}
HEAVY |= WEB

# Module or folder -> which others of ours, and which heavy libraries, it may import, also inside functions.
BASE = {"errors", "keypoint_names", "skeleton", "oks", "poses", "image", "config", "files", "outputs", "journal"}
MAY_IMPORT = {
    "errors": set(),
    "extras": {"errors"},
    "files": {"errors"},
    "outputs": {"errors", "files"},
    "journal": {"errors", "files", "outputs"},
    "keypoint_names": set(),
    "skeleton": {"errors", "keypoint_names"},
    "oks": {"errors"},
    "poses": {"errors", "oks", "skeleton"},
    "config": {"errors"},
    "image": {"errors", "files", "outputs"},
    "draw": {"errors", "poses", "skeleton"},
    "tracking": {"errors", "poses"},
    "runtime": BASE | {"draw", "openvino"},
    "video": BASE | {"__init__", "av", "draw", "extras", "formats", "runtime", "tracking"},
    "serve": BASE | {"__init__", "runtime"} | WEB,
    "cluster": {"errors", "extras", "files", "pyarrow", "runtime"},
    "model": {"config", "errors", "skeleton", "torch"},
    "weights": BASE | {"__init__", "extras", "model", "onnx", "runtime", "safetensors", "torch"},
    "data": BASE | {"cv2", "yaml"},
    "formats": BASE | {"data", "draw", "extras", "fiftyone", "pyarrow", "runtime", "supervision", "tracking"},
    "training": BASE | {"__init__", "cv2", "data", "draw", "matplotlib", "model", "runtime", "torch", "weights"},
    "evaluation": BASE | {"__init__", "data", "pycocotools", "runtime"},
    "diagnosis": BASE | {"__init__", "data", "draw", "evaluation", "jinja2", "matplotlib", "runtime"},
    "benchmark": BASE | {"extras", "matplotlib", "openvino", "runtime", "torch", "weights"},
    "commands": BASE
    | {
        "__init__",
        "benchmark",
        "data",
        "diagnosis",
        "evaluation",
        "extras",
        "formats",
        "runtime",
        "serve",
        "tracking",
        "training",
        "video",
        "weights",
    },
    "__init__": {"draw", "errors", "poses", "runtime", "skeleton", "tracking", "video"},
    "__main__": {"commands"},
}


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"posedet.{alias.name}" for alias in node.names} if node.module == "posedet" else {node.module}
    return names


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for name in imported_names(path):
        top, _, rest = name.partition(".")
        if top in HEAVY:
            assert top in MAY_IMPORT[part], f"{path}: may not import {name}"
        elif top == "posedet":
            target = rest.split(".")[0] or "__init__"
            target = "__init__" if target == "__version__" else target
            assert target in MAY_IMPORT[part] | {part}, f"{path}: may not import {name}"


def test_import_posedet_stays_light() -> None:
    """In a fresh interpreter: this one has torch loaded already."""
    code = (
        f"import sys, posedet, posedet.commands.main; print(*({HEAVY | {'onnxruntime', 'tqdm'}!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout.split(), run.stderr) == ([], "")
