import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posedet.errors import DataError
from posedet.oks import iou_nms, oks, oks_nms, pose_areas, pose_boxes
from posedet.skeleton import COCO, CROWDPOSE


def slow_oks(first, second, sigmas, area, visible):
    """COCO's form for one pair of poses, as one would write it on paper."""
    terms = [
        math.exp(-((x1 - x2) ** 2 + (y1 - y2) ** 2) / (8 * sigma**2 * area))
        for (x1, y1), (x2, y2), sigma, counts in zip(first, second, sigmas, visible, strict=True)
        if counts
    ]
    return sum(terms) / len(terms) if terms else 0.0


def slow_iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared
    return shared / union if union else 0.0


def slow_nms(similarity, scores, threshold, max_kept=None):
    """Greedy suppression on the full matrix."""
    left = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    kept = []
    while left and len(kept) != max_kept:
        best = left.pop(0)
        kept.append(best)
        left = [other for other in left if similarity[best][other] <= threshold]
    return kept


def paper_matrix(poses, sigmas, min_area=1024.0):
    """OKS of all pairs as the paper's suppression takes it: mean of the two extents, and half of that."""
    areas = [max((p[:, 0].max() - p[:, 0].min()) * (p[:, 1].max() - p[:, 1].min()), min_area) for p in poses]
    everything = [True] * len(sigmas)
    return np.array(
        [
            [slow_oks(poses[i], poses[j], sigmas, (areas[i] + areas[j]) / 4, everything) for j in range(len(poses))]
            for i in range(len(poses))
        ]
    ).reshape(len(poses), len(poses))


coordinates = st.floats(-300, 300, width=32)


@st.composite
def problems(draw, max_poses=4):
    """Two sets of poses with sigmas, areas of the second and visibility."""
    k, n, m = draw(st.integers(1, 6)), draw(st.integers(0, max_poses)), draw(st.integers(0, max_poses))
    return (
        draw(arrays(np.float32, (n, k, 2), elements=coordinates)),
        draw(arrays(np.float32, (m, k, 2), elements=coordinates)),
        draw(arrays(np.float64, k, elements=st.floats(0.02, 0.2))),
        draw(arrays(np.float64, m, elements=st.floats(0, 1e5))),
        draw(arrays(np.bool_, (m, k))),
    )


@st.composite
def crowds(draw):
    """Poses in small groups of near duplicates, with scores that are often equal, and a threshold."""
    k, people = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    base = draw(arrays(np.float32, (people, k, 2), elements=st.floats(0, 200, width=32)))
    who = draw(st.lists(st.integers(0, people - 1), max_size=10))
    noise = draw(arrays(np.float32, (len(who), k, 2), elements=st.floats(-15, 15, width=32)))
    scores = draw(arrays(np.float32, len(who), elements=st.sampled_from([0.25, 0.5, 0.75, 0.875])))
    sigmas = draw(arrays(np.float64, k, elements=st.floats(0.02, 0.2)))
    return base[who] + noise, scores, sigmas, draw(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0]))


def assume_no_ties(similarity, threshold):
    """The last digits of a sum decide nothing here."""
    assume(not (np.abs(similarity - threshold) < 1e-9).any() or threshold in (0, 1))


@pytest.mark.slow
@given(problems())
def test_oks_is_the_formula(problem):
    first, second, sigmas, areas, visible = problem
    got = oks(first, second, sigmas, areas, visible)
    assert got.shape == (len(first), len(second))
    assert got.dtype == np.float64
    for i, j in np.ndindex(got.shape):
        pair = first[i].astype(float), second[j].astype(float)
        assert got[i, j] == pytest.approx(
            slow_oks(*pair, sigmas, areas[j] + np.spacing(1), visible[j]), rel=1e-9, abs=1e-12
        )


@given(problems())
def test_oks_is_symmetric_when_the_areas_are(problem):
    first, second, sigmas, _, _ = problem
    turned = oks(second, first, sigmas, 900.0).T
    np.testing.assert_allclose(oks(first, second, sigmas, 900.0), turned, rtol=1e-12, atol=1e-300)


