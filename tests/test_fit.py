"""Whether labels fit the pixels of their photos: each limit, by hand, from both sides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from posedet.data.annotations import AnnotatedPhoto, Person
from posedet.data.fit import check_fit, misplaced, outside, size_problem
from posedet.errors import DataError, PhotoError

# (height, width): a keypoint may lie a tenth of 200 pixels beyond 0 to 199 and 0 to 99.
SIZE = (100, 200)
IN_BOX = (100.0, 40, 140, 60)  # half of 40 pixels may a keypoint lie beyond this one
INSIDE, BEYOND = (120.0, 50.0), (250.0, 50.0)


def person(*points: tuple[float, float], box: Any = (0, 0, 0, 0), labelled: Any = 2, **changes: Any) -> Person:
    count = len(points)
    fields: dict[str, Any] = {"ignore": False, "place": "set.json: annotations[3]", **changes}
    return Person(
        keypoints=np.array(points, float).reshape(-1, 2),
        visibility=np.full(count, labelled, np.uint8),
        visible=np.ones(count, np.int8),
        keypoint_weights=np.ones(count, np.float32),
        box=np.array(box, float),
        area=100.0,
        score=1.0,
        is_crowd=False,
        annotation_id=1,
        **fields,
    )


def photo(*persons: Person, size: tuple[int, int] = SIZE, path: Path = Path("a.jpg")) -> AnnotatedPhoto:
    return AnnotatedPhoto(1, path, size, persons, place="set.json: images[5]")


@pytest.mark.parametrize(
    ("inside", "beyond"),
    [((-20, 50), (-20.5, 50)), ((219, 50), (219.5, 50)), ((50, -20), (50, -20.5)), ((50, 119), (50, 119.5))],
)
def test_how_far_a_keypoint_may_lie_outside_the_photo(inside: Any, beyond: Any) -> None:
    assert outside(person(inside, INSIDE), SIZE) is None
    found = outside(person(INSIDE, beyond), SIZE)
    assert found is not None and (found.what, found.which.tolist(), found.farthest) == ("the photo", [False, True], 1)


@pytest.mark.parametrize(
    ("inside", "beyond"),
    [((80, 50), (79.5, 50)), ((160, 50), (160.5, 50)), ((120, 20), (120, 19.5)), ((120, 80), (120, 80.5))],
)
def test_how_far_a_keypoint_may_lie_outside_the_persons_box(inside: Any, beyond: Any) -> None:
    assert outside(person(inside, box=IN_BOX), SIZE) is None
    found = outside(person(beyond, INSIDE, box=IN_BOX), SIZE)
    assert found is not None and found.what == "the person's own box"
    assert (found.which.tolist(), found.farthest) == ([True, False], 0)
    for empty in ((100, 40, 100, 60), (100, 40, 140, 40)):
        assert outside(person(beyond, box=empty), SIZE) is None


def test_the_farthest_keypoint_is_named_and_only_labelled_ones_are_asked() -> None:
    points = [INSIDE, (300, 50), (-400, 50), (1000, 50), (0, 0)]
    found = outside(person(*points, labelled=[2, 1, 2, 0, 2], box=IN_BOX), SIZE)
    assert found is not None
    assert (found.what, found.which.tolist(), found.farthest) == ("the photo", [False, True, True, False, False], 2)
    # (0, 0) is a mistake of another kind, a place on the photo's edge is not.
    assert outside(person((0, 0), INSIDE, box=IN_BOX), SIZE) is None
    assert outside(person((0, 50), INSIDE, box=IN_BOX), SIZE) is not None
    assert outside(person((60, 0), INSIDE, box=IN_BOX), SIZE) is not None


def test_a_wrong_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (200, 100)).save(path)
    said = f"set.json: images[5]: width and height are {{}}, the photo {path} is {{}}"
    assert size_problem(photo(path=path), SIZE) == ""
    assert size_problem(photo(path=path, size=(100, 201)), SIZE) == said.format("201 x 100", "200 x 100")
    turned = said.format("100 x 200", "200 x 100")
    assert size_problem(photo(path=path, size=(200, 100)), SIZE) == f"{turned}; was it rotated?"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 200)).save(path, exif=exif)  # upright it is 200 x 100
    assert (
        size_problem(photo(path=path, size=(200, 100)), SIZE) == f"{turned}; its EXIF data turn it, but not the labels"
    )


def crowd(count: int, *points: tuple[float, float], **changes: Any) -> list[Person]:
    return [person(*points, place=f"annotations[{number}]", **changes) for number in range(count)]


def test_shares_and_percent_are_no_pixels() -> None:
    said = (
        "annotations[0]: keypoints from 0 to {}, as those of all people; expected pixels, not {} of the photo's sides"
    )
    shares = crowd(1, (0.5, 1), (0.25, 0))
    assert misplaced([photo(*shares, size=(3, 9))]) == said.format(1, "shares")
    assert misplaced([photo(*shares, size=(2, 9))]) == ""  # a photo so small that these are pixels
    assert misplaced([photo(*shares, size=(3, 9)), photo(person((5, 1)), size=(3, 9))]) == ""
    assert misplaced([photo(*shares, size=(3, 9)), photo(person((5, 1), ignore=True), size=(2, 2))]) != ""
    assert misplaced([photo(*crowd(1, (0, 1), (1, 0)))]) == ""  # whole numbers
    assert misplaced([photo(*crowd(1, (0.5, 1), (9, 9), labelled=[2, 0]))]) == said.format(1, "shares")
    percent = (50.5, 100), (25, 0)
    assert misplaced([photo(*crowd(10, *percent), size=(201, 300))]) == said.format(100, "percent")
    assert misplaced([photo(*crowd(9, *percent), size=(201, 300))]) == ""
    assert misplaced([photo(*crowd(10, *percent), size=(200, 300))]) == ""
    assert misplaced([]) == misplaced([photo()]) == misplaced([photo(*crowd(20, (1.5, 2), labelled=0))]) == ""


def test_so_many_people_are_not_wrong_by_chance() -> None:
    """From three people and a tenth of all on. Most of somebody's keypoints must be wrong, not half of them."""

    def text(wrong: int, right: int, *points: tuple[float, float]) -> str:
        return misplaced([photo(*crowd(right, INSIDE), *crowd(wrong, *points))])

    said = "annotations[0]: most keypoints lie far outside the photo, as those of {}; expected pixels of the photo"
    assert text(3, 27, BEYOND, BEYOND, INSIDE) == said.format("3 of 30 people")
    assert text(3, 28, BEYOND, BEYOND, INSIDE) == ""
    assert text(4, 0, BEYOND) == said.format("4 of 4 people")
    assert text(2, 0, BEYOND) == ""
    assert text(9, 0, BEYOND, INSIDE) == ""


def test_photos_are_compared_with_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (200, 100)).save(path)
    there, gone = photo(path=path), photo(path=tmp_path / "gone.png", size=(7, 7))
    check_fit([gone, there, gone])
    with pytest.raises(DataError, match="width and height are 100 x 201, the photo"):
        check_fit([gone, there, photo(path=path, size=(201, 100))])
    with pytest.raises(DataError, match="as those of 3 of 3 people"):
        check_fit([photo(*crowd(3, BEYOND), path=path)])
    path.write_bytes(b"words")
    with pytest.raises(PhotoError, match=r"a\.png: not a photo"):
        check_fit([there])
