"""Which location learns which person: the official cases, and one loop over persons and cells beside the tensors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from people import Labelled, Region, batch_of, persons_of, proposals_at
from posedet.config import AssignConfig, Config, load_config
from posedet.oks import oks
from posedet.skeleton import COCO
from posedet.training.assignment import (
    NOBODY,
    RANDOM_LOCATIONS,
    Persons,
    Selection,
    assign_by_oks,
    assign_coarse,
    choose_locations,
    in_ignored,
    person_levels,
    pose_oks,
    score_labels,
)
from posedet.training.batches import Batch

DLA, HRNET = (8, 16, 32, 64), (8, 16, 32)
PAPER = load_config("dla34-coco").assign
OURS = load_config("posedet-s").assign
SIGMAS = torch.tensor(COCO.sigmas)

laws = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


# --- level (facts 15.3) ---


@pytest.mark.parametrize(
    ("size", "dla", "hrnet"),
    [
        ((31, 31), 3, 3),
        ((32, 32), 3, 3),
        ((63, 63), 3, 3),
        ((64, 64), 4, 4),
        ((127, 127), 4, 4),
        ((128, 128), 5, 5),
        ((255, 255), 5, 5),
        ((256, 256), 6, 5),
        ((20, 500), 4, 4),
        ((100, 400), 5, 5),
        ((5000, 5000), 6, 5),
        ((40, 0), 3, 3),
        ((0.25, 4000), 3, 3),
        ((0, 0), 3, 3),
    ],
)
def test_levels(size, dla, hrnet):
    sizes = torch.tensor([[size]], dtype=torch.float32)
    assert 3 + person_levels(sizes, DLA).item() == dla
    assert 3 + person_levels(sizes, HRNET).item() == hrnet


# --- coarse poses: the official cases (facts 15.4) ---

FOUR = np.array([[30, 30], [70, 30], [30, 70], [70, 70]], float)
A, B = Labelled(FOUR), Labelled(FOUR - 2.5)


def coarse_owner(*persons: Labelled | Region, config: AssignConfig = PAPER, side: int = 128) -> Tensor:
    num_keypoints = len(persons[0].keypoints)
    batch = batch_of(persons, num_keypoints=num_keypoints, side=side)
    proposals = proposals_at(DLA, side)
    return assign_coarse(batch, persons_of(batch), proposals, DLA, config)[0]


def owned(owner: Tensor) -> dict[int, int]:
    """Location -> person."""
    return {int(cell): int(owner[cell]) for cell in (owner != NOBODY).nonzero()}


def test_nearest_cell_of_the_level():
    assert owned(coarse_owner(A)) == {102: 0}
    assert owned(coarse_owner(B)) == {102: 0}


def test_nearer_person_takes_the_cell():
    assert owned(coarse_owner(A, B)) == {102: 1}
    assert owned(coarse_owner(B, A)) == {102: 0}
    assert owned(coarse_owner(A, A)) == {102: 0}


def test_uneven_person():
    assert owned(coarse_owner(Labelled([(10, 10), (10, 12), (50, 90)]))) == {83: 0}


def test_unlabelled_keypoints_do_not_move_the_centre():
    assert owned(coarse_owner(Labelled([*FOUR, (127, 0)], weights=(1, 1, 1, 1, 0)))) == {102: 0}


def test_too_few_keypoints():
    assert owned(coarse_owner(Labelled(FOUR, weights=(1, 0, 1, 0)))) == {}
    assert owned(coarse_owner(Labelled(FOUR, weights=(1, 0, 1, 1)))) != {}


def test_equally_near_cells():
    assert owned(coarse_owner(Labelled(FOUR + 2))) == {102: 0}


def test_distance_is_in_units_of_the_person():
    """Both persons want cell (48, 48); the one further away in pixels is nearer for its size."""
    small = Labelled([(44, 44), (54, 44), (44, 54), (54, 54)])  # centre (49, 49), 10 x 10: 0.1414
    large = Labelled([(20, 20), (80, 20), (20, 80), (80, 80)])  # centre (50, 50), 60 x 60: 0.0471
    assert owned(coarse_owner(small, large)) == {102: 1}


def test_centre_of_the_box():
    """Keypoints crowd at the left: their mean is (28.8, 48), the middle of their box (48, 48)."""
    person = Labelled([(16, 40), (16, 56), (16, 48), (80, 48), (16, 48), (0, 48)], weights=(1, 1, 1, 1, 1, 0))
    by_box = load_config("dla34-coco", ["assign.centre=box"]).assign
    assert owned(coarse_owner(person, config=by_box)) == {6 * 16 + 6: 0}
    assert owned(coarse_owner(person)) == {6 * 16 + 4: 0}


def test_person_without_width():
    assert owned(coarse_owner(Labelled([(40, 40), (40, 48), (40, 56)]))) == {6 * 16 + 5: 0}


@pytest.mark.slow
def test_one_keypoint_is_as_large_as_its_person():
    """A wrist of a person of 200 x 200 pixels: a side of 0.32 * 200 = 64, so stride 16, nearest cell (48, 64)."""
    config = load_config("dla34-coco", ["assign.min_keypoints=1", "assign.least_side=0.32"]).assign
    wrist = Labelled([(50, 60), (0, 0)], weights=(1, 0), area=200.1**2)
    batch = batch_of([wrist], num_keypoints=2)
    persons = Persons.of(batch, config)
    assert owned(assign_coarse(batch, persons, proposals_at(DLA, 128), DLA, config)[0]) == {256 + 4 * 8 + 3: 0}
    middle = persons.corners + persons.sizes / 2
    torch.testing.assert_close(middle[0, 0], torch.tensor([50.0, 60.0]))


def test_each_image_for_itself():
    batch = batch_of([A], [], [B, A], num_keypoints=4)
    owner = assign_coarse(batch, persons_of(batch), proposals_at(DLA, 128, num_images=3), DLA, PAPER)
    assert [owned(row) for row in owner] == [{102: 0}, {}, {102: 0}]


# --- coarse poses: a loop beside it ---


def slow_coarse(batch: Batch, locations: Tensor, strides: Tensor, config: AssignConfig, *, largest: int) -> Tensor:
    """Facts 4.1 person by person; the level by the size itself, not its logarithm."""
    owner = torch.full((len(batch.keypoints), len(locations)), NOBODY)
    for b in range(len(owner)):
        best: dict[int, tuple[float, int]] = {}
        ways: dict[int, list[tuple[float, int]]] = {}
        for p in range(batch.keypoints.shape[1]):
            points = batch.keypoints[b, p][batch.weights[b, p] > 0].double()
            if len(points) < config.min_keypoints:
                continue
            least = max(1e-6, config.least_side * math.sqrt(batch.areas[b, p]))
            width, height = (max(least, float(side)) for side in points.amax(0) - points.amin(0))
            size = math.sqrt(width * height)
            stride = next((s for s in (8, 16, 32) if size < 8 * s), 64)
            centre = points.mean(0) if config.centre == "keypoints" else (points.amax(0) + points.amin(0)) / 2
            ways[p] = sorted(
                (math.hypot((float(x) - centre[0]) / width, (float(y) - centre[1]) / height), m)
                for m, (x, y) in enumerate(locations.tolist())
                if strides[m] == min(stride, largest)
            )
            for distance, m in ways[p][: config.positives]:
                if m not in best or distance < best[m][0]:
                    best[m] = distance, p
        taken = {m: p for m, (_, p) in best.items()}
        if config.positives > 1:
            for p in ways:
                if p not in taken.values():
                    free = [m for _, m in ways[p] if m not in taken]
                    if free:
                        taken[free[0]] = p
        for m, p in taken.items():
            owner[b, m] = p
    return owner


def crowd(seed: int, num_images: int, num_persons: int, spread: float, side: int) -> Batch:
    """Persons of all sizes on top of each other, some keypoints unlabelled, places that are never equally near."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(num_images):
        persons = []
        for _ in range(generator.integers(0, num_persons + 1)):
            size = np.exp(generator.uniform(np.log(4), np.log(spread), 2))
            points = generator.uniform(0, side, 2) + generator.uniform(-0.5, 0.5, (5, 2)) * size
            weights = (generator.random(5) < 0.8).astype(float)
            persons.append(Labelled(points, weights=weights, box=(0, 0, 1, 1), area=float(size.prod())))
        images.append(persons)
    return batch_of(*images, num_keypoints=5, side=side)