@pytest.mark.slow
@given(problems())
def test_oks_of_a_pose_with_itself_is_1(problem):
    _, poses, sigmas, areas, visible = problem
    np.testing.assert_allclose(np.diag(oks(poses, poses, sigmas, areas)), 1, rtol=1e-12)
    seen = visible.any(axis=1)
    np.testing.assert_allclose(np.diag(oks(poses, poses, sigmas, areas, visible))[seen], 1, rtol=1e-12)
    np.testing.assert_array_equal(np.diag(oks(poses, poses, sigmas, areas, visible))[~seen], 0)


@pytest.mark.slow
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_keypoints_does_not_matter(problem, random):
    first, second, sigmas, areas, visible = problem
    order = list(range(len(sigmas)))
    random.shuffle(order)
    shuffled = oks(first[:, order], second[:, order], sigmas[order], areas, visible[:, order])
    np.testing.assert_allclose(shuffled, oks(first, second, sigmas, areas, visible), rtol=1e-9, atol=1e-300)


def test_what_an_invisible_keypoint_holds_does_not_matter():
    first, second = np.zeros((1, 2, 2)), np.array([[[3.0, 4.0], [np.nan, 7.0]]])
    got = oks(first, second, (0.1, 0.1), 100.0, [[True, False]])
    np.testing.assert_allclose(got, [[math.exp(-25 / 8)]])


def test_single_precision_is_computed_in_double_and_flags_may_be_numbers():
    first, second = (np.array([pose], np.float32) for pose in ([[0.1, 0.2], [7, 9.3]], [[3.3, 4.7], [5, 5]]))
    for flags in ([1, 1], [0, 1]):
        expected = slow_oks(first[0].tolist(), second[0].tolist(), (0.1, 0.2), 50.0, flags)
        assert oks(first, second, (0.1, 0.2), 50.0, [flags])[0, 0] == pytest.approx(expected, rel=1e-12)


def test_areas_may_differ_for_every_pair():
    poses, areas = np.array([[[0.0, 0.0]], [[3.0, 4.0]]]), np.array([[10.0, 25.0], [50.0, 10.0]])
    expected = [[1, math.exp(-25 / (8 * 0.25 * 25))], [math.exp(-25 / (8 * 0.25 * 50)), 1]]
    np.testing.assert_allclose(oks(poses, poses, [0.5], areas), expected)


def test_a_person_without_area_is_met_by_the_same_point_alone():
    point, other = np.ones((1, 1, 2)), np.array([[[1.0, 1.0]], [[1.0, 1.001]]])
    np.testing.assert_array_equal(oks(other, point, [0.079], 0.0), [[1], [0]])


# Vectors computed by an independent script; the forms of training and suppression agree with the published code.
CHAIN = np.array([[100 + 6 * i, 60 + 7 * i % 40] for i in range(17)], float)
LABELLED = np.array([[i not in (3, 8) for i in range(17)]])


def moved(poses, shift, *, keypoints=slice(None)):
    changed = poses.copy()
    changed[keypoints] += shift
    return changed


@pytest.mark.parametrize(
    ("prediction", "training", "evaluation"),
    [
        (CHAIN, 1.0, 1.0),
        (moved(CHAIN, (3, -4)), 0.737177, 0.747276),
        (moved(CHAIN, (6, 8)), 0.453911, 0.467393),
        (moved(CHAIN, (12, -16)), 0.119370, 0.131044),
        (moved(moved(CHAIN, (2, 0), keypoints=0), (20, 0), keypoints=11), 0.943123, None),
    ],
)
def test_vectors_of_training_and_evaluation_on_coco(prediction, training, evaluation):
    forms = {7700 / 2: training, 0.53 * 7700: evaluation}  # half the box, and COCO's estimate of a mask in a box
    for area, expected in forms.items():
        if expected is not None:
            got = oks(prediction[None], CHAIN[None], COCO.sigmas, area, LABELLED)
            np.testing.assert_allclose(got, expected, atol=5e-7)


@pytest.mark.parametrize(("sigma", "expected"), [(0.026, 0.008206), (0.079, 0.594384), (0.107, 0.753080)])
def test_vectors_of_one_keypoint(sigma, expected):
    got = oks(np.zeros((1, 1, 2)), np.array([[[6.0, 8.0]]]), [sigma], 7700 / 2)
    np.testing.assert_allclose(got, expected, atol=5e-7)


