"""`make release-check`: build a release twice, write down what is in it, and try it with every Python.

`python -m lab.release build | sbom | try`. Needs the development environment, Node.js, and for `try` a package index.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.release.sbom import requirements, sbom
from posedet.commands.main import run
from posedet.errors import ConfigError, PoseDetError
from posedet.runtime.model_files import RELEASES, WEIGHTS

ROOT = Path(__file__).parents[2]
OLDEST_MINOR = 11  # of Python 3
# Tried with the smallest versions that are allowed, too. Not those that need PyTorch, which is gigabytes.
EXTRAS = ("evaluate", "quantise", "openvino", "video", "parquet", "serve")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.release", description="Build and check a release.")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.add_argument(
        "--dist", type=Path, default=ROOT / "dist", help="folder of the wheel and the source distribution"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="build twice, and compare: here, and from the source distribution")
    build.set_defaults(command=_build)

    bill = commands.add_parser("sbom", help="print the software bill of materials of the wheel")
    bill.set_defaults(command=_sbom)

    attempt = commands.add_parser("try", help="install the wheel into fresh environments, and run it")
    attempt.add_argument("pythons", nargs="*", metavar="PYTHON", help="interpreters (default: all that are found)")
    attempt.set_defaults(command=_try)
    return parser


def _build(options: argparse.Namespace) -> int:
    """The second build is as by somebody else: from the source distribution, elsewhere, with other rights and days."""
    wheel, source = _built(ROOT, options.dist)
    with zipfile.ZipFile(wheel) as packed:
        _check_models(packed)
    with tempfile.TemporaryDirectory() as name:
        with tarfile.open(source) as packed_source:
            packed_source.extractall(name, filter="data")
        (copy,) = Path(name).iterdir()
        for path in copy.rglob("*"):
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (1e9, 1e9))
        again = _built(copy, Path(name) / "another place", "clean")
        for one, other in zip((wheel, source), again, strict=True):
            if one.name != other.name or one.read_bytes() != other.read_bytes():
                raise PoseDetError(f"{one.name}: a second build differs: {_difference(one, other)}")
    for path in (wheel, source):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}: built twice, equal byte for byte")
    return 0


def _built(root: Path, dist: Path, *before: str) -> tuple[Path, Path]:
    """Build the page, the wheel and the source distribution; `before`: what `make` does first."""
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory", str(dist)]
    for command in (["make", *before, "web"], hatchling):
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise PoseDetError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return _one(dist, "*.whl"), _one(dist, "*.tar.gz")


def _one(dist: Path, pattern: str) -> Path:
    found = list(dist.glob(f"posedet-{pattern}"))
    if len(found) != 1:
        raise ConfigError(f"{dist}: {len(found)} files {pattern}, expected one; remove the others")
    return found[0]


def _check_models(wheel: zipfile.ZipFile) -> None:
    """Raise PoseDetError unless the models in a wheel are those whose hashes are in the code."""
    expected = {f"{name}.onnx": release.sha256 for name, release in RELEASES.items() if release.url is None} | WEIGHTS
    names = [name for name in wheel.namelist() if "/released/" in name]
    found = {Path(name).name: hashlib.sha256(wheel.read(name)).hexdigest() for name in names}
    if found != expected:
        raise PoseDetError(f"the wheel has other models than posedet/runtime/model_files.py names: {found}")


def _difference(one: Path, other: Path) -> str:
    """The files in two archives that differ in content, rights or time."""
    entries = [set(_entries(path)) for path in (one, other)]
    names = sorted({str(name) for name, *_ in entries[0] ^ entries[1]})
    return f"{len(names)} files, such as {', '.join(names[:5])}" if names else "only in order or compression"


def _entries(path: Path) -> Iterator[tuple[object, ...]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            yield from ((each.filename, each.CRC, each.external_attr, each.date_time) for each in wheel.infolist())
    else:
        with tarfile.open(path) as source:
            for each in source:
                content = source.extractfile(each)
                yield each.name, each.mode, each.mtime, content and content.read()


def _sbom(options: argparse.Namespace) -> int:
    print(json.dumps(sbom(_one(options.dist, "*.whl"), ROOT / "web" / "package-lock.json"), indent=1))
    return 0


def _try(options: argparse.Namespace) -> int:
    wheel = _one(options.dist, "*.whl")
    for python in options.pythons or _pythons():
        for resolution in ("lowest-direct", "highest"):
            print(f"\n{python}, versions of the packages: {resolution}", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                _try_one(python, resolution, wheel, Path(folder))
    return 0


def _pythons() -> list[str]:
    """One interpreter of each minor version: those on the path first, then those of pyenv."""
    places = [Path(place) for place in os.environ["PATH"].split(os.pathsep)]
    places += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[str, str] = {}
    for python in (place / f"python3.{minor}" for minor in range(OLDEST_MINOR, 30) for place in places):
        # What pyenv puts on the path may be for a version that is not there.
        if python.is_file() and subprocess.run([python, "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
            found.setdefault(python.name, str(python))
    return list(found.values())


def _try_one(python: str, resolution: str, wheel: Path, folder: Path) -> None:
    """Install the wheel with the smallest or the largest versions that are allowed and have wheels, and run it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "UV_CONSTRAINT": ""}
    installed = folder / "environment"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    fresh = str(installed / "bin" / "python")
    install = [*uv, "pip", "install", "--python", fresh, "--resolution", resolution, "--only-binary", ":all:"]
    address = wheel.absolute().as_uri()
    smoke = [str(Path(__file__).with_name("smoke.py")), str(ROOT / "photos"), str(folder / "output")]
    # Named one by one, because uv takes the smallest versions of what is named, not of what that needs.
    for command in (
        [*uv, "venv", "--python", python, str(installed)],
        [*install, f"posedet @ {address}", *requirements(wheel)],
        [fresh, *smoke],
        [*install, f"posedet @ {address}", *requirements(wheel, *EXTRAS)],
        [fresh, *smoke, *EXTRAS],
    ):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise PoseDetError(f"failed: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        if command[0] == fresh:
            print(done.stdout.splitlines()[0], flush=True)


if __name__ == "__main__":
    sys.exit(main())