def check_coarse(
    strides: tuple[int, ...], seed: int, num_persons: int, spread: float, origin: float, **settings: object
) -> None:
    side = 64
    settings["min_keypoints"] = 1
    config = load_config("dla34-coco", [f"assign.{key}={value}" for key, value in settings.items()])
    batch = crowd(seed, 2, num_persons, spread, side)
    proposals = proposals_at(strides, side, num_images=2, origin=origin)
    owner = assign_coarse(batch, persons_of(batch, config), proposals, strides, config.assign)
    expected = slow_coarse(batch, proposals.locations, proposals.strides, config.assign, largest=strides[-1])
    assert owner.dtype == torch.int64
    torch.testing.assert_close(owner, expected)


@pytest.mark.parametrize("positives", [1, 9])
def test_one_crowd_as_in_the_loop(positives):
    for seed, centre in enumerate(("keypoints", "box")):
        check_coarse(HRNET, seed, 12, 60.0, 0.5, positives=positives, centre=centre, least_side=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("strides", [DLA, HRNET], ids=["four levels", "three levels"])
@pytest.mark.parametrize("positives", [1, 9])
@pytest.mark.parametrize("centre", ["keypoints", "box"])
@laws
@given(
    seed=st.integers(0, 2**32 - 1),
    num_persons=st.integers(0, 12),
    spread=st.sampled_from([12.0, 60.0, 600.0]),
    origin=st.sampled_from([0.0, 0.5]),
    least_side=st.sampled_from([0.0, 0.3]),
)
def test_coarse_as_in_the_loop(strides, positives, centre, seed, num_persons, spread, origin, least_side):
    settings = {"positives": positives, "centre": centre, "least_side": least_side}
    check_coarse(strides, seed, num_persons, spread, origin, **settings)


def test_a_person_half_a_pixel_wide():
    """Its unit is its width: 0.3 pixels are 0.6 of it. Another is 3.2 pixels away, 0.4 of its 8."""
    narrow = Labelled([(40.05, 38), (40.55, 38), (40.05, 42), (40.55, 42)])
    wide = Labelled([(39.2, 36), (47.2, 36), (39.2, 44), (47.2, 44)])
    assert owned(coarse_owner(narrow, wide)) == {5 * 16 + 5: 1}
    assert owned(coarse_owner(narrow)) == {5 * 16 + 5: 0}


def test_two_positives():
    person = Labelled([(38, 39), (42, 39), (38, 43), (42, 43)])  # centre (40, 41)
    config = load_config("dla34-coco", ["assign.positives=2"]).assign
    assert owned(coarse_owner(person, config=config)) == {5 * 16 + 5: 0, 6 * 16 + 5: 0}


def test_losers_of_a_conflict():
    """With several positives nobody is left without, and the loser takes the nearest cell that is still free."""
    config = load_config("dla34-coco", ["assign.positives=4"])
    batch = batch_of([A, A, A], num_keypoints=4)
    proposals = proposals_at(DLA, 128)
    owner = assign_coarse(batch, persons_of(batch), proposals, DLA, config.assign)[0]
    cells = owned(owner)
    assert sorted(m for m, p in cells.items() if p == 0) == [102, 103, 118, 119]
    # (48, 56), (56, 48), (56, 56) are gone too; the nearest free one of (50, 50) is (40, 48), then (48, 40).
    assert {m: p for m, p in cells.items() if p != 0} == {86: 1, 101: 2}


def test_more_persons_than_cells():
    """The level of stride 64 has one cell in this patch; those who find none are not forced on another level."""
    huge = Labelled(np.array([[0, 0], [300, 0], [0, 300], [300, 300]], float) - 100)
    config = load_config("dla34-coco", ["assign.positives=9"])
    batch = batch_of([huge, huge], num_keypoints=4, side=64)
    owner = assign_coarse(batch, persons_of(batch), proposals_at(DLA, 64), DLA, config.assign)[0]
    assert owned(owner) == {64 + 16 + 4: 0}


def test_assignment_needs_no_gradient_and_changes_nothing():
    batch = batch_of([A, B], num_keypoints=4)
    before = [x.clone() for x in batch if isinstance(x, Tensor)]
    proposals = proposals_at(DLA, 128)
    persons = persons_of(batch, load_config("posedet-s"))
    assign_coarse(batch, persons, proposals, DLA, OURS)
    for x, y in zip((x for x in batch if isinstance(x, Tensor)), before, strict=True):
        assert torch.equal(x, y)


# --- OKS (facts 15.1, 15.5) ---

POINTS = np.array([(100 + 6 * i, 60 + (7 * i) % 40) for i in range(17)], float)
LABELLED = [0.0 if i in (3, 8) else 1.0 for i in range(17)]
GT = Labelled(POINTS, weights=LABELLED, box=(95, 55, 205, 125))


def shifted(x: float, y: float = 0.0) -> np.ndarray:
    return POINTS + np.array([x, y])


def moved(person: Labelled, x: float, y: float) -> Labelled:
    box = np.asarray(person.box, float) + np.array([x, y, x, y])
    return person._replace(keypoints=np.asarray(person.keypoints) + np.array([x, y]), box=box)


def oks_of(batch: Batch, poses: list[np.ndarray], config: Config | None = None) -> Tensor:
    tensor = torch.tensor(np.array(poses), dtype=torch.float32)[None]
    return pose_oks(tensor, batch, persons_of(batch, config), SIGMAS)


@pytest.mark.parametrize(
    ("shift", "expected"), [((0, 0), 1.0), ((3, -4), 0.737177), ((6, 8), 0.453911), ((12, -16), 0.119370)]
)
def test_official_oks(shift, expected):
    batch = batch_of([GT], num_keypoints=17)
    assert oks_of(batch, [shifted(*shift)]).item() == pytest.approx(expected, abs=1e-6)


def test_official_oks_of_single_keypoints():
    batch = batch_of([GT], num_keypoints=17)
    pose = POINTS.copy()
    pose[0] += (2, 0)
    pose[11] += (20, 0)
    assert oks_of(batch, [pose]).item() == pytest.approx(0.943123, abs=1e-6)
    pose[3] += 1000  # not labelled
    assert oks_of(batch, [pose]).item() == pytest.approx(0.943123, abs=1e-6)


@pytest.mark.parametrize(("shift", "expected"), [((3, -4), 0.747276), ((6, 8), 0.467393), ((12, -16), 0.131044)])
def test_oks_by_the_labelled_area(shift, expected):
    """COCO's own form: the labelled area instead of half the box."""
    batch = batch_of([GT._replace(area=0.53 * 7700)], num_keypoints=17)
    assert oks_of(batch, [shifted(*shift)], load_config("posedet-s")).item() == pytest.approx(expected, abs=1e-6)


@laws
@given(seed=st.integers(0, 2**32 - 1), num_poses=st.integers(1, 7), num_persons=st.integers(1, 5))
def test_oks_twin(seed, num_poses, num_persons):
    """The tensor form equals `posedet.oks.oks`, which knows no persons that are not learnt."""
    generator = np.random.default_rng(seed)
    points = generator.uniform(0, 100, (num_persons, 17, 2)).astype(np.float32)
    weights = (generator.random((num_persons, 17)) < generator.random()).astype(float)
    areas = generator.uniform(10, 5000, num_persons).astype(np.float32)
    batch = batch_of(
        [Labelled(p, w, (0, 0, 1, 1), a) for p, w, a in zip(points, weights, areas, strict=True)], num_keypoints=17
    )
    persons = persons_of(batch, load_config("posedet-s", ["assign.min_keypoints=3"]))
    near = points[generator.integers(num_persons, size=num_poses)]
    poses = (near + generator.normal(0, 5, (num_poses, 17, 2))).astype(np.float32)
    similarity = pose_oks(torch.from_numpy(poses)[None], batch, persons, SIGMAS)[0]
    expected = oks(poses, points, COCO.sigmas, areas, weights > 0)
    valid = weights.sum(1) >= 3
    np.testing.assert_array_equal(persons.valid[0], valid)
    np.testing.assert_allclose(similarity[:, valid], expected[:, valid], atol=1e-5)
    assert (similarity[:, ~valid] == -1).all()


def test_oks_of_one_labelled_keypoint():
    """2 pixels off, a sigma of 0.026 and an area of 1000: exp(-4 / (8 x 0.026^2 x 1000))."""
    only = GT._replace(weights=[1.0] + 16 * [0.0], area=1000.0)
    batch = batch_of([only], num_keypoints=17)
    config = load_config("posedet-s", ["assign.min_keypoints=1"])
    assert oks_of(batch, [shifted(2)], config).item() == pytest.approx(math.exp(-4 / (8 * 0.026**2 * 1000)))


def test_oks_of_a_person_without_area():
    batch = batch_of([GT._replace(box=(95, 55, 95, 125))], num_keypoints=17)
    assert oks_of(batch, [POINTS, POINTS + 1]).flatten().tolist() == [1.0, 0.0]


# --- labels by OKS (facts 15.5) ---

SHIFTS = (5.5, 6, 7, 7.5, 8, 9)
OKS_OF_SHIFTS = (0.702810, 0.669888, 0.608677, 0.580250, 0.553081, 0.501863)


def learnt(similarity: Tensor) -> list[int]:
    return assign_by_oks(similarity, positive=PAPER.refine_oks, rescue=PAPER.rescue_oks)[0].tolist()


def labels(batch: Batch, similarity: Tensor) -> list[str]:
    """ "pos", "neg", or "-" for ignored, of every pose."""
    targets, weights = score_labels(similarity, batch, persons_of(batch))
    return [
        ("pos" if target else "neg") if weight else "-"
        for target, weight in zip(targets[0].tolist(), weights[0].tolist(), strict=True)
    ]


def test_official_labels_of_the_score():
    batch = batch_of([GT], num_keypoints=17)
    similarity = oks_of(batch, [shifted(t) for t in SHIFTS])
    torch.testing.assert_close(similarity.flatten(), torch.tensor(OKS_OF_SHIFTS), atol=1e-6, rtol=0)
    assert labels(batch, similarity) == ["pos", "pos", "pos", "-", "-", "-"]
    similarity = oks_of(batch, [shifted(*shift) for shift in ((3, -4), (6, 8), (12, -16))])
    assert labels(batch, similarity) == ["pos", "neg", "neg"]


def test_bounds_of_the_labels():
    """At 0.6 positive, at 0.5 ignored, just below background."""
    batch = batch_of([GT], num_keypoints=17)
    assert labels(batch, torch.tensor([0.6, 0.59999, 0.5, 0.49999, 0.0]).view(1, 5, 1)) == [
        "pos",
        "-",
        "-",
        "neg",
        "neg",
    ]


def test_official_positives_of_the_refinement():
    batch = batch_of([GT], num_keypoints=17)

    def refined(*shifts: float) -> list[int]:
        return learnt(oks_of(batch, [shifted(t) for t in shifts]))

    assert refined(*SHIFTS) == [0, -1, -1, -1, -1, -1]
    assert refined(*SHIFTS[1:]) == [0, -1, -1, -1, -1]
    assert refined(9) == [-1]
    assert refined(5, 4, 3, 9) == [0, 0, 0, -1]  # as many as there are
    assert refined(6, 6, 9) == [0, 0, -1]  # all of the best


def test_bounds_of_the_refinement():
    assert learnt(torch.tensor([0.7, 0.8]).view(1, 2, 1)) == [0, 0]
    assert learnt(torch.tensor([0.6999, 0.8]).view(1, 2, 1)) == [-1, 0]
    assert learnt(torch.tensor([0.52, 0.51]).view(1, 2, 1)) == [0, -1]
    assert learnt(torch.tensor([0.5199, 0.51]).view(1, 2, 1)) == [-1, -1]


def test_without_rescue():
    similarity = torch.tensor([[0.69, 0.2], [0.75, 0.72], [0.1, 0.71], [-1, -1]])[None]
    for rescue in (0.0, 2.0):  # 2.0: what the paper writes, as no OKS is above 1
        assert assign_by_oks(similarity, positive=0.7, rescue=rescue)[0].tolist() == [-1, 0, 1, -1]


def test_rescue_takes_from_another_person():
    """The official low-quality match: a candidate that is GT1 exactly learns GT2, of which it is the best."""
    second = moved(GT, 2, 0)
    batch = batch_of([GT, second], num_keypoints=17)
    similarity = oks_of(batch, [POINTS, shifted(50)])
    assert similarity[0, 0].tolist() == pytest.approx([1.0, 0.9419], abs=1e-4)
    assert learnt(similarity) == [1, -1]


def test_few_keypoints_in_the_image():
    few = GT._replace(weights=[1.0, 1.0] + 15 * [0.0])
    poses = [POINTS, POINTS + 200]
    alone = batch_of([few], num_keypoints=17)
    similarity = oks_of(alone, poses)
    assert (similarity == -1).all()
    assert labels(alone, similarity) == ["-", "-"]
    assert learnt(similarity) == [-1, -1]
    together = batch_of([few, moved(GT, 500, 0)], num_keypoints=17)
    similarity = oks_of(together, poses)
    assert labels(together, similarity) == ["neg", "neg"]
    assert learnt(similarity) == [-1, -1]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ([], "neg"),
        ([Region((0, 0, 50, 50), crowd=True)], "neg"),  # officially crowds are not used at all
        ([Region((0, 0, 50, 50), crowd=False)], "-"),  # a person without labelled keypoints
        ([Region((0, 0, 50, 50), crowd=False), GT], "neg"),
    ],
    ids=["empty", "crowd", "unlabelled person", "beside a labelled one"],
)
def test_images_without_labelled_people(image, expected):
    """Each beside a full image, so that padding is not taken for people."""
    batch = batch_of(image, [GT, GT, Region((0, 0, 9, 9), crowd=False)], num_keypoints=17)
    poses = torch.full((2, 3, 17, 2), 400.0)
    similarity = pose_oks(poses, batch, persons_of(batch), SIGMAS)
    assert labels(batch, similarity) == 3 * [expected]
    assert learnt(similarity) == 3 * [NOBODY]


