"""Keypoint AP against a slow reference written from the definitions, and against pycocotools used directly."""

import copy
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from posedet.data.sources import read_photos
from posedet.errors import DataError, PoseDetError
from posedet.evaluation.checked_entries import coco_evaluator, read_entries
from posedet.evaluation.keypoint_ap import KeypointAP, evaluate_keypoints
from posedet.evaluation.protocols import (
    COCO_PROTOCOL,
    CROPPED_PROTOCOL,
    CROWDPOSE_PROTOCOL,
    OCHUMAN_PROTOCOL,
    PROTOCOLS,
    Protocol,
    protocol_for,
)
from posedet.skeleton import BODY19, Skeleton
from posedet.skeleton import COCO as COCO_SKELETON
from sets import photos_of
from slow_keypoint_ap import TEN, reference


def score(truth: Any, results: Any, protocol: Protocol) -> KeypointAP:
    return evaluate_keypoints(photos_of(truth, protocol.skeleton), results, protocol)


# ---- Truth and results made at random, with everything that the rules have a word for.


PHOTO = {"file_name": "a.jpg", "width": 640, "height": 480}


def random_case(seed: int, skeleton: Skeleton, num_photos: int = 14) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    random = np.random.default_rng(seed)
    num_keypoints = skeleton.num_keypoints
    images, annotations, results = [], [], []
    for number in range(num_photos):
        image_id = int(1000 - 7 * number)  # not in order
        images.append(
            {"id": image_id, **PHOTO, "crowdIndex": float(random.choice([0.0, 0.1, 0.15, 0.2, 0.5, 0.8, 0.95, 2.5]))}
        )
        # Empty photos, few people, and photos with more than 20 results.
        for _ in range(int(random.choice([0, 1, 2, 5]))):
            side = float(random.choice([15, 40, 90, 130, 300]))
            centre = random.uniform(0, 400, 2)
            keypoints = np.concatenate(
                [
                    centre + random.uniform(-0.5, 0.5, (num_keypoints, 2)) * side,
                    random.integers(0, 3, (num_keypoints, 1)),
                ],
                axis=1,
            )
            kind = random.choice(["person"] * 6 + ["crowd", "crowd with keypoints", "unlabelled", "not counted"])
            if kind in ("crowd", "unlabelled"):
                keypoints[:, 2] = 0
            labelled = int((keypoints[:, 2] > 0).sum())
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [*(centre - side / 2).tolist(), side, side * float(random.uniform(0.5, 1.5))],
                "area": side**2 * float(random.uniform(0.2, 1)),
                "iscrowd": int(kind.startswith("crowd")),
                "num_keypoints": 0 if kind == "not counted" else labelled,
                "keypoints": keypoints.ravel().tolist(),
            }
            annotations.append(annotation)
            for _ in range(int(random.choice([0, 1, 1, 2, 9]))):
                noise = random.normal(0, side * random.choice([0, 0.01, 0.03, 0.1, 0.5]), (num_keypoints, 2))
                results.append(pose_at(image_id, keypoints[:, :2] + noise, random))
        for _ in range(int(random.choice([0, 0, 1, 25]))):
            shape = random.uniform(-0.5, 0.5, (num_keypoints, 2)) * random.choice([10, 50, 200])
            results.append(pose_at(image_id, random.uniform(-100, 500, 2) + shape, random))
    random.shuffle(results)
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def pose_at(image_id: int, points: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    # Scores in steps, so that many are equal and the order of ties is seen.
    flat = np.concatenate([points, np.ones((len(points), 1))], axis=1).ravel().tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": flat, "score": float(random.integers(1, 12)) / 12}


def pycocotools_directly(truth: dict, results: list[dict], sigmas) -> dict[str, float]:
    from pycocotools.coco import COCO as Coco
    from pycocotools.cocoeval import COCOeval

    truth = copy.deepcopy(truth) | {"info": {}}
    coco = Coco()
    coco.dataset = truth
    coco.createIndex()
    evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "keypoints")
    evaluator.params.kpt_oks_sigmas = np.array(sigmas)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return dict(zip(TEN, evaluator.stats, strict=True))


def assert_close(scores: KeypointAP, expected: dict[str, float]) -> None:
    got = {name: getattr(scores, name) for name in expected}
    assert got == {name: pytest.approx(value, abs=1e-9, rel=0) for name, value in expected.items()}


