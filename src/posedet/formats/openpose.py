"""OpenPose's JSON: a file for each photo or frame, with the 25 keypoints of its model BODY_25."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.data.json_entries import entries, numbers, read_json
from posedet.errors import ConfigError, DataError
from posedet.files import one_line
from posedet.formats.photos import GENERATOR, PosedPhoto, skeleton_of
from posedet.outputs import make_folder, write_json
from posedet.poses import Poses
from posedet.skeleton import COCO, Skeleton

SUFFIX = "_keypoints.json"

# Each of its keypoints is one of ours, or the middle of two.
BODY_25 = (
    ("nose",),
    ("left_shoulder", "right_shoulder"),
    ("right_shoulder",),
    ("right_elbow",),
    ("right_wrist",),
    ("left_shoulder",),
    ("left_elbow",),
    ("left_wrist",),
    ("left_hip", "right_hip"),
    ("right_hip",),
    ("right_knee",),
    ("right_ankle",),
    ("left_hip",),
    ("left_knee",),
    ("left_ankle",),
    ("right_eye",),
    ("left_eye",),
    ("right_ear",),
    ("left_ear",),
    ("left_big_toe",),
    ("left_small_toe",),
    ("left_heel",),
    ("right_big_toe",),
    ("right_small_toe",),
    ("right_heel",),
)


def composed(poses: Poses, wanted: Sequence[Sequence[str]]) -> NDArray[np.float32]:
    """Return (N, len(wanted), 3) x, y and score of keypoints that are one of ours or the mean of several, or zeros."""
    names = poses.skeleton.keypoints
    triples = np.concatenate([poses.keypoints, poses.keypoint_scores[..., None]], axis=2)
    result = np.zeros((len(poses), len(wanted), 3), np.float32)
    for place, parts in enumerate(wanted):
        if {*parts} <= {*names}:
            result[:, place] = triples[:, [names.index(part) for part in parts]].mean(axis=1)
    return result


def check_keypoints(skeleton: Skeleton) -> None:
    """Raise ConfigError unless the skeleton has some of OpenPose's keypoints."""
    if not any({*parts} <= {*skeleton.keypoints} for parts in BODY_25):
        raise ConfigError(f"--format openpose: skeleton '{skeleton.name}' has none of OpenPose's keypoints")


def content(poses: Poses) -> dict[str, Any]:
    """Return the content of a file. Keypoints that the skeleton lacks are zero."""
    ids = [[int(number)] for number in poses.ids] if "id" in poses.extra else [[-1]] * len(poses)
    people = [
        {"person_id": number, "pose_keypoints_2d": [round(float(value), 4) for value in body.ravel()]}
        for number, body in zip(ids, composed(poses, BODY_25), strict=True)
    ]
    return {"version": 1.3, "people": people}


def openpose_file(folder: Path, file_name: str) -> Path:
    """Return the file for the poses of a photo."""
    return folder / PurePosixPath(file_name).with_suffix("").with_name(PurePosixPath(file_name).stem + SUFFIX)


def to_openpose(photos: Sequence[PosedPhoto], folder: str | Path, *, generator: str = GENERATOR) -> None:
    """Write a file NAME_keypoints.json for each photo.

    Args:
        photos: Photos and their poses, all with the same skeleton.
        folder: The folder of the files.
        generator: The command that writes them, as their mark.

    Raises:
        ConfigError: If the skeleton has none of OpenPose's keypoints.
        PoseDetError: If a file cannot be written, or is there already and was not written by `generator`.
    """
    check_keypoints(skeleton_of(photos))
    for photo in photos:
        file = openpose_file(Path(folder), photo.file_name)
        make_folder(file.parent)
        write_json(file, generator, content(photo.poses), indent=None)


def from_openpose(path: str | Path, skeleton: Skeleton = COCO) -> list[PosedPhoto]:
    """Read files of OpenPose's model BODY_25.

    Args:
        path: A file, or a folder of files NAME_keypoints.json.
        skeleton: The wanted keypoints; those that OpenPose does not have get a score of 0.

    Returns:
        The poses of each file, in order of the names, under the name NAME. Sizes are unknown. OpenPose scores no
            people: a person has the mean score of the keypoints that were found.

    Raises:
        DataError: If a file is invalid, or the folder has none.
    """
    path = Path(path)
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{one_line(path)}: no files NAME{SUFFIX} in this folder")
    return [PosedPhoto(file.name.removesuffix(SUFFIX), None, _read(file, skeleton)) for file in files]


def _read(file: Path, skeleton: Skeleton) -> Poses:
    own = [parts[0] if len(parts) == 1 else {1: "neck", 8: "mid_hip"}[k] for k, parts in enumerate(BODY_25)]
    wanted = [own.index(name) if name in own else None for name in skeleton.keypoints]
    rows = []
    for place, person in entries(read_json(file), "people", one_line(file)):
        table = numbers(person, "pose_keypoints_2d", place, 3 * len(BODY_25), "25 x 3").reshape(-1, 3)
        if not ((table[:, 2] >= 0) & (table[:, 2] <= 1)).all():
            raise DataError(f"{place}.pose_keypoints_2d: confidence {table[:, 2].max():g}, expected 0 to 1")
        rows.append([np.zeros(3) if column is None else table[column] for column in wanted])
    triples = np.array(rows).reshape(-1, skeleton.num_keypoints, 3)
    scores = triples[..., 2]
    means = scores.sum(axis=1) / np.maximum((scores > 0).sum(axis=1), 1)
    return Poses(triples[..., :2], means, scores, skeleton)