def slow_by_oks(similarity: np.ndarray, positive: float, rescue: float) -> list[int]:
    owner = []
    for row in similarity:
        owner.append(int(row.argmax()) if row.max() >= positive else NOBODY)
    for p in range(similarity.shape[1]):
        best = similarity[:, p].max()
        for s in range(len(similarity)):
            if best >= rescue > 0 and similarity[s, p] == best:
                owner[s] = p
    return owner


@laws
@given(seed=st.integers(0, 2**32 - 1), rescue=st.sampled_from([0.0, 0.52]), num_persons=st.integers(1, 5))
def test_by_oks_as_in_the_loop(seed, rescue, num_persons):
    """With many equal values, and persons that do not count."""
    generator = np.random.default_rng(seed)
    similarity = generator.integers(0, 21, (2, 12, num_persons)).astype(np.float32) / 20
    similarity[0, :, generator.random(num_persons) < 0.3] = -1
    owner = assign_by_oks(torch.from_numpy(similarity), positive=0.7, rescue=rescue)
    assert owner.tolist() == [slow_by_oks(image, 0.7, rescue) for image in similarity]


# --- ignored regions ---


def test_ignored_regions():
    """The regions of the file and the boxes of persons with too few keypoints; borders included."""
    few = Labelled(FOUR, weights=(1, 1, 0, 0), box=(64, 64, 80, 72))
    batch = batch_of([Region((8, 16, 24, 17), crowd=True), few, A], [], num_keypoints=4)
    persons = persons_of(batch, load_config("posedet-s", ["assign.min_keypoints=3"]))
    proposals = proposals_at((8, 16), 128, num_images=2)
    inside = in_ignored(persons, proposals)
    places = [tuple(place) for place in proposals.locations[inside[0]].tolist()]
    assert places == [
        *[(8, 16), (16, 16), (24, 16)],
        *[(64, 64), (72, 64), (80, 64), (64, 72), (72, 72), (80, 72)],
        *[(16, 16), (64, 64), (80, 64)],
    ]
    assert not inside[1].any()


