"""A software bill of materials in CycloneDX's JSON: of a wheel, and of the npm packages in the page that it holds."""

import base64
import hashlib
import json
import re
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

PAGE = "posedet/serve/page/"


def sbom(wheel: Path, lock: Path) -> dict[str, Any]:
    """Return the bill of materials: the released models, the required and optional packages, those of the page.

    Args:
        wheel: The built wheel.
        lock: package-lock.json of the page.
    """
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        about = _about(packed)
        components = [
            {"type": "machine-learning-model", "bom-ref": name, "name": name, "hashes": [_sha256(packed.read(name))]}
            for name in names
            if "/released/" in name
        ]
    components += [
        _package(line) for line in sorted(about.get_all("Requires-Dist", [])) if not line.startswith("posedet[")
    ]
    if any(name.startswith(PAGE) for name in names):
        components += _of_page(lock)
    this = f"pkg:pypi/posedet@{about['Version']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": this,
                "name": "posedet",
                "version": about["Version"],
                "purl": this,
                "licenses": [{"license": {"id": about["License-Expression"]}}],
                "hashes": [_sha256(wheel.read_bytes())],
            }
        },
        "components": components,
        "dependencies": [{"ref": this, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def requirements(wheel: Path, *extras: str) -> list[str]:
    """What a wheel needs, without and with some extras, as `pip install` takes it."""
    with zipfile.ZipFile(wheel) as packed:
        lines = _about(packed).get_all("Requires-Dist", [])
    markers = {"", *(f"extra == '{extra}'" for extra in extras)}
    split = [line.partition(";")[::2] for line in lines if not line.startswith("posedet[")]
    return [requirement.strip() for requirement, marker in split if marker.strip() in markers]


def _about(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


def _sha256(content: bytes) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}


def _package(line: str) -> dict[str, Any]:
    """A line such as `av>=14.2; extra == 'video'`. The wheel has no versions, only bounds."""
    requirement, _, marker = line.partition(";")
    name = re.split(r"[^\w.-]", requirement)[0]
    properties = {"posedet:bounds": requirement.strip().removeprefix(name), "posedet:marker": marker.strip()}
    return {
        "type": "library",
        "bom-ref": line,
        "name": name,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}",
        "scope": "optional" if marker else "required",
        "properties": [{"name": key, "value": value} for key, value in properties.items() if value],
    }


def _of_page(lock: Path) -> list[dict[str, Any]]:
    """The npm packages that Vite builds into the page: all that are not for development."""
    found = []
    for path, entry in json.loads(lock.read_bytes())["packages"].items():
        name = path.rpartition("node_modules/")[2]
        if not name or entry.get("dev"):
            continue
        purl = f"pkg:npm/{name.replace('@', '%40')}@{entry['version']}"
        algorithm, _, digest = entry["integrity"].partition("-")
        found.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": entry["version"],
                "purl": purl,
                "licenses": [{"license": {"id": entry["license"]}}],
                "hashes": [
                    {"alg": algorithm.upper().replace("SHA", "SHA-"), "content": base64.b64decode(digest).hex()}
                ],
            }
        )
    return found
