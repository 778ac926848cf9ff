"""The commands of docs/use/custom-skeleton.md, taken from the page and run in their order, with fewer steps."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from posedet.commands.main import main
from posedet.skeleton import Skeleton
from posedet.weights.checkpoint import load_info

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "use" / "custom-skeleton.md").read_text()
# What is added to a command of the page, so that it takes a second.
FASTER = {
    "data show": "--count 1 --set data.patch=64",
    "train": "--workers 0 --set data.patch=64 --set train.steps=2 --set train.batch_size=2",
}


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.slow
def test_the_page_works_as_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but the export and what needs it: that takes a quarter of a minute, and other tests do it."""
    for name in ("docs", "photos", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    run = []
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL):
        if language == "python":
            exec(compile(block, "docs/use/custom-skeleton.md", "exec"), {})
        for program, *arguments in commands(block) if language == "sh" else []:
            name = " ".join(arguments[: 2 if arguments[0] == "data" else 1])
            if program == "posedet" and name != "export" and "upper-body.onnx" not in arguments:
                assert main([*arguments, *FASTER.get(name, "").split()]) == 0, capsys.readouterr().err
                run.append(name)
    assert run == ["data check", "data show", "train", "plot", "evaluate"]
    assert [path.name for path in (tmp_path / "look").iterdir()] == ["sample-0000.png"]
    assert (tmp_path / "runs" / "upper-body" / "curves.png").is_file()
    # The report that the page quotes, and the skeleton that its file describes.
    quoted = re.search(r"```\n(src/posedet/released.*?)\n```", PAGE, flags=re.DOTALL)
    assert quoted is not None and " ".join(quoted[1].split()) in caplog.messages
    skeleton = Skeleton.from_dict(load_info(Path("runs/upper-body/weights.safetensors"))["skeleton"])
    toml = re.search(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert toml is not None and tomllib.loads(toml[1])["keypoints"] == list(skeleton.keypoints)
