"""A list of images without annotations, such as COCO test-dev, becomes the file that the benchmark's server takes."""

import json
import zipfile
from pathlib import Path

import pytest

from posedet.commands.main import main

PHOTOS = Path(__file__).parent.parent / "photos"
LARGE = ("--long-side", "1280")  # so that a photo has more than 20 poses
NAME = "person_keypoints_test-dev2017_posedet-s_results"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The shipped photos, listed as in COCO's `image_info_test-dev2017.json`."""
    truth = json.loads((PHOTOS / "truth.json").read_text())
    path = tmp_path / "image_info_test-dev2017.json"
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 2, "name": "bicycle"}]
    path.write_text(json.dumps({"info": {}, "images": truth["images"], "categories": categories}))
    return path


def test_the_file_for_the_server(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", f"{images}:{PHOTOS}", "--output", str(out), *LARGE]) == 0
    assert [path.name for path in out.iterdir()] == [f"{NAME}.zip"]
    with zipfile.ZipFile(out / f"{NAME}.zip") as archive:
        assert archive.namelist() == [f"{NAME}.json"]
        results = json.loads(archive.read(f"{NAME}.json"))
    printed = capsys.readouterr().out
    assert printed == f"no annotations: {len(results)} poses in 8 photos -> {out / NAME}.zip\n"

    # They are what an evaluation with annotations finds, up to the 20 poses that count in each photo.
    command = ["evaluate", str(PHOTOS / "truth.json"), "--photos", str(PHOTOS)]
    assert main([*command, "--output", str(tmp_path / "known"), *LARGE]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| posedet-s")]
    expected, counts = [], {}
    for entry in json.loads((tmp_path / "known" / "results.json").read_text()):
        counts[entry["image_id"]] = counts.get(entry["image_id"], 0) + 1
        del entry["generator"]
        if counts[entry["image_id"]] <= 20:
            expected.append(entry)
    assert results == expected and max(counts.values()) > 20
    assert all(list(entry) == ["image_id", "category_id", "keypoints", "score"] for entry in results)
    assert all(entry["category_id"] == 1 and len(entry["keypoints"]) == 51 for entry in results)

    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main([*command[:2], "--results", str(tmp_path / "results.json")]) == 0
    assert row.split("|")[2:] == capsys.readouterr().out.splitlines()[-1].split("|")[2:]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["{images}:{photos}"],
            "{images}: has no annotations to score by, so it needs --output, a folder for the results",
        ),
        (
            ["{images}:{photos}", "--output", "{out}", "--protocol", "cropped"],
            "{images}: has no annotations to score by, so it needs a protocol for whole photos",
        ),
        (["{images}", "--output", "{out}"], "{images}: images[0]: '{folder}/group.jpg': no such photo (8 of 8 are "),
        (["{images}:{photos}", "--results", "x.json"], "{images}: 'annotations' is missing"),
    ],
)
def test_what_a_user_reads(
    arguments: list[str], expected: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"images": images, "photos": PHOTOS, "out": tmp_path / "out", "folder": images.with_suffix("")}
    assert main(["evaluate", *(each.format(**names) for each in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"posedet: error: {expected.format(**names)}")
    assert not (tmp_path / "out").exists()