def seeds(count: int) -> list[Any]:
    """The first is quick enough for every change."""
    return [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, count))]


@pytest.mark.parametrize("seed", seeds(12))
def test_equal_to_the_definition_and_to_pycocotools(seed: int) -> None:
    truth, results = random_case(seed, COCO_SKELETON)
    scores = score(truth, results, COCO_PROTOCOL)
    assert_close(scores, reference(truth, results, COCO_SKELETON.sigmas, box_area=False))
    assert_close(scores, pycocotools_directly(truth, results, COCO_SKELETON.sigmas))
    counted = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
    assert (scores.num_photos, scores.num_persons, scores.num_poses) == (14, len(counted), len(results))
    assert scores.ap_easy is None and scores.ap_hard_paper is None


def test_the_random_cases_have_everything_in_them() -> None:
    cases = [random_case(seed, COCO_SKELETON) for seed in range(12)]
    per_photo = [[r["image_id"] for r in results].count(i["id"]) for truth, results in cases for i in truth["images"]]
    people = [
        [a["image_id"] for a in truth["annotations"]].count(i["id"]) for truth, _ in cases for i in truth["images"]
    ]
    assert max(per_photo) > 40 and 0 in per_photo and 0 in people
    assert any(a["iscrowd"] and a["num_keypoints"] for truth, _ in cases for a in truth["annotations"])
    assert any(not a["iscrowd"] and not a["num_keypoints"] for truth, _ in cases for a in truth["annotations"])
    aps = [score(*case, COCO_PROTOCOL).ap for case in cases]
    assert min(aps) < 0.4 and max(aps) - min(aps) > 0.1


def test_counts_of_keypoints_may_be_missing_or_written_as_floats() -> None:
    truth, results = random_case(40, COCO_SKELETON)
    expected = score(truth, results, COCO_PROTOCOL)
    for number, annotation in enumerate(truth["annotations"]):
        labelled = sum(flag > 0 for flag in annotation["keypoints"][2::3])
        if number % 2 and annotation["num_keypoints"] == labelled:
            del annotation["num_keypoints"]
        else:
            annotation["num_keypoints"] = float(annotation["num_keypoints"])
    assert score(truth, results, COCO_PROTOCOL) == expected


@pytest.mark.parametrize("seed", seeds(6))
def test_crowdpose_equal_to_its_rules(seed: int) -> None:
    """Area 0.53 of the box; AP of easy, medium and hard photos by the evaluator's bins and by the paper's."""
    truth, results = random_case(100 + seed, CROWDPOSE_PROTOCOL.skeleton)
    for annotation in truth["annotations"]:
        del annotation["area"]
    if seed == 0:  # nothing hard: undefined, and -1
        truth["images"] = [image | {"crowdIndex": min(image["crowdIndex"], 0.79)} for image in truth["images"]]
    scores = score(truth, results, CROWDPOSE_PROTOCOL)
    sigmas = CROWDPOSE_PROTOCOL.skeleton.sigmas
    assert_close(scores, reference(truth, results, sigmas, box_area=True))
    for names, first in (
        (("ap_easy", "ap_medium_crowd", "ap_hard"), 0.2),
        (("ap_easy_paper", "ap_medium_crowd_paper", "ap_hard_paper"), 0.1),
    ):
        parts = [
            {image["id"] for image in truth["images"] if low <= image["crowdIndex"] < high}
            for low, high in ((0, first), (first, 0.8), (0.8, 100))
        ]
        expected = [round(reference(truth, results, sigmas, box_area=True, photos=part)["ap"], 4) for part in parts]
        assert_close(scores, dict(zip(names, expected, strict=True)))
    assert (scores.ap_hard == -1.0) == (seed == 0)


def test_result_boxes_decide_the_size_of_wrong_poses_as_in_pycocotools() -> None:
    truth, results = random_case(50, COCO_SKELETON)
    random = np.random.default_rng(0)
    boxed = [result | {"bbox": [0, 0, *random.uniform(1, 200, 2).tolist()]} for result in results]
    scores = score(truth, boxed, COCO_PROTOCOL)
    assert_close(scores, pycocotools_directly(truth, boxed, COCO_SKELETON.sigmas))
    assert scores.ap_medium != score(truth, results, COCO_PROTOCOL).ap_medium


