"""Patches put together: whose numbers stand where, what fills the gaps, and which sample each step has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from people import Labelled, Region, patch_of
from posedet.config import load_config
from posedet.data.annotations import AnnotatedPhoto, PhotoSet
from posedet.skeleton import COCO
from posedet.training.batches import PhotoStream, batches, collate


def test_numbers_of_each_patch_stand_first_and_the_rest_counts_for_nothing() -> None:
    """Two people and no region, nobody and two regions, one person and one region."""
    first = Labelled([(1, 2), (3, 4)], weights=(1, 0.5), visible=(1, 0), area=7)
    second = Labelled([(5, 6), (7, 8)], weights=(0.25, 1), visible=(-1, 1), area=9)
    crowd, single = Region((1, 2, 30, 40), crowd=True), Region((5, 6, 7, 8), crowd=False)
    patches = [
        patch_of(people, regions, num_keypoints=2, side=64)
        for people, regions in (([first, second], []), ([], [single, crowd]), ([second], [crowd]))
    ]
    patches = [patch._replace(source=f"{n}.jpg") for n, patch in enumerate(patches)]
    batch = collate(patches)
    nobody = [[0, 0], [0, 0]]
    assert batch.keypoints.tolist() == [
        [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
        [nobody, nobody],
        [[[5, 6], [7, 8]], nobody],
    ]
    assert batch.weights.tolist() == [[[1, 0.5], [0.25, 1]], [[0, 0], [0, 0]], [[0.25, 1], [0, 0]]]
    assert batch.visible.tolist() == [[[1, 0], [-1, 1]], [[-1, -1], [-1, -1]], [[-1, 1], [-1, -1]]]
    assert batch.areas.tolist() == [[7, 9], [1, 1], [9, 1]]
    assert batch.boxes.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[0] * 4] * 2, [[5, 6, 7, 8], [0] * 4]]
    far = [-1e6] * 4
    assert batch.ignored.tolist() == [[far, far], [[5, 6, 7, 8], [1, 2, 30, 40]], [[1, 2, 30, 40], far]]
    assert batch.crowds.tolist() == [[1, 1], [0, 1], [1, 1]]
    assert batch.sources == ["0.jpg", "1.jpg", "2.jpg"]


def test_nobody_at_all_still_has_a_place() -> None:
    batch = collate([patch_of(num_keypoints=2, side=64)] * 3)
    assert batch.weights.tolist() == [[[0, 0]]] * 3
    assert batch.ignored.tolist() == [[[-1e6] * 4]] * 3


def test_images_are_planes_of_red_green_and_blue() -> None:
    patch = patch_of(num_keypoints=2, side=64)
    image = np.zeros((64, 64, 3), np.uint8)
    image[10, 20] = (1, 2, 3)
    images = collate([patch, patch._replace(image=image)]).images
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 64, 64)
    assert images[0].tolist() == patch.image.transpose(2, 0, 1).tolist()
    assert images[1, :, 10, 20].tolist() == [1, 2, 3] and int(images[1].sum()) == 6


@pytest.fixture
def stream(tmp_path: Path) -> PhotoStream:
    """Ten photos of one colour each, which tells the photo; the last is seen twice an epoch."""
    photos = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (64, 64), (100 + 10 * number,) * 3).save(path)
        photos.append(AnnotatedPhoto(number, path, (64, 64), (), only_main_person=False, crowd_index=None))
    config = load_config("posedet-s", ["data.patch=64", "data.mosaic=0.0", "data.rotation_deg=45.0"]).data
    return PhotoStream(PhotoSet(tuple(photos), (1,) * 9 + (2,)), COCO, config, 5)


def test_each_step_of_each_process_has_samples_of_its_own(stream: PhotoStream) -> None:
    """Steps 2 and 3 of two processes, three samples each: 12 to 23, in the order of the processes."""
    seen: dict[tuple[int, int], list[str]] = {}
    for rank in range(2):
        loader = batches(stream, batch_size=3, first_step=2, last_step=4, workers=0, rank=rank, world=2)
        assert len(loader) == 2
        for step, batch in enumerate(loader, 2):
            seen[step, rank] = batch.sources
            for place, number in enumerate(range(3 * (2 * step + rank), 3 * (2 * step + rank) + 3)):
                np.testing.assert_array_equal(batch.images[place].permute(1, 2, 0).numpy(), stream[number].image)
    in_order = [source for step in (2, 3) for rank in (0, 1) for source in seen[step, rank]]
    assert in_order == [str(stream.photo_at(number).path) for number in range(12, 24)]


def test_the_same_photo_is_augmented_otherwise_each_time(stream: PhotoStream) -> None:
    last = [number for number in range(44) if stream.photo_at(number).image_id == 9]
    assert len(last) == 8
    pictures = {stream[number].image.tobytes() for number in last}
    assert len(pictures) == 8
    assert stream[last[0]].image.tobytes() == stream[last[0]].image.tobytes()


def test_a_mosaic_is_made_of_four_photos_drawn_anew(stream: PhotoStream) -> None:
    """The sample's own photo comes first."""
    config = load_config("posedet-s", ["data.patch=64", "data.mosaic=1.0"]).data
    mosaics = PhotoStream(stream.photos, COCO, config, 5)
    sources = [mosaics[number].source.split(" + ") for number in range(11)]
    assert [each[0] for each in sources] == [str(mosaics.photo_at(number).path) for number in range(11)]
    assert {len(each) for each in sources} == {4}
    assert len({tuple(each[1:]) for each in sources}) == 11
