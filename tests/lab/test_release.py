"""The bill of materials of a release, and what a wheel says that it needs."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from lab.release.__main__ import _check_models, _difference
from lab.release.sbom import requirements, sbom
from posedet.errors import PoseDetError
from posedet.runtime.model_files import RELEASES

METADATA = """Metadata-Version: 2.4
Name: posedet
Version: 1.2.3
License-Expression: Apache-2.0
Requires-Dist: numpy>=1.26
Requires-Dist: onnxruntime>=1.20
Provides-Extra: train
Requires-Dist: posedet[evaluate]; extra == 'train'
Requires-Dist: opencv-python-headless>=4.10; extra == 'train'
Provides-Extra: video
Requires-Dist: av>=14.2; extra == 'video'

Text
"""


def wheel_with(folder: Path, **files: bytes) -> Path:
    path = folder / "posedet-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("posedet-1.2.3.dist-info/METADATA", METADATA)
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def test_a_bill_names_models_packages_and_those_of_the_page(tmp_path: Path) -> None:
    lock = tmp_path / "package-lock.json"
    entry = {"version": "1.0.0", "integrity": "sha512-AAEC", "license": "MIT"}
    lock.write_text(
        json.dumps({"packages": {"": {}, "node_modules/@a/b": entry, "node_modules/c": {**entry, "dev": True}}})
    )
    files = {"posedet/released/m.onnx": b"model", "posedet/serve/page/index.html": b""}
    wheel = wheel_with(tmp_path, **files)
    bill = sbom(wheel, lock)
    assert bill["metadata"]["component"]["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    model, *packages, page = bill["components"]
    assert (model["name"], model["hashes"][0]["content"]) == (
        "posedet/released/m.onnx",
        hashlib.sha256(b"model").hexdigest(),
    )
    assert [(each["purl"], each["scope"]) for each in packages] == [
        ("pkg:pypi/av", "optional"),
        ("pkg:pypi/numpy", "required"),
        ("pkg:pypi/onnxruntime", "required"),
        ("pkg:pypi/opencv-python-headless", "optional"),
    ]
    assert page["purl"] == "pkg:npm/%40a/b@1.0.0" and page["hashes"] == [{"alg": "SHA-512", "content": "000102"}]
    references = [component["bom-ref"] for component in bill["components"]]
    assert bill["dependencies"][0]["dependsOn"] == references and len(set(references)) == 6
    del files["posedet/serve/page/index.html"]
    assert sbom(wheel_with(tmp_path, **files), lock)["components"] == [model, *packages]


def test_what_is_installed_is_named_one_by_one(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path)
    assert requirements(wheel) == ["numpy>=1.26", "onnxruntime>=1.20"]
    assert requirements(wheel, "train") == [*requirements(wheel), "opencv-python-headless>=4.10"]


def test_models_other_than_those_of_the_code_are_refused(tmp_path: Path) -> None:
    assert "posedet-s" in RELEASES
    wheel = wheel_with(tmp_path, **{"posedet/released/posedet-s.onnx": b"other"})
    with zipfile.ZipFile(wheel) as packed, pytest.raises(PoseDetError, match="the wheel has other models than"):
        _check_models(packed)


def test_a_difference_is_named(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    one, other = wheel_with(tmp_path, a=b"1", b=b"2"), wheel_with(tmp_path / "again", a=b"1", b=b"3")
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other, "a") as second:
        assert first.namelist() == second.namelist()
    assert "b" in _difference(one, other)