def test_several_categories_with_the_same_keypoints_are_scored_as_one() -> None:
    """Also where results use only one of them."""
    truth, results = random_case(60, COCO_SKELETON)
    expected = score(truth, results, COCO_PROTOCOL)
    truth["categories"] += [{"id": 5, "name": "statue"}, {"id": 9, "name": "ghost, of which there is none"}]
    for number, entry in enumerate(truth["annotations"]):
        entry["category_id"] = (1, 5)[number % 3 == 0]
    assert score(truth, results, COCO_PROTOCOL) == expected


# ---- Cases that one can work out by hand.

DOT = Skeleton("dot", ("centre",), (), (), (0.1,))
DOTS = protocol_for(DOT)


def dots(*persons: dict[str, Any]) -> dict[str, Any]:
    """A photo with people of one keypoint, 100 pixels apart, each with an area of 50 x 50."""
    common = {"image_id": 1, "category_id": 1, "area": 2500.0, "iscrowd": 0, "num_keypoints": 1}
    return {
        "images": [{"id": 1, **PHOTO}],
        "annotations": [
            common | {"id": n + 1, "keypoints": [100 * n, 0, 2], "bbox": [100 * n - 25, -25, 50, 50]} | person
            for n, person in enumerate(persons)
        ],
        "categories": [{"id": 1}],
    }


def found(*poses: tuple[float, float]) -> list[dict[str, Any]]:
    """Results at (x, 0) with a score each."""
    return [{"image_id": 1, "category_id": 1, "keypoints": [x, 0, 1], "score": score} for x, score in poses]


def test_by_hand() -> None:
    both = dots({}, {})
    assert score(both, found((0, 0.9), (100, 0.8)), DOTS).ap == pytest.approx(1)
    # One of two found: precision 1 at the 51 recalls up to 0.50.
    half = score(both, found((0, 0.9)), DOTS)
    assert (half.ap, half.ar, half.ap_medium, half.ap_large) == (pytest.approx(51 / 101), 0.5, half.ap, -1)
    written = half.to_dict()
    assert (written["protocol"], written["num_persons"], written["ap"], written["ap_hard"]) == ("dot", 2, half.ap, None)
    # A wrong one scored above: precision 1/2.
    assert score(both, found((300, 1.0), (0, 0.9)), DOTS).ap == pytest.approx(51 / 101 / 2)
    # exp(-d^2 / (8 x 0.1^2 x 2500)) = 0.72: above five of the ten thresholds.
    near = float(np.sqrt(-200 * np.log(0.72)))
    assert score(dots({}), found((near, 0.9)), DOTS).ap == pytest.approx(0.5)
    nearer = score(dots({}), found((float(np.sqrt(-200 * np.log(0.77))), 0.9)), DOTS)
    assert (nearer.ap, nearer.ap50, nearer.ap75, nearer.ar75) == (pytest.approx(0.6), *[pytest.approx(1)] * 3)


def test_the_evaluator_writes_nothing_into_checked_entries() -> None:
    """They are matched again and again, with some changed."""
    checked = read_entries(photos_of(dots({"id": 8}, {"id": 0, "ignore": 1}), DOT), found((0, 0.9), (100, 0.8)), DOTS)
    before = copy.deepcopy((checked.persons, checked.poses))
    assert checked.to_find.tolist() == [True, False] and [photo.image_id for photo in checked.photos] == [1]
    matched = [image for image in coco_evaluator(checked).evalImgs if image]
    assert [image["dtIds"] for image in matched][:1] == [[1, 2]] and matched[0]["gtIds"] == [1, 2]
    assert all(
        person.keys() == old.keys() and all(np.array_equal(person[key], old[key]) for key in old)
        for person, old in zip(checked.persons + checked.poses, before[0] + before[1], strict=True)
    )


def test_nothing_found_and_nothing_to_find() -> None:
    nothing = score(dots({}), [], DOTS)
    assert (nothing.ap, nothing.ar, nothing.num_poses) == (0.0, 0.0, 0)
    for nobody in (dots(), dots({"ignore": 1})):
        with pytest.raises(DataError, match=r"^no labelled people in 1 photos, so there is nothing to evaluate$"):
            score(nobody, found((0, 0.9)), DOTS)