def test_persons_without_labels_are_no_box():
    """Padding and people without any labelled keypoint have the box (0, 0, 0, 0), which must not hide a cell."""
    batch = batch_of([A, A], [Labelled(FOUR, weights=(0, 0, 0, 0), box=(0, 0, 0, 0))], [], num_keypoints=4)
    persons = persons_of(batch, load_config("posedet-s", ["assign.min_keypoints=3"]))
    assert not in_ignored(persons, proposals_at(DLA, 128, num_images=3)).any()


# --- the locations whose embeddings are trained ---


@laws
@given(
    seed=st.integers(0, 2**32 - 1),
    num_positives=st.integers(0, 30),
    num_selected=st.integers(30, 300),
    share_ignored=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_positives_are_always_chosen(seed, num_positives, num_selected, share_ignored):
    generator = torch.Generator().manual_seed(seed)
    presence = 10 * torch.randn(2, 200, generator=generator)
    owner = torch.full((2, 200), NOBODY)
    for row in owner:
        row[torch.randperm(200, generator=generator)[:num_positives]] = 3
    ignored = torch.rand(2, 200, generator=generator) < share_ignored
    index = choose_locations(Selection(None, owner, ignored), presence, torch.rand(2, 200), num_selected)
    assert index.shape == (2, min(num_selected, 200))
    for b in range(2):
        chosen = set(index[b].tolist())
        assert len(chosen) == index.shape[1]
        assert set((owner[b] != NOBODY).nonzero().flatten().tolist()) <= chosen
        spare = ~ignored[b] & (owner[b] == NOBODY)
        left_out = [m for m in spare.nonzero().flatten().tolist() if m not in chosen]
        taken = [m for m in chosen if ignored[b, m] and owner[b, m] == NOBODY]
        assert not (left_out and taken), "an ignored place was preferred"


def test_best_places_and_some_at_random():
    """Beside the random ones, where a person is seen already; other chances choose others."""
    presence = torch.linspace(-9, 9, 1000)[torch.randperm(1000)].expand(2, -1)
    nobody = Selection(None, torch.full((2, 1000), NOBODY), torch.zeros(2, 1000, dtype=torch.bool))
    draws = [choose_locations(nobody, presence, torch.rand(2, 1000), 192) for _ in range(20)]
    weak = []
    for index in draws:
        for b in range(2):
            order = presence[b].argsort(descending=True)
            rank = torch.empty(1000, dtype=torch.int64).scatter(0, order, torch.arange(1000))
            ranks = rank[index[b]].sort().values
            # The best are in without a gap, as many as the random ones leave room for.
            first_gap = int((ranks == torch.arange(192)).long().cumprod(0).sum())
            assert first_gap >= 192 - 3 * RANDOM_LOCATIONS
            weak.append(192 - first_gap)
    assert len(set(weak)) > 1
    assert 0.5 * RANDOM_LOCATIONS < np.mean(weak) < 1.2 * RANDOM_LOCATIONS


def test_the_order_in_which_places_are_chosen():
    """Positives, then those whose chance is above 1 - 24/48, then by presence, then the ignored ones in that order."""
    presence, chances = torch.full((1, 48), -9.0), torch.full((1, 48), 0.5)
    owner, ignored = torch.full((1, 48), NOBODY), torch.ones(1, 48, dtype=torch.bool)
    owner[0, 40], ignored[0, [7, 20, 30]] = 2, False
    chances[0, [20, 10]] = 0.51
    presence[0, [7, 11]] = 3
    ranked = [40, 20, 7, 30, 10, 11]
    for count in range(1, 7):
        index = choose_locations(Selection(None, owner, ignored), presence, chances, count)
        assert index[0].tolist() == ranked[:count]


def test_fewer_places_than_wanted():
    presence = torch.randn(1, 10)
    selection = Selection(None, torch.full((1, 10), NOBODY), torch.ones(1, 10, dtype=torch.bool))
    assert sorted(choose_locations(selection, presence, torch.rand(1, 10), 192)[0].tolist()) == list(range(10))
