"""Try an installed posedet, with its own packages alone: `python smoke.py PHOTOS OUTPUT [extra ...]`."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from posedet import PoseDet
from posedet.commands.main import main
from posedet.runtime.model_files import model_file


def commands(photos: Path, output: Path) -> dict[str, list[list[str]]]:
    """What is run for each extra; "": without any."""
    truth, tennis = f"{photos / 'truth.json'}:{photos}", str(photos / "tennis.jpg")
    return {
        "": [
            ["predict", str(photos / "skiers.jpg"), "--output", str(output / "poses")],
            ["info", "posedet-s"],
            ["weights", "list"],
        ],
        "evaluate": [
            ["evaluate", truth, "--output", str(output / "evaluated")],
            ["errors", truth, "--output", str(output / "errors.html")],
            ["calibrate", truth, "--output", str(output / "calibrated")],
        ],
        "quantise": [["quantise", str(model_file("posedet-s")), str(output / "int8.onnx"), "--photos", tennis]],
        "openvino": [["predict", tennis, "--runtime", "openvino", "--output", str(output / "openvino")]],
        "video": [["track", str(photos), "--output", str(output / "tracks")]],
        "parquet": [["track", str(photos), "--output", str(output / "tables"), "--no-video", "--format", "parquet"]],
    }


def serve(photo: Path) -> None:
    """Start a server, and have it find the poses in a photo."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, "-m", "posedet", "serve", "--port", str(port)]) as server:
        try:
            patience = time.monotonic() + 120
            while True:
                try:
                    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/poses", photo.read_bytes())
                    assert b"keypoints" in urllib.request.urlopen(request).read()
                    break
                except urllib.error.URLError:
                    if time.monotonic() > patience or server.poll() is not None:
                        raise
                    time.sleep(0.2)
        finally:
            server.terminate()


def try_all(photos: Path, output: Path, extras: list[str]) -> None:
    """Raise AssertionError if something does not work."""
    print(", ".join(f"{name} {version(name)}" for name in ("posedet", "numpy", "onnxruntime", "pillow", "tqdm")))
    poses = PoseDet(threads=1)(photos / "skiers.jpg")
    assert len(poses) == 2 and poses.scores[0] > 0.8, poses
    for extra, lines in commands(photos, output).items():
        for line in lines if extra in ("", *extras) else ():
            assert main(line) == 0, line
    if "serve" in extras:
        serve(photos / "skiers.jpg")


if __name__ == "__main__":
    try_all(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