@pytest.mark.parametrize(
    "ignored",
    [
        {"ignore": 1},
        {"ignore": True, "num_keypoints": 0, "keypoints": [0, 0, 0]},
        {"num_keypoints": 0},
        {"num_keypoints": 3, "keypoints": [100, 0, 0]},  # the flags say that nothing is labelled
        {"iscrowd": 1},
    ],
)
def test_ignored_people_are_neither_missed_nor_wrongly_found(ignored: dict[str, Any]) -> None:
    truth = dots({}, ignored)
    missed = score(truth, found((0, 0.8)), DOTS)
    assert (missed.ap, missed.ar, missed.num_persons) == (pytest.approx(1), 1, 1)
    assert score(truth, found((100, 0.9), (0, 0.8)), DOTS).ap == pytest.approx(1)
    assert score(dots({}, {}), found((0, 0.8)), DOTS).ar == 0.5


def test_many_poses_may_lie_in_a_crowd_but_only_one_on_an_ignored_person() -> None:
    poses = found((100, 0.9), (100, 0.85), (0, 0.8))
    assert score(dots({}, {"iscrowd": 1}), poses, DOTS).ap == pytest.approx(1)
    assert score(dots({}, {"ignore": 1}), poses, DOTS).ap == pytest.approx(0.5)


AREAS = [
    ({"area": 2500.0}, 2500),
    ({"area": 0}, 0.53 * 40 * 50),
    ({}, 0.53 * 40 * 50),
    ({"bbox": [0, 0, 0, 50]}, 20 * 30),
    ({"bbox": [0, 0, 40, 0], "keypoints": [3, 4, 2, 23, 4, 2]}, 1),
    ({"bbox": [0, 0, 0, 0], "keypoints": [3, 4, 2, 9, 9, 0]}, 1),
]


@pytest.mark.parametrize(("change", "area"), AREAS)
def test_a_missing_area_is_that_of_the_box_or_the_keypoints(change: dict[str, Any], area: float) -> None:
    """The same for training, evaluation and check: what is read has it; a protocol of boxes never looks at it."""
    two = Skeleton("two", ("a", "b"), (), (), (0.1, 0.1))
    entry = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [3, 4, 2, 23, 34, 2], "bbox": [0, 0, 40, 50]}
    truth = dots() | {"annotations": [entry | change]}
    (photo,) = photos_of(truth, two)
    assert photo.persons[0].area == pytest.approx(area)
    (scored,) = read_entries([photo], [], protocol_for(two)).persons
    assert scored["area"] == photo.persons[0].area
    by_box = Protocol(**{**vars(protocol_for(two)), "area": "box"})
    (scored,) = read_entries([photo], [], by_box).persons
    assert scored["area"] == pytest.approx(0.53 * 40 * 50 if change.get("area") == 2500 else area)


def test_an_annotation_with_id_0_can_be_found() -> None:
    assert score(dots({"id": 0}), found((0, 0.9)), DOTS).ap == pytest.approx(1)


def test_sigmas_of_the_skeleton_count() -> None:
    far = found((30.0, 0.9))
    wide = protocol_for(Skeleton("wide", ("centre",), (), (), (0.3,)))
    # exp(-900 / (8 sigma^2 2500)): 0.011 and 0.607.
    assert score(dots({}), far, DOTS).ap == 0
    assert score(dots({}), far, wide).ap == pytest.approx(0.3)


def test_only_the_best_of_a_photo_count() -> None:
    poses = found(*[(500, 0.9)] * 20, (0, 0.5))
    assert score(dots({}), poses, DOTS).ar == 0
    more = Protocol(**{**vars(DOTS), "max_detections": 21})
    assert score(dots({}), poses, more).ar == 1


def test_keypoints_of_the_truth_are_found_by_name() -> None:
    """19 keypoints in another order: as if the file had COCO's 17 alone."""
    truth, results = random_case(70, COCO_SKELETON)
    truth["annotations"] = [a for a in truth["annotations"] if a["num_keypoints"]]
    plain = score(truth, results, COCO_PROTOCOL)
    names = list(reversed(BODY19.keypoints))
    truth["categories"][0]["keypoints"] = names
    for annotation in truth["annotations"]:
        triples = np.array([*annotation["keypoints"], 5, 5, 2, 9, 9, 2]).reshape(19, 3)
        annotation["keypoints"] = triples[::-1].ravel().tolist()
    assert score(truth, results, COCO_PROTOCOL) == plain
    # Who has none of the wanted keypoints labelled is ignored.
    only_head = [5, 5, 2, 9, 9, 2, *[0] * 51]
    truth["annotations"] = [{**truth["annotations"][0], "keypoints": only_head, "num_keypoints": 2}]
    with pytest.raises(DataError, match="no labelled people"):
        score(truth, results, COCO_PROTOCOL)


