"""The terms of the loss: the official numbers, loops over persons and joints beside them, and what must stay finite."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from people import Labelled, Region, batch_of, persons_of, proposals_at
from posedet.config import Config, load_config
from posedet.model.build import build_network
from posedet.model.embedding import TapTable
from posedet.model.network import Geometry, NetworkOutput
from posedet.oks import oks
from posedet.skeleton import COCO, find_skeleton
from posedet.training.assignment import NOBODY, Selection, assign_by_oks, in_ignored, pose_oks
from posedet.training.batches import Batch
from posedet.training.heatmaps import all_level_targets, own_level_targets
from posedet.training.losses import (
    PoseLoss,
    clamped_distance,
    focal_loss,
    heatmap_focal_loss,
    heatmap_l2_loss,
    losses,
    oks_loss,
    oks_weight_at,
    quality_focal_loss,
    smooth_distance,
    squared_distance,
    visibility_loss,
)
from posedet.training.processes import ALONE, Processes
from posedet.training.setup import Objective
from posedet.training.targets import Assigner, Targets, positives_in

PAPER, OURS = load_config("dla34-coco"), load_config("posedet-s")
SIGMAS = torch.tensor(COCO.sigmas)
NO_TABLE = TapTable(torch.empty(0), torch.empty(0), 0.0)  # the losses do not need it

laws = settings(max_examples=20, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def people_in(batch: Batch, config: Config = PAPER) -> Targets:
    """Targets of which only the people are known: what a loss of poses looks at."""
    nothing = torch.empty(0)
    return Targets(
        keypoints=batch.keypoints,
        weights=batch.weights,
        visible=batch.visible,
        areas=persons_of(batch, config).areas,
        owner=nothing,
        ignored=nothing,
        learnt=nothing,
        scores=nothing,
        score_weights=nothing,
        hard_scores=False,
        num_scored=nothing,
        heatmaps=[],
        heatmap_weights=[],
    )


# --- distance (facts 15.8) ---

PLACES = torch.tensor([[10.0, 20.0], [30, 40], [50, 60], [70, 80]])
# Errors (3, 4), (0, 64), (400, 0) and one of a joint that is not labelled; stride 16, so the unit is 64 pixels.
GUESSES = PLACES + torch.tensor([[3.0, 4.0], [0, 64], [400, 0], [1e6, 1e6]])
WEIGHTS = torch.tensor([[1.0, 1, 1, 0]])


def test_official_distance():
    loss = clamped_distance(GUESSES[None], PLACES[None], WEIGHTS, torch.tensor([64.0]))
    assert loss.tolist() == pytest.approx([0.078125 + 1 + 5])


def test_official_pose_loss_of_two_images():
    """Divided by the positives of both images, at least one each; strides, and so units, belong to the locations."""
    batch = batch_of([Labelled(PLACES, WEIGHTS[0])], [], num_keypoints=4)
    targets = people_in(batch)
    poses = torch.zeros(2, 3, 4, 2)
    poses[0, 1] = GUESSES
    owner = torch.tensor([[NOBODY, 0, NOBODY], [NOBODY] * 3])
    strides = torch.tensor([8.0, 16, 32]).expand(2, -1)
    loss = PoseLoss(targets, SIGMAS[:4], PAPER.loss, 0.0, ALONE)(poses, owner, strides)
    assert PAPER.loss.coarse * loss.item() == pytest.approx(0.303906, abs=1e-6)
    assert PAPER.loss.refined * loss.item() == pytest.approx(0.607813, abs=1e-6)


def test_a_pose_in_the_right_place_is_no_loss():
    assert clamped_distance(PLACES[None], PLACES[None], WEIGHTS, torch.tensor([64.0])).tolist() == [0]


def test_gradient_of_the_official_distance():
    """None at distance zero, one over the unit in between, none beyond the clamp or where nothing is labelled."""
    guesses = (PLACES + torch.tensor([[0.0, 0.0], [3, 4], [400, 0], [5, 5]]))[None].requires_grad_()
    loss = clamped_distance(guesses, PLACES[None], WEIGHTS, torch.tensor([64.0]))
    gradient = torch.autograd.grad(loss.sum(), guesses)[0]
    torch.testing.assert_close(gradient[0], torch.tensor([[0.0, 0.0], [0.6 / 64, 0.8 / 64], [0, 0], [0, 0]]))


def test_squared_distance_of_the_paper():
    """The sum over labelled keypoints, without a limit; its gradient grows with the distance and is 0 at 0."""
    guesses = GUESSES[None].clone().requires_grad_()
    loss = squared_distance(guesses, PLACES[None], WEIGHTS, torch.tensor([64.0]))
    assert loss.tolist() == pytest.approx([0.078125**2 + 1 + 6.25**2])
    gradient = torch.autograd.grad(loss.sum(), guesses)[0][0]
    expected = torch.tensor([[2 * 3 / 64**2, 2 * 4 / 64**2], [0, 2 / 64], [2 * 6.25 / 64, 0], [0, 0]])
    torch.testing.assert_close(gradient, expected)


def test_smooth_distance():
    """Mean over labelled keypoints; in units of 64 pixels the errors are 0.078125, 1 and 6.25."""
    guesses = GUESSES[None].clone().requires_grad_()
    loss = smooth_distance(guesses, PLACES[None], WEIGHTS, torch.tensor([64.0]))
    expected = sum(math.sqrt(d**2 + 0.01) - 0.1 for d in (0.078125, 1, 6.25)) / 3
    assert loss.tolist() == pytest.approx([expected])
    gradient = torch.autograd.grad(loss.sum(), guesses)[0][0]
    assert gradient[2, 0].item() == pytest.approx(1 / 3 / 64, rel=1e-3)  # however far away
    assert not gradient[3].any()
    exact = PLACES[None].clone().requires_grad_()
    loss = smooth_distance(exact, PLACES[None], WEIGHTS, torch.tensor([64.0]))
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert not torch.autograd.grad(loss.sum(), exact)[0].any()


def test_smooth_distance_weighs_keypoints():
    weights = torch.tensor([[1.0, 0.5, 0, 0]])
    loss = smooth_distance(GUESSES[None], PLACES[None], weights, torch.tensor([64.0]))
    near, far = (math.sqrt(d**2 + 0.01) - 0.1 for d in (0.078125, 1))
    assert loss.tolist() == pytest.approx([(near + 0.5 * far) / 1.5])


def test_means_are_by_weight_however_unsure_a_teacher_is():
    """Sure of one keypoint by a fifth: the mean is that of the keypoint. Areas count from one square pixel on."""
    weights, sigmas = torch.tensor([[0.2, 0, 0, 0]]), torch.ones(4)
    loss = smooth_distance(GUESSES[None], PLACES[None], weights, torch.tensor([64.0]))
    assert loss.item() == pytest.approx(math.sqrt(0.078125**2 + 0.01) - 0.1)
    for area, counted in ((50.0, 50), (1.0, 1), (0.5, 1)):
        loss = oks_loss(GUESSES[None], PLACES[None], weights, torch.tensor([area]), sigmas)
        assert loss.item() == pytest.approx(1 - math.exp(-25 / (8 * counted)))


def test_nothing_labelled_is_no_loss():
    none = torch.zeros(1, 4)
    for distance in (clamped_distance, squared_distance, smooth_distance):
        assert distance(GUESSES[None], PLACES[None], none, torch.tensor([64.0])).tolist() == [0]


def slow_pose_loss(poses: Tensor, owner: Tensor, batch: Batch, strides: Tensor) -> float:
    """Facts 5, joint by joint."""
    total, count = 0.0, 0
    for b in range(len(owner)):
        positives = 0
        for m, p in enumerate(owner[b].tolist()):
            if p == NOBODY:
                continue
            positives += 1
            for k in range(poses.shape[2]):
                if batch.weights[b, p, k] > 0:
                    x, y = (poses[b, m, k].double() - batch.keypoints[b, p, k].double()).tolist()
                    total += min(math.hypot(x, y) / (4 * float(strides[m])), 5.0)
        count += max(positives, 1)
    return total / count


def crowd(generator: np.random.Generator, num_images: int, num_keypoints: int, side: int) -> Batch:
    """Images of 0 to 4 persons, some with few or no labelled keypoints, and ignored regions."""
    images = []
    for _ in range(num_images):
        image: list[Labelled | Region] = []
        for _ in range(generator.integers(0, 5)):
            size = generator.uniform(10, 90)
            corner = generator.uniform(0, side - size / 2, 2)
            points = corner + generator.uniform(0, size, (num_keypoints, 2))
            weights = (generator.random(num_keypoints) < generator.choice([0.05, 0.8, 1.0])).astype(float)
            visible = generator.integers(-1, 2, num_keypoints)
            image.append(Labelled(points, weights, (*corner, *(corner + size)), 0.6 * size**2, visible))
        for crowded in generator.integers(0, 2, generator.integers(0, 3)):
            corner = generator.uniform(0, side, 2)
            image.append(Region((*corner, *(corner + generator.uniform(5, 40, 2))), crowd=bool(crowded)))
        images.append(image)
    return batch_of(*images, num_keypoints=num_keypoints, side=side)


def some_owner(generator: np.random.Generator, batch: Batch, num_locations: int) -> Tensor:
    """Every valid person learnt at a few locations."""
    owner = torch.full((len(batch.keypoints), num_locations), NOBODY)
    for b, p in persons_of(batch).valid.nonzero().tolist():
        owner[b, torch.from_numpy(generator.integers(num_locations, size=3))] = p
    return owner


@laws
@given(seed=st.integers(0, 2**32 - 1))
def test_official_pose_loss_as_in_the_loop(seed):
    generator = np.random.default_rng(seed)
    batch = crowd(generator, 3, 5, 64)
    strides = torch.from_numpy(generator.choice([8.0, 16.0, 64.0], 20)).float()
    owner = some_owner(generator, batch, 20)
    spread = torch.from_numpy(generator.choice([1.0, 30.0, 300.0], (3, 20, 1, 1)))
    poses = (32 + spread * torch.from_numpy(generator.normal(size=(3, 20, 5, 2)))).float()
    loss = PoseLoss(people_in(batch), SIGMAS[:5], PAPER.loss, 0.0, ALONE)(poses, owner, strides.expand(3, -1))
    assert loss.item() == pytest.approx(slow_pose_loss(poses, owner, batch, strides), rel=1e-5, abs=1e-6)


# --- OKS loss ---


def test_oks_loss_is_one_minus_oks():
    generator = np.random.default_rng(0)
    places = generator.uniform(0, 100, (6, 17, 2)).astype(np.float32)
    guesses = (places + generator.normal(0, 6, places.shape)).astype(np.float32)
    labelled = generator.random((6, 17)) < 0.7
    areas = generator.uniform(100, 5000, 6).astype(np.float32)
    poses, keypoints, weights, sizes = map(torch.from_numpy, (guesses, places, labelled.astype(np.float32), areas))
    loss = oks_loss(poses, keypoints, weights, sizes, SIGMAS)
    expected = 1 - np.diag(oks(guesses, places, COCO.sigmas, areas, labelled))
    np.testing.assert_allclose(loss, expected, atol=1e-5)


def test_oks_loss_weighs_keypoints():
    """Two keypoints of sigma 0.1 and an area of 10,000: 10 pixels make exp(-1/8), 20 make exp(-1/2)."""
    places = torch.zeros(1, 3, 2)
    guesses = torch.tensor([[[10.0, 0], [0, -20], [5, 5]]])
    weights = torch.tensor([[1.0, 0.5, 0.0]])
    loss = oks_loss(guesses, places, weights, torch.tensor([1e4]), torch.full((3,), 0.05))
    # sigma 0.05, so 8 sigma^2 area = 200: d^2 of 100 and 400.
    assert loss.item() == pytest.approx(1 - (math.exp(-0.5) + 0.5 * math.exp(-2)) / 1.5)


def test_oks_loss_beside_the_distance():
    """Both are scaled by how sure the teacher is of the person; the official distance alone is not."""
    weights = (0.5, 0.25, 0.5, 0)
    batch = batch_of([Labelled(PLACES, weights, area=900)], num_keypoints=4)
    targets = people_in(batch, OURS)
    poses, owner, strides = (PLACES + 3)[None, None], torch.tensor([[0]]), torch.tensor([[16.0]])
    units, sigmas = torch.tensor([64.0]), SIGMAS[:4]
    rows = torch.tensor([weights])
    distance = smooth_distance(poses[0], PLACES[None], rows, units)
    similarity = oks_loss(poses[0], PLACES[None], rows, torch.tensor([900.0]), sigmas)
    alone = PoseLoss(targets, sigmas, OURS.loss, 0.0, ALONE)(poses, owner, strides)
    assert alone.item() == pytest.approx(distance.item())
    both = PoseLoss(targets, sigmas, OURS.loss, 0.7, ALONE)(poses, owner, strides)
    assert both.item() == pytest.approx(0.5 * (distance + 0.7 * similarity).item())


def test_each_person_counts_as_much_as_its_teacher_is_sure():
    """Both poses are 16 pixels off: a quarter of the unit. One person is believed by a half, the other by a fifth."""
    people = [Labelled(PLACES, [0.5, 0.1, 0, 0]), Labelled(PLACES + 9, [0, 0.2, 0.2, 0])]
    targets = people_in(batch_of(people, num_keypoints=4), OURS)._replace(areas=torch.full((1, 2), 1e12))
    poses, owner = torch.stack([PLACES, PLACES + 9])[None] + torch.tensor([16.0, 0]), torch.tensor([[0, 1]])
    loss = PoseLoss(targets, SIGMAS[:4], OURS.loss, 1.0, ALONE)(poses, owner, torch.full((1, 2), 16.0))
    assert loss.item() == pytest.approx((0.5 + 0.2) / 2 * (math.sqrt(0.25**2 + 0.01) - 0.1), rel=1e-4)


# --- score (facts 15.8) ---


@pytest.mark.parametrize(
    ("logit", "positive", "negative"),
    [(-4.595120, 1.128382, 7.537752e-07), (-2, 0.412520, 0.001353), (0, 0.043322, 0.129965), (2, 0.000451, 1.237559)],
)
def test_official_focal_loss(logit, positive, negative):
    loss = focal_loss(torch.tensor([logit, logit], dtype=torch.float32), torch.tensor([1.0, 0.0]))
    assert loss.tolist() == pytest.approx([positive, negative], rel=1e-3, abs=1e-9)
    assert loss.tolist() == pytest.approx([positive, negative], abs=2e-6)


def test_official_sum_of_focal_losses():
    loss = focal_loss(torch.tensor([2.0, 0, -2, 2]), torch.tensor([1.0, 1, 0, 0])).sum()
    assert loss.item() == pytest.approx(1.282684, abs=1e-6)


def test_quality_focal_loss():
    """(p - q)^2 times the cross entropy, and nothing to learn where the score is right."""
    logits = torch.tensor([-2.0, 0.0, 2.0], requires_grad=True)
    quality = torch.tensor([0.0, 0.9, 0.3])
    expected = []
    for logit, q in zip(logits.tolist(), quality.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected.append((p - q) ** 2 * -(q * math.log(p) + (1 - q) * math.log(1 - p)))
    assert quality_focal_loss(logits, quality).tolist() == pytest.approx(expected, rel=1e-5)
    right = quality_focal_loss(logits, logits.detach().sigmoid())
    assert right.tolist() == pytest.approx([0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("logit", [-1000.0, -20.0, 0.0, 20.0, 1000.0])
@pytest.mark.parametrize("target", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", ["focal", "quality", "heatmap focal", "heatmap l2"])
def test_extreme_logits(name, logit, target):
    """Finite values and gradients; the official heatmap loss is not a number at a logit of 20."""
    logits = torch.full((1, 1, 2, 2), logit, requires_grad=True)
    targets, mask = torch.full((1, 1, 2, 2), target), torch.ones(1, 1, 2, 2)
    loss = {
        "focal": lambda: focal_loss(logits, targets).sum(),
        "quality": lambda: quality_focal_loss(logits, targets).sum(),
        "heatmap focal": lambda: heatmap_focal_loss(logits, targets, mask),
        "heatmap l2": lambda: heatmap_l2_loss(logits, targets, mask),
    }[name]()
    assert loss.isfinite() and loss >= 0
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


# --- heatmaps (facts 15.9) ---

LOGITS = torch.tensor([[0.0, -1], [2, -3]]).view(1, 1, 2, 2)
TARGETS = torch.tensor([[1, 0.882496903], [0, 0.367879441]]).view(1, 1, 2, 2)


def test_official_heatmap_loss():
    assert PAPER.loss.heatmap == 0.1
    loss = heatmap_focal_loss(LOGITS, TARGETS, torch.ones(1, 1, 2, 2))
    assert loss.item() == pytest.approx(0.173287 + 1.650100, abs=2e-6)
    assert 0.1 * loss.item() == pytest.approx(0.182339, abs=1e-6)


def test_official_heatmap_loss_with_a_mask():
    mask = torch.tensor([[1.0, 1], [0, 1]]).view(1, 1, 2, 2)
    assert 0.1 * heatmap_focal_loss(LOGITS, TARGETS, mask).item() == pytest.approx(0.017331, abs=1e-6)


def test_official_heatmap_loss_without_peaks():
    targets = torch.tensor([[0.5, 0.5], [0, 0]]).view(1, 1, 2, 2)
    assert 0.1 * heatmap_focal_loss(LOGITS, targets, torch.ones(1, 1, 2, 2)).item() == pytest.approx(0.166243, abs=1e-6)


def test_masked_peak_does_not_count():
    mask = torch.tensor([[0.0, 1], [1, 1]]).view(1, 1, 2, 2)
    assert heatmap_focal_loss(LOGITS, TARGETS, mask).item() == pytest.approx(1.650100, abs=2e-6)


def test_heatmap_loss_is_over_the_batch():
    """Peaks are counted over images and joints together, and one mask is for all joints."""
    logits, targets = LOGITS.expand(3, 2, 2, 2), TARGETS.expand(3, 2, 2, 2)
    loss = heatmap_focal_loss(logits, targets, torch.ones(3, 1, 2, 2))
    assert loss.item() == pytest.approx(0.173287 + 1.650100, abs=2e-6)
    mask = torch.ones(3, 1, 2, 2)
    mask[0] = 0
    loss = heatmap_focal_loss(logits, targets, mask)
    assert loss.item() == pytest.approx(0.173287 + 1.650100, abs=2e-6)


def test_heatmap_l2_loss():
    p = [1 / (1 + math.exp(-logit)) for logit in (0, -1, 2, -3)]
    squares = [(a - b) ** 2 for a, b in zip(p, TARGETS.flatten().tolist(), strict=True)]
    loss = heatmap_l2_loss(LOGITS, TARGETS, torch.ones(1, 1, 2, 2))
    assert loss.item() == pytest.approx(sum(squares) / 4)
    mask = torch.tensor([[1.0, 1], [0, 1]]).view(1, 1, 2, 2)
    two_joints = heatmap_l2_loss(LOGITS.expand(1, 2, 2, 2), TARGETS.expand(1, 2, 2, 2), mask)
    assert two_joints.item() == pytest.approx((squares[0] + squares[1] + squares[3]) / 3)
    assert heatmap_l2_loss(LOGITS, TARGETS, torch.zeros(1, 1, 2, 2)).item() == 0
    mask = torch.tensor([[0.25, 0], [0, 0.25]]).view(1, 1, 2, 2)
    assert heatmap_l2_loss(LOGITS, TARGETS, mask).item() == pytest.approx((squares[0] + squares[3]) / 2)


# --- the sum of it all ---


def slow_focal(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def slow_heatmap_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> float:
    total, peaks = 0.0, 0.0
    weights = mask.expand_as(targets).flatten().tolist()
    for logit, t, w in zip(logits.flatten().tolist(), targets.flatten().tolist(), weights, strict=True):
        p = 1 / (1 + math.exp(-logit))
        if t == 1:
            peaks += w
            total += w * (1 - p) ** 2 * math.log(p)
        else:
            total += w * (1 - t) ** 4 * p**2 * math.log(1 - p)
    return -total / peaks if peaks else -total


def made_up(
    generator: np.random.Generator, batch: Batch, strides: tuple[int, ...], side: int, num_refined: int
) -> tuple[NetworkOutput, Tensor]:
    """Output of all locations, whose poses are now near a person and now far from all; and who learns what."""
    num_images, _, num_keypoints, _ = batch.keypoints.shape
    proposals = proposals_at(strides, side, num_images=num_images)
    num_locations = len(proposals.strides)
    person = torch.from_numpy(generator.integers(batch.keypoints.shape[1], size=(num_images, num_locations)))
    near = batch.keypoints[torch.arange(num_images)[:, None], person]
    spread = torch.from_numpy(generator.choice([0.5, 3.0, 6.0, 50.0], (num_images, num_locations, 1, 1)))

    def noise(*shape: int) -> Tensor:
        return torch.from_numpy(generator.normal(size=shape)).float()

    poses = tuple((near + spread * noise(*near.shape)).float() for _ in range(1 + num_refined))
    maps = [noise(num_images, num_keypoints, side // stride, side // stride) for stride in strides]
    output = NetworkOutput(
        proposals._replace(coarse=poses[0]), None, poses, 3 * noise(num_images, num_locations), None, maps, NO_TABLE
    )
    return output, some_owner(generator, batch, num_locations)


def check_official_terms(seed: int) -> None:
    """Every term of the published loss, from what the network gave and who learns what."""
    generator = np.random.default_rng(seed)
    side, strides = 64, (8, 16, 32, 64)
    batch = crowd(generator, 2, 17, side)
    output, owner = made_up(generator, batch, strides, side, 1)
    persons = persons_of(batch)
    selection = Selection(persons, owner, torch.zeros_like(owner, dtype=torch.bool))
    targets = Assigner(PAPER, SIGMAS, Geometry(strides, strides, strides, 0.0)).targets(output, batch, selection)
    terms = losses(output, targets, PAPER.loss, sigmas=SIGMAS, oks_weight=oks_weight_at(0, PAPER.loss))

    similarity = pose_oks(output.poses[0], batch, persons, SIGMAS)
    learnt = assign_by_oks(similarity, positive=0.7, rescue=0.52)
    score, count = 0.0, 0
    for b in range(2):
        best = similarity[b].amax(1).tolist()
        count += max(1, sum(o >= 0.6 for o in best))
        for o, logit in zip(best, output.logits[b].tolist(), strict=True):
            if o >= 0.6 or (0 <= o < 0.5):
                score += slow_focal(logit, o >= 0.6)
            elif o == -1 and not persons.labelled[b].any() and not (batch.crowds[b] == 0).any():
                score += slow_focal(logit, False)  # nobody at all: background
    levels = all_level_targets(batch, [(side // s,) * 2 for s in strides], strides, 2.0)
    heatmaps = [slow_heatmap_loss(*each) for each in zip(output.heatmaps, *levels, strict=True)]
    expected = {
        "coarse": 0.1 * slow_pose_loss(output.poses[0], owner, batch, output.proposals.strides),
        "refined1": 0.2 * slow_pose_loss(output.poses[1], learnt, batch, output.proposals.strides),
        "score": score / count,
        "heatmap": 0.1 * sum(heatmaps) / len(heatmaps),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)


def check_our_terms(seed: int, step: int) -> None:
    """The default model: some locations chosen, ignored places, soft targets, two refinements."""
    generator = np.random.default_rng(seed)
    side, strides, fine = 64, (8, 16, 32), (4, 8, 16)
    batch = crowd(generator, 2, 17, side)
    whole, owner = made_up(generator, batch, strides, side, 2)
    num_locations = owner.shape[1]
    index = torch.from_numpy(generator.permuted(np.tile(np.arange(num_locations), (2, 1)), axis=1)[:, :40])
    presence = torch.randn(2, num_locations)
    output = NetworkOutput(
        whole.proposals._replace(presence=presence),
        index,
        tuple(pose.gather(1, index[..., None, None].expand(-1, -1, 17, 2)) for pose in whole.poses),
        whole.logits.gather(1, index),
        torch.randn(2, 40, 17),
        [torch.randn(2, 17, side // stride, side // stride) for stride in fine],
        NO_TABLE,
    )
    persons = persons_of(batch, OURS)
    ignored = in_ignored(persons, output.proposals)
    selection = Selection(persons, owner, ignored)
    targets = Assigner(OURS, SIGMAS, Geometry(strides, fine, fine, 0.5)).targets(output, batch, selection)
    terms = losses(output, targets, OURS.loss, sigmas=SIGMAS, oks_weight=oks_weight_at(step, OURS.loss))

    oks_weight = min(1.0, step / 500)

    def pose_terms(poses: Tensor, owners: Tensor, units: Tensor) -> float:
        total, count = 0.0, 0
        for b in range(2):
            positives = [(m, p) for m, p in enumerate(owners[b].tolist()) if p != NOBODY]
            count += max(1, len(positives))
            for m, p in positives:
                keypoints, weights = batch.keypoints[b, p][None], batch.weights[b, p][None]
                total += smooth_distance(poses[b, m][None], keypoints, weights, 4 * units[b, m][None]).item()
                area = batch.areas[b, p][None]
                total += oks_weight * oks_loss(poses[b, m][None], keypoints, weights, area, SIGMAS).item()
        return total / count

    def at_chosen(rows: Tensor) -> Tensor:
        return rows.expand(2, -1).gather(1, index)

    coarse_oks, refined_oks = (pose_oks(poses, batch, persons, SIGMAS) for poses in (output.poses[0], output.poses[-1]))
    learnt = assign_by_oks(coarse_oks, positive=0.5, rescue=0)
    score, seen, keypoint_score, known = 0.0, 0.0, 0.0, 0
    for b in range(2):
        for m in range(num_locations):
            here = owner[b, m] != NOBODY
            if here or not ignored[b, m]:
                seen += slow_focal(presence[b, m].item(), bool(here))
        for s in range(40):
            location = index[b, s]
            if owner[b, location] != NOBODY:  # its own person, however bad the pose still is
                learnt[b, s] = owner[b, location]
            p = int(learnt[b, s])
            quality = max(0.0, float(refined_oks[b, s].max() if p == NOBODY else refined_oks[b, s, p]))
            if p != NOBODY or not ignored[b, location]:
                score += quality_focal_loss(output.logits[b, s], torch.tensor(quality)).item()
            for k in range(17):
                if p != NOBODY and batch.visible[b, p, k] >= 0:
                    known += 1
                    logit = output.keypoint_logits[b, s, k].item()
                    keypoint_score += math.log1p(math.exp(-logit if batch.visible[b, p, k] else logit))
    levels = own_level_targets(
        batch,
        persons,
        [(side // s,) * 2 for s in fine],
        fine,
        level_strides=strides,
        origin=0.5,
        sigma=1.0,
    )
    heatmaps = [slow_heatmap_loss(*each) for each in zip(output.heatmaps, *levels, strict=True)]
    units = output.proposals.strides
    expected = {
        "coarse": pose_terms(whole.poses[0], owner, units.expand(2, -1)),
        "presence": seen / positives_in(owner).item(),
        "refined1": pose_terms(output.poses[1], learnt, at_chosen(units)),
        "refined2": pose_terms(output.poses[2], learnt, at_chosen(units)),
        "score": score / positives_in(learnt).item(),
        "keypoint_score": 0.2 * keypoint_score / max(1, known),
        "heatmap": 0.1 * sum(heatmaps) / len(heatmaps),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@settings(laws, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_official_terms_as_in_the_loop(seed):
    check_official_terms(seed)


@pytest.mark.slow
@settings(laws, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), step=st.sampled_from([0, 250, 4000]))
def test_our_terms_as_in_the_loop(seed, step):
    check_our_terms(seed, step)


def test_terms_of_one_batch_as_in_the_loop():
    check_official_terms(0)
    check_our_terms(0, 250)


class Half(Processes):
    """One of two processes, of which the other has nothing to learn: divided by half the count, terms are twice those
    of a process alone. Their mean is that of the whole batch."""

    def share(self, count: Tensor) -> Tensor:
        return count / 2


HALF = Half(0, 2)


def test_terms_of_one_of_two_processes():
    for config, strides in ((PAPER, (8, 16, 32, 64)), (OURS, (8, 16, 32))):
        generator = np.random.default_rng(1)
        batch = crowd(generator, 2, 17, 64)
        output, owner = made_up(generator, batch, strides, 64, 1)
        output = output._replace(
            proposals=output.proposals._replace(presence=torch.randn(owner.shape)),
            keypoint_logits=torch.randn(*owner.shape, 17),
        )
        selection = Selection(persons_of(batch, config), owner, torch.zeros_like(owner, dtype=torch.bool))
        targets = Assigner(config, SIGMAS, Geometry(strides, strides, strides, 0.0)).targets(output, batch, selection)
        alone, half = (
            losses(output, targets, config.loss, sigmas=SIGMAS, oks_weight=0.5, processes=processes)
            for processes in (ALONE, HALF)
        )
        assert len(alone) == 6
        for name, term in alone.items():
            torch.testing.assert_close(half[name], 2 * term)


@pytest.mark.parametrize("loss", [heatmap_focal_loss, heatmap_l2_loss])
@pytest.mark.parametrize("peaks", [0, 1, 2])
def test_heatmap_loss_of_one_of_two_processes(loss, peaks):
    targets, mask = 0.5 * TARGETS, torch.tensor([[1.0, 1], [0, 0]]).view(1, 1, 2, 2)
    targets[0, 0, 0, :peaks] = 1
    torch.testing.assert_close(loss(LOGITS, targets, mask, HALF), 2 * loss(LOGITS, targets, mask))


def test_loss_of_one_known_visibility():
    batch = batch_of([Labelled(PLACES, visible=(-1, 1, -1, -1))], num_keypoints=4)
    targets = people_in(batch)._replace(learnt=torch.tensor([[NOBODY, 0]]))
    logits = torch.tensor([[[9.0] * 4, [5, -2, 5, 5]]])
    for processes, times in ((ALONE, 1), (HALF, 2)):
        loss = visibility_loss(logits, targets, processes)
        assert loss.item() == pytest.approx(times * math.log1p(math.exp(2)))
    assert visibility_loss(logits, targets._replace(visible=torch.full((1, 1, 4), -1.0)), ALONE).item() == 0


def test_the_oks_loss_grows_in():
    config = dataclasses.replace(OURS.loss, oks=0.5, oks_warmup=200)
    assert [oks_weight_at(step, config) for step in (0, 50, 200, 900)] == [0, 0.125, 0.5, 0.5]
    assert oks_weight_at(0, dataclasses.replace(config, oks_warmup=0)) == 0.5


@pytest.mark.parametrize("config", [PAPER, OURS], ids=["paper", "ours"])
def test_heatmaps_of_an_oblong_input(config):
    batch = batch_of([Labelled([(20, 10), (100, 10), (20, 50)])], num_keypoints=3)
    assigner = Assigner(config, SIGMAS, Geometry((8, 16), (8, 16), (8, 16), 0.0))
    maps, weights = assigner._heatmaps([torch.empty(1, 3, 8, 16)], batch, persons_of(batch, config))
    assert (maps[0].shape, weights[0].shape) == ((1, 3, 8, 16), (1, 1, 8, 16))


def test_number_of_positives():
    assert positives_in(torch.tensor([[0, 1, NOBODY], [NOBODY] * 3, [2, 2, 2]])).item() == 2 + 1 + 3


# --- finite, whatever is in the images ---

# The paper's head on a small backbone, with few channels: the same code, but fast.
SMALL_PAPER = [
    "model.backbone=mobilenetv2",
    "model.channels=32",
    "model.tap_channels=32",
    "model.embedding_channels=32",
]
POINTS = np.random.default_rng(0).uniform(10, 50, (19, 2))


def images_of(num_keypoints: int) -> dict[str, list[list[Labelled | Region]]]:
    full = Labelled(POINTS[:num_keypoints])
    few = full._replace(weights=[1.0, 1.0] + [0.0] * (num_keypoints - 2))
    point = Labelled(np.full((num_keypoints, 2), 24.0))
    beside = Labelled(POINTS[:num_keypoints] + 500, box=(63, 63, 63, 63))
    sure = np.linspace(0.05, 1, num_keypoints)
    return {
        "empty": [[], []],
        "one empty": [[full], []],
        "only a crowd": [[Region((0, 0, 64, 64), crowd=True)], []],
        "only unlabelled people": [[Region((10, 10, 30, 60), crowd=False)], [Region((0, 0, 0, 0), crowd=False)]],
        "few keypoints": [[few], [few, full]],
        "all in one point": [[point, point], [point._replace(area=0.0, box=(24, 24, 24, 24))]],
        "outside": [[beside], [beside, full]],
        "a teacher's": [[full._replace(weights=sure, visible=np.full(num_keypoints, -1))], [full, full]],
    }


def check_finite(config: Config, image: str) -> None:
    skeleton = find_skeleton(config.model.skeleton)
    torch.manual_seed(0)
    network = build_network(config.model, skeleton).train()
    batch = batch_of(*images_of(skeleton.num_keypoints)[image], num_keypoints=skeleton.num_keypoints, side=64)
    terms = Objective(config, skeleton, network.geometry, torch.device("cpu"))(network, batch, 1000)
    assert all(term.isfinite() and term >= 0 for term in terms.values()), terms
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.slow
@pytest.mark.parametrize("image", images_of(17))
@pytest.mark.parametrize("heatmap_form", ["focal", "l2"])
def test_the_papers_loss_is_finite(image, heatmap_form):
    check_finite(load_config("dla34-coco", [*SMALL_PAPER, f"loss.heatmap_form={heatmap_form}"]), image)


@pytest.mark.slow
@pytest.mark.parametrize("image", images_of(19))
def test_our_loss_is_finite(image):
    check_finite(OURS, image)