def test_vectors_on_crowdpose():
    truth = np.array([[50 + 10 * j, 40 + 5 * j % 30] for j in range(15)], float)
    prediction = moved(moved(truth, (5, 0)), (0, 1000), keypoints=14)
    labelled = [[j != 12 for j in range(14)]]
    for area, expected in {100 * 80 / 2: 0.883345, 0.53 * 100 * 80: 0.889528}.items():
        got = oks(prediction[None, :14], truth[None, :14], CROWDPOSE.sigmas, area, labelled)
        np.testing.assert_allclose(got, expected, atol=5e-7)


LADDER = np.array([[200 + 10 * (i % 4), 100 + 20 * (i // 4)] for i in range(17)], float)
QUARTER = np.array([[200 + 2.5 * (i % 4) + 2, 100 + 5 * (i // 4) + 2] for i in range(17)])
SIX = np.stack([LADDER, *(moved(LADDER, (x, 0)) for x in (6, 9, 40)), QUARTER, moved(LADDER, (0, 1))])
SIX_SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.04])


def test_vectors_of_suppression():
    areas = np.maximum(pose_areas(SIX), 1024)
    got = oks(SIX, SIX, COCO.sigmas, (areas[:, None] + areas) / 4)
    expected = {(0, 1): 0.401712, (0, 2): 0.202205, (1, 2): 0.704139, (0, 4): 0.011045, (1, 4): 0.000833}
    for pair, value in (expected | {(0, 5): 0.952305, (0, 3): 0.0}).items():
        assert got[pair] == pytest.approx(value, abs=5e-7)
        assert got[pair[::-1]] == pytest.approx(value, abs=5e-7)

    small = np.array([[50 + 5 * (i % 4), 50 + 3 * (i // 4)] for i in range(17)], float)
    assert pose_areas(small[None]).tolist() == [180]
    pair = np.stack([small, moved(small, (3, 0))])
    assert oks_nms(pair, np.array([0.9, 0.8]), COCO.sigmas, oks_threshold=0.525764).tolist() == [0, 1]
    assert oks_nms(pair, np.array([0.9, 0.8]), COCO.sigmas, oks_threshold=0.525762).tolist() == [0]


@pytest.mark.parametrize(
    ("threshold", "kept"), [(0.1, [0, 3, 4]), (0.2, [0, 3, 4]), (0.3, [0, 2, 3, 4]), (0.5, [0, 1, 3, 4])]
)
def test_vectors_of_kept_poses(threshold, kept):
    strong = SIX_SCORES > 0.05
    got = oks_nms(SIX[strong].astype(np.float32), SIX_SCORES[strong], COCO.sigmas, oks_threshold=threshold)
    assert got.tolist() == kept
    # Duplicates of what is kept change nothing, nor does the order in the list.
    backwards = oks_nms(SIX[::-1], SIX_SCORES[::-1], COCO.sigmas, oks_threshold=threshold)
    assert (5 - backwards).tolist() == kept


@pytest.mark.slow
@given(crowds(), st.one_of(st.none(), st.integers(0, 4)))
def test_oks_nms_is_the_greedy_walk_over_the_full_matrix(crowd, max_poses):
    poses, scores, sigmas, threshold = crowd
    similarity = paper_matrix(poses.astype(float), sigmas, min_area=50.0)
    assume_no_ties(similarity, threshold)
    got = oks_nms(poses, scores, sigmas, oks_threshold=threshold, min_area=50.0, max_poses=max_poses)
    assert got.tolist() == slow_nms(similarity, scores, threshold, max_poses)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("size", [20.0, 60.0, 200.0])
def test_oks_nms_in_a_full_photo(threshold, size):
    generator = np.random.default_rng(7)
    who = generator.integers(0, 12, 120)
    people = generator.uniform(0, 600, (12, 1, 2)) + generator.uniform(0, size, (12, 17, 2))
    poses = (people[who] + generator.normal(0, 0.05 * size, (120, 17, 2))).astype(np.float32)
    scores = generator.uniform(0, 1, 120).astype(np.float32)
    similarity = paper_matrix(poses.astype(float), COCO.sigmas)
    got = oks_nms(poses, scores, COCO.sigmas, oks_threshold=threshold)
    assert got.tolist() == slow_nms(similarity, scores, threshold)
    assert 1 < len(got) < 120


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("direction", [(1, 0), (0, -1), (0.6, 0.8)])
def test_oks_nms_at_the_edge_of_its_reach(threshold, direction):
    # Keypoints in one point are as similar as the gap between two boxes allows: nothing here may be passed over.
    sigmas, point = (0.03, 0.1, 0.1), np.zeros((3, 2))
    for distance in range(0, 30):
        pair = np.stack([point, point + np.array(direction) * distance])
        expected = slow_nms(paper_matrix(pair, sigmas), [0.9, 0.8], threshold)
        got = oks_nms(pair, np.array([0.9, 0.8]), sigmas, oks_threshold=threshold)
        assert got.tolist() == expected, distance
    assert expected == [0, 1]


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, [0]), (0.999, [0]), (1.0, [0, 1])])
def test_only_a_higher_oks_than_the_threshold_is_a_duplicate(threshold, kept):
    """That of the same pose is 1; that of any other is above 0."""
    twice = np.stack([LADDER, LADDER if threshold else moved(LADDER, (20, 0))])
    assert oks_nms(twice, np.array([0.9, 0.8]), COCO.sigmas, oks_threshold=threshold).tolist() == kept


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_keypoint_far_away_makes_the_box_another_and_not_the_pose(order):
    """16 of 17 keypoints are the same, so OKS is 16/17, though the boxes' centres are 150 pixels apart."""
    poses = np.stack([LADDER, moved(LADDER, (300, 0), keypoints=3)])[list(order)]
    scores = np.array([0.9, 0.8])
    assert oks_nms(poses, scores, COCO.sigmas, oks_threshold=16.01 / 17).tolist() == [0, 1]
    assert oks_nms(poses, scores, COCO.sigmas, oks_threshold=15.99 / 17).tolist() == [0]


def test_among_equal_scores_the_lower_index_is_better():
    """Of a hundred poses far apart; of boxes, too."""
    places = 1000.0 * np.arange(100)[:, None, None] + np.array([[0.0, 0.0], [9.0, 9.0]])
    scores = np.tile([0.5, 0.75], 50)
    expected = [*range(1, 100, 2), *range(0, 100, 2)]
    assert oks_nms(places, scores, (0.1, 0.1), oks_threshold=0.5).tolist() == expected
    assert iou_nms(pose_boxes(places), scores, iou_threshold=0.5).tolist() == expected


@pytest.mark.slow
@given(crowds())
def test_oks_nms_keeps_the_best_and_changes_nothing_the_second_time(crowd):
    poses, scores, sigmas, threshold = crowd
    before = poses.copy()
    kept = oks_nms(poses, scores, sigmas, oks_threshold=threshold)
    assert (len(kept) > 0) == (len(poses) > 0)
    assert (np.diff(scores[kept]) <= 0).all()
    if len(kept):
        assert kept[0] == scores.argmax()  # the first of the best
    again = oks_nms(poses[kept], scores[kept], sigmas, oks_threshold=threshold)
    np.testing.assert_array_equal(again, np.arange(len(kept)))
    np.testing.assert_array_equal(poses, before)


@pytest.mark.slow
@given(crowds(), st.randoms(use_true_random=False))
def test_oks_nms_does_not_depend_on_the_order_of_the_candidates(crowd, random):
    poses, _, sigmas, threshold = crowd
    scores = np.linspace(0.1, 0.9, len(poses))  # all different
    order = list(range(len(poses)))
    random.shuffle(order)
    kept = oks_nms(poses, scores, sigmas, oks_threshold=threshold)
    shuffled = oks_nms(poses[order], scores[order], sigmas, oks_threshold=threshold)
    assert [order[place] for place in shuffled] == kept.tolist()


boxes_elements = st.integers(0, 12).map(float)


@given(
    arrays(np.float32, st.tuples(st.integers(0, 8), st.just(4)), elements=boxes_elements),
    st.sampled_from([0.0, 0.1, 0.35, 0.6, 1.0]),
    st.one_of(st.none(), st.integers(0, 3)),
)
def test_iou_nms_is_the_greedy_walk_over_the_full_matrix(corners, threshold, max_poses):
    boxes = np.concatenate([corners.reshape(-1, 2, 2).min(axis=1), corners.reshape(-1, 2, 2).max(axis=1)], axis=1)
    scores = np.resize(np.array([0.5, 0.75, 0.5], np.float32), len(boxes))
    similarity = np.array([[slow_iou(a, b) for b in boxes.tolist()] for a in boxes.tolist()]).reshape(
        len(boxes), len(boxes)
    )
    assume_no_ties(similarity, threshold)
    got = iou_nms(boxes, scores, iou_threshold=threshold, max_poses=max_poses)
    assert got.tolist() == slow_nms(similarity, scores, threshold, max_poses)


def test_iou_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10], [20, 20, 20, 20], [20, 20, 20, 20.0]])
    scores = np.array([0.1, 0.9, 0.8, 0.7, 0.6])
    # 1 covers half of 0; 1 and 2 share 25 of 125; the two points have no area to share.
    assert iou_nms(boxes, scores, iou_threshold=0.49).tolist() == [1, 2, 3, 4]
    assert iou_nms(boxes, scores, iou_threshold=0.5).tolist() == [1, 2, 3, 4, 0]
    assert iou_nms(boxes, scores, iou_threshold=0.19).tolist() == [1, 3, 4]


def test_iou_nms_of_large_boxes_in_single_precision():
    """They share 4097 x 4096 of 4097 x 4097 pixels, which float32 cannot count one by one."""
    boxes = np.array([[0, 0, 4097, 4097], [0, 0, 4097, 4096]], np.float32)
    for threshold, kept in ((4096 / 4097 * (1 + 1e-9), [0, 1]), (4096 / 4097 * (1 - 1e-9), [0])):
        assert iou_nms(boxes, np.array([0.9, 0.8]), iou_threshold=threshold).tolist() == kept


def test_nobody():
    nothing = np.zeros((0, 17, 2), np.float32)
    assert oks(nothing, SIX, COCO.sigmas, 1.0).shape == (0, 6)
    assert oks(SIX, nothing, COCO.sigmas, 1.0, np.zeros((0, 17), bool)).shape == (6, 0)
    kept = oks_nms(nothing, np.zeros(0, np.float32), COCO.sigmas, oks_threshold=0.2)
    assert kept.shape == (0,)
    assert nothing[kept].shape == (0, 17, 2)
    assert iou_nms(np.zeros((0, 4)), np.zeros(0), iou_threshold=0.5).shape == (0,)
    assert pose_boxes(nothing).shape == (0, 4)
    assert pose_areas(nothing).shape == (0,)


def test_boxes_and_areas_are_the_extents():
    poses = np.array([[[3, 9], [1, 5], [2, 7]], [[4, 4], [4, 4], [4, 4]]], np.float32)
    assert pose_boxes(poses).tolist() == [[1, 5, 3, 9], [4, 4, 4, 4]]
    assert pose_boxes(poses).dtype == np.float32
    assert pose_areas(poses).tolist() == [8, 0]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            lambda: oks(SIX[:, :14], SIX, COCO.sigmas, 1.0),
            "oks: first: shape (6, 14, 2), expected (N, 17, 2) for 17 sigmas",
        ),
        (lambda: oks(SIX, SIX[0], COCO.sigmas, 1.0), "oks: second: shape (17, 2), expected (N, 17, 2) for 17 sigmas"),
        (
            lambda: oks(SIX, SIX, COCO.sigmas, 1.0, np.ones((17, 6))),
            "oks: visible: shape (17, 6), expected (6, 17) to match second",
        ),
        (
            lambda: oks_nms(SIX, SIX_SCORES, CROWDPOSE.sigmas, oks_threshold=0.2),
            "nms: candidates of shape (6, 17, 2), expected (N, 14, 2)",
        ),
        (
            lambda: oks_nms(SIX, SIX_SCORES[:5], COCO.sigmas, oks_threshold=0.2),
            "nms: scores of shape (5,), expected (6,), one per candidate",
        ),
        (
            lambda: iou_nms(np.zeros((3, 5)), np.zeros(3), iou_threshold=0.2),
            "nms: candidates of shape (3, 5), expected (N, 4)",
        ),
    ],
)
def test_a_wrong_shape_is_named(action, message):
    with pytest.raises(DataError) as caught:
        action()
    assert str(caught.value) == message