def test_files_and_content_give_the_same_silently_and_unchanged(tmp_path: Path, capsys) -> None:
    truth, results = random_case(80, COCO_SKELETON)
    before = copy.deepcopy((truth, results))
    scores = score(truth, results, COCO_PROTOCOL)
    assert (truth, results) == before
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "truth.json.gz").write_bytes(gzip.compress(json.dumps(truth).encode()))
    photos = read_photos(str(tmp_path / "truth.json.gz"), COCO_SKELETON, check_files=False)
    assert evaluate_keypoints(photos, str(tmp_path / "results.json"), COCO_PROTOCOL) == scores
    assert evaluate_keypoints(photos, tmp_path / "results.json", COCO_PROTOCOL) == scores
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_protocols() -> None:
    assert (
        protocol_for(COCO_SKELETON) is COCO_PROTOCOL and protocol_for(CROWDPOSE_PROTOCOL.skeleton) is CROWDPOSE_PROTOCOL
    )
    assert PROTOCOLS == {
        "coco": COCO_PROTOCOL,
        "crowdpose": CROWDPOSE_PROTOCOL,
        "ochuman": OCHUMAN_PROTOCOL,
        "cropped": CROPPED_PROTOCOL,
    }
    assert (DOTS.name, DOTS.skeleton, DOTS.area, DOTS.crowd_bins) == ("dot", DOT, "annotation", None)


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(PoseDetError) as caught:
        score(dots({}), found((0, 0.5)), DOTS)
    assert str(caught.value) == 'evaluation needs pycocotools: pip install "posedet[evaluate]"'


RESULT_DAMAGE = [
    ({"image_id": 2}, "results[1].image_id: 2 is not an image of the annotations"),
    ({"image_id": "1"}, "results[1].image_id: '1', expected a whole number"),
    ({"category_id": 3}, "results[1].category_id: 3 is not among the file's categories (1, 2)"),
    ({"category_id": 2}, "results[1].category_id: 2 is a category without keypoints in the annotations"),
    ({"keypoints": [1, 2, 3, 4]}, "results[1].keypoints: 4 numbers, expected 3 (1 x 3)"),
    ({"keypoints": [1, float("nan"), 1]}, "results[1].keypoints[1]: nan, expected a number of at most 1e+09"),
    ({"keypoints": [1, float("inf"), 1]}, "results[1].keypoints[1]: inf, expected a number of at most 1e+09"),
    ({"score": float("nan")}, "results[1].score: nan, expected a number from -1e+09 to 1e+09"),
    ({"score": None}, "results[1].score: None, expected a number from -1e+09 to 1e+09"),
    ({"id": 5}, "results[1].id: duplicate id 5"),
    ({"bbox": [1, 2]}, "results[1].bbox: 2 numbers, expected 4 (x, y, width, height)"),
]


@pytest.mark.parametrize(("change", "message"), RESULT_DAMAGE)
def test_damaged_results_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    truth = dots({})
    truth["categories"] = [{"id": 1, "keypoints": ["centre"]}, {"id": 2, "name": "ball"}]
    good, bad = found((0, 0.5), (1, 0.4))
    results = [good | {"id": 5, "bbox": [1, 2, 3, 4]}, bad | {"bbox": [1, 2, 3, 4]} | change]
    with pytest.raises(DataError) as caught:
        score(truth, results, DOTS)
    assert str(caught.value) == message
    path = tmp_path / "found.json"
    path.write_text(json.dumps(results))
    with pytest.raises(DataError) as caught:
        score(truth, path, DOTS)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("key", ["image_id", "category_id", "keypoints", "score"])
def test_missing_fields_of_results_are_named(key: str) -> None:
    results = found((0, 0.5))
    del results[0][key]
    with pytest.raises(DataError, match=rf"^results\[0\]: '{key}' is missing$"):
        score(dots({}), results, DOTS)


def test_damaged_truth_is_named() -> None:
    def message(change: dict[str, Any], protocol: Protocol = DOTS, **parts: Any) -> str:
        with pytest.raises(DataError) as caught:
            score(dots({}, change) | parts, [], protocol)
        return str(caught.value)

    assert message({"id": 1}) == "truth: annotations[1].id: duplicate id 1"
    assert message({"keypoints": [1, 2]}) == "truth: annotations[1].keypoints: 2 numbers, expected 3 (1 x 3)"
    assert message({"area": None}) == "truth: annotations[1].area: None, expected a number from 0 to 1e+18"
    assert (
        message({"num_keypoints": -1}) == "truth: annotations[1].num_keypoints: -1, expected a number from 0 to 1e+09"
    )
    assert message({"image_id": 9}) == "truth: annotations[1].image_id: 9 is not among the file's images"
    assert message({}, images=[], annotations=[]) == "no photos, so there is nothing to evaluate"
    assert message({}, categories=[]) == "truth: categories: none has 'keypoints'; is this a COCO-style keypoint file?"
    twice = photos_of(dots({}), DOT) * 2
    with pytest.raises(DataError, match=r"^two photos have the same image id$"):
        evaluate_keypoints(twice, [], DOTS)
    crowded = Protocol(**{**vars(DOTS), "crowd_bins": (0.2, 0.8)})
    assert message({}, crowded) == "truth: images[0]: the crowd index ('crowdIndex') is missing"
    with pytest.raises(DataError, match=r"^results: \{\}, expected a list$"):
        score(dots({}), {}, DOTS)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([0, 1, 1e300, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_given_it_is_scored_or_refused_in_one_line(drawn: st.DataObject) -> None:
    """Anything anywhere in good truth and results, replaced by something else."""
    given_: Any = {"truth": dots({}, {"ignore": 1}), "results": [r | {"bbox": [0, 0, 9, 9]} for r in found((0, 0.5))]}
    place = given_
    while True:
        key = drawn.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or drawn.draw(st.integers(0, 4)) == 0:
            break
        place = place[key]
    place[key] = drawn.draw(junk.filter(lambda value: not isinstance(value, str)) if place is given_ else junk)
    try:
        assert -1 <= score(given_["truth"], given_["results"], DOTS).ap <= 1 + 1e-12
    except DataError as refused:
        assert "\n" not in str(refused) and str(refused).startswith(("truth: ", "results", "no labelled people"))


@given(st.integers(0, 10**6), st.floats(0.1, 10), st.floats(-500, 500))
@settings(max_examples=15, deadline=None)
def test_scaling_and_shifting_everything_changes_nothing(seed: int, scale: float, shift: float) -> None:
    """OKS is relative to the size of the person; only the bounds of medium and large are in pixels."""
    truth, results = random_case(seed, COCO_SKELETON, num_photos=4)
    assume(not all(person.ignore for photo in photos_of(truth, COCO_SKELETON) for person in photo.persons))
    # Matches exactly on a threshold may fall either way once numbers are rounded: none of the shapes are exact.
    moved_truth, moved_results = copy.deepcopy((truth, results))
    for entry in moved_truth["annotations"] + moved_results:
        table = np.array(entry["keypoints"]).reshape(-1, 3)
        table[:, :2] = table[:, :2] * scale + shift
        entry["keypoints"] = table.ravel().tolist()
    for entry in moved_truth["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x * scale + shift, y * scale + shift, width * scale, height * scale]
        entry["area"] *= scale**2
    names = [name for name in TEN if "medium" not in name and "large" not in name]
    plain = score(truth, results, COCO_PROTOCOL)
    assert_close(score(moved_truth, moved_results, COCO_PROTOCOL), {name: getattr(plain, name) for name in names})


def test_a_box_decides_the_size_of_people_in_crowdpose_even_beside_an_area() -> None:
    entry: dict[str, Any] = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 20, 30, 40],
    }
    truth: dict[str, Any] = {"images": [{"id": 1, **PHOTO}], "categories": [{"id": 1}]}

    def area(protocol: Protocol) -> float:
        truth["annotations"] = [entry | {"area": 7.0, "keypoints": [5, 5, 2] * protocol.skeleton.num_keypoints}]
        checked = read_entries(photos_of(truth, protocol.skeleton), [], protocol)
        return float(checked.persons[0]["area"])

    assert area(CROWDPOSE_PROTOCOL) == pytest.approx(0.53 * 30 * 40)
    assert area(COCO_PROTOCOL) == 7
