"""Skeletons: keypoint names, limbs, left-right pairs, and the precision of each keypoint.

A sigma is the standard deviation of careful annotators around a keypoint, as a fraction of the person's size. OKS
divides distances by it.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posedet.errors import DataError
from posedet.keypoint_names import find_names, infer_pairs, plain_names

MAX_SKELETON_BYTES = 1_000_000
MAX_ANNOTATION_BYTES = 1 << 29  # a JSON file may contain annotations, too
MAX_NAME_LENGTH = 100
MAX_KEYPOINTS = 1000

# Sigma of keypoints that COCO does not define: that of a shoulder. CrowdPose uses it for head top and neck.
DEFAULT_SIGMA = 0.079


@dataclass(frozen=True)
class Skeleton:
    """The meaning of the K keypoints of a pose. Lists are converted to tuples.

    Attributes:
        name: The name of the skeleton, 1 to 100 printable characters.
        keypoints: K different keypoint names; K is at most 1000.
        limbs: Pairs of keypoint indices that a line connects in pictures.
        pairs: Pairs of keypoint indices (left, right). Keypoints in no pair lie in the middle of the body.
        sigmas: K fractions of the person's size, 0.001 to 1, as in COCO: how precisely each keypoint can be placed.

    Raises:
        DataError: If a field is invalid. The message names the field.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise DataError(f"skeleton: name: {self.name!r:.80}, expected 1 to {MAX_NAME_LENGTH} printable characters")
        where = f"skeleton '{self.name}'"
        # Tuples make skeletons from JSON hashable and equal to built-in ones.
        object.__setattr__(self, "keypoints", _checked_names(self.keypoints, f"{where}: keypoints"))
        object.__setattr__(self, "limbs", _checked_links(self.limbs, len(self.keypoints), f"{where}: limbs"))
        object.__setattr__(self, "pairs", _checked_links(self.pairs, len(self.keypoints), f"{where}: pairs"))
        object.__setattr__(self, "sigmas", _checked_sigmas(self.sigmas, len(self.keypoints), f"{where}: sigmas"))
        _check_each_once(self.pairs, self.keypoints, f"{where}: pairs")

    @property
    def num_keypoints(self) -> int:
        """The number of keypoints, K."""
        return len(self.keypoints)

    @property
    def mirror(self) -> NDArray[np.int64]:
        """(K,) int64: the order of the keypoints in a mirrored photo. `keypoints[mirror]` exchanges left and right."""
        order = np.arange(self.num_keypoints, dtype=np.int64)
        for left, right in self.pairs:
            order[[left, right]] = right, left
        return order

    def index(self, name: str) -> int:
        """Return the index of a keypoint.

        Args:
            name: The name of the keypoint; `leftEye` and `eye_left` also find `left_eye`.

        Raises:
            DataError: If there is no such keypoint. The message suggests the nearest name.
        """
        return self.indices([name])[0]

    def indices(self, names: Sequence[str]) -> list[int]:
        """Return the index of each of several keypoints; see `index`.

        Args:
            names: The names of the keypoints.

        Raises:
            DataError: If one of them does not exist. The message suggests the nearest name.
        """
        places = []
        for name, place in zip(names, find_names(names, self.keypoints), strict=True):
            if place is None:
                raise DataError(f"skeleton '{self.name}': unknown keypoint {name!r}{_nearest(name, self.keypoints)}")
            places.append(place)
        return places

    def subset(self, names: Sequence[str], *, name: str | None = None) -> "Skeleton":
        """Return a skeleton with some of the keypoints.

        Args:
            names: Names of keypoints, in the wanted order. Limbs and pairs are kept if both of their ends are.
            name: The name of the new skeleton; by default the old name with the number of keypoints.

        Raises:
            DataError: If there is no such keypoint. The message suggests the nearest name.
        """
        chosen = self.indices(names)
        place = {old: new for new, old in enumerate(chosen)}

        def kept(links: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
            return tuple((place[first], place[second]) for first, second in links if {first, second} <= place.keys())

        return Skeleton(
            name=f"{self.name}-{len(chosen)}" if name is None else name,
            keypoints=tuple(names),
            limbs=kept(self.limbs),
            pairs=kept(self.pairs),
            sigmas=tuple(self.sigmas[old] for old in chosen),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to names, numbers and lists that can be written as JSON. `from_dict` restores the same skeleton."""
        return {
            "name": self.name,
            "keypoints": list(self.keypoints),
            "limbs": [list(limb) for limb in self.limbs],
            "pairs": [list(pair) for pair in self.pairs],
            "sigmas": list(self.sigmas),
        }

    @classmethod
    def from_dict(cls, data: object) -> "Skeleton":
        """Read the form that `to_dict` returns, or one written by hand.

        Args:
            data: A dictionary with `name`, `keypoints` and optionally `limbs`, `pairs` and `sigmas`. Limbs and pairs
                may contain keypoint names instead of indices. Without `pairs`, they are inferred from the names.
                Without `sigmas`, a keypoint that COCO knows by name gets COCO's sigma, and any other 0.079.

        Raises:
            DataError: If a key is missing, unknown or invalid. The message names the key.
        """
        if not isinstance(data, dict):
            raise DataError(f"skeleton: {data!r:.80}, expected a table with name, keypoints, limbs, pairs, sigmas")
        fields = tuple(cls.__dataclass_fields__)
        for key in data:
            if key not in fields:
                raise DataError(f"skeleton: unknown key {key!r:.80}{_nearest(str(key), fields)}")
        for key in ("name", "keypoints"):
            if key not in data:
                raise DataError(f"skeleton: key '{key}' is missing")
        where = f"skeleton {data['name']!r:.80}"
        names = _checked_names(data["keypoints"], f"{where}: keypoints")
        return cls(
            name=data["name"],
            keypoints=names,
            limbs=_numbered(data.get("limbs", ()), names, f"{where}: limbs"),
            pairs=_numbered(data["pairs"], names, f"{where}: pairs") if "pairs" in data else infer_pairs(names),
            sigmas=data["sigmas"] if "sigmas" in data else _known_sigmas(names),
        )

    @classmethod
    def from_coco_category(cls, category: object, *, sigmas: Sequence[float] | None = None) -> "Skeleton":
        """Read an entry of `categories` in a COCO annotation file.

        Args:
            category: A dictionary with `name`, `keypoints` and optionally `skeleton`, limbs by name or by indices that
                start at 1. Limbs are only drawn, so invalid ones are left out. Pairs are inferred from the names.
            sigmas: K fractions of the person's size. By default COCO's where COCO has the name, and 0.079 otherwise.

        Raises:
            DataError: If a key is missing or invalid. The message names the key.
        """
        if not isinstance(category, dict):
            raise DataError(f"categories: {category!r:.80}, expected a table with name, keypoints, skeleton")
        for key in ("name", "keypoints"):
            if key not in category:
                raise DataError(f"categories: key '{key}' is missing; is this a COCO-style keypoint file?")
        name = category["name"]
        where = f"category {name!r:.80}"
        names = _checked_names(category["keypoints"], f"{where}: keypoints")
        return cls(
            name=name,
            keypoints=names,
            limbs=category_limbs(category.get("skeleton"), names)[0],
            pairs=infer_pairs(names),
            sigmas=_known_sigmas(names) if sigmas is None else tuple(sigmas),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> "Skeleton":
        """Read a skeleton from a file.

        Args:
            path: A TOML or JSON file in the form of `from_dict`, or a JSON file with COCO-style annotations, whose
                category describes the skeleton.

        Raises:
            DataError: If the file is missing or invalid. The message starts with the file name.
        """
        file = Path(path)
        if file.suffix.lower() not in (".toml", ".json"):
            raise DataError(f"{file}: not a skeleton file; expected a .toml or .json file")
        if not os.path.isfile(file):
            raise DataError(f"{file}: no such file")
        is_json = file.suffix.lower() == ".json"
        limit = MAX_ANNOTATION_BYTES if is_json else MAX_SKELETON_BYTES
        try:
            with file.open("rb") as stream:
                content = stream.read(limit + 1)
            if len(content) > limit:
                raise DataError(f"the file is larger than {limit} bytes and therefore not a skeleton")
            text = content.decode("utf-8-sig")
            data = json.loads(text) if is_json else tomllib.loads(text)
            annotated = isinstance(data, dict) and "categories" in data
            return _from_categories(data["categories"]) if annotated else cls.from_dict(data)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON or TOML, or nested too deeply
            kind = file.suffix[1:].upper()
            raise DataError(f"{file}: not a {kind} file ({str(error).splitlines()[0]})") from error
        except DataError as error:
            raise DataError(f"{file}: {error}") from error


def find_skeleton(name: str, others: Sequence[str] = ()) -> Skeleton:
    """Return a built-in skeleton. Raises DataError with the nearest known name, which may be one of `others`."""
    if name not in SKELETONS:
        near = _nearest(name, [*SKELETONS, *others])
        raise DataError(f"unknown skeleton {name!r:.80}{near}; built-in skeletons: {', '.join(SKELETONS)}")
    return SKELETONS[name]


def skeleton_for(name: str, others: Sequence[str] = ()) -> Skeleton:
    """Return a built-in skeleton by name, or read a .toml or .json file; see `Skeleton.from_file`.

    Args:
        name: The name of the skeleton or the path of the file.
        others: Further names that an error message may suggest.

    Raises:
        DataError: If the name is unknown or the file is invalid.
    """
    if name.lower().endswith((".toml", ".json")):
        return Skeleton.from_file(name)
    return find_skeleton(name, others)


def _from_categories(categories: object) -> Skeleton:
    """Return the skeleton of an annotation file, whose categories with keypoints must agree."""
    if not isinstance(categories, list):
        raise DataError(f"categories: {categories!r:.80}, expected a list")
    # A category may only hold others together.
    with_keypoints = [each for each in categories if isinstance(each, dict) and each.get("keypoints")]
    if not with_keypoints:
        raise DataError("categories: none has 'keypoints'; is this a COCO-style keypoint file?")
    first, *others = [Skeleton.from_coco_category(each) for each in with_keypoints]
    for other in others:
        if sorted(plain_names(other.keypoints)) != sorted(plain_names(first.keypoints)):
            raise DataError(
                f"categories: '{first.name}' and '{other.name}' differ; write the skeleton to a file of its own"
            )
    return first


def category_limbs(limbs: object, names: Sequence[str]) -> tuple[tuple[tuple[int, int], ...], str]:
    """Return the limbs of a category, and what is wrong with those that are left out (an empty string if nothing is).

    The ends are names, or indices from 1, or from 0 where one is 0. In CrowdPose's own files they are COCO's indices.
    """
    if limbs is None:
        return (), ""
    coco = [[first + 1, second + 1] for first, second in COCO.limbs]
    if isinstance(limbs, list) and limbs == coco[: len(limbs)] and max(map(max, limbs), default=0) > len(names):
        ends = [find_names([COCO.keypoints[end - 1] for end in limb], names) for limb in limbs]
        return tuple((first, second) for first, second in ends if first is not None and second is not None), ""
    if not isinstance(limbs, list | tuple):
        return (), f"{limbs!r:.80}, expected a list of pairs of keypoint indices"
    known, index = [], {name: place for place, name in enumerate(names, 1)}
    for limb in limbs:
        named = isinstance(limb, list | tuple) and all(isinstance(end, str) for end in limb)
        known.append([index.get(end, -1) for end in limb] if named else limb)
    zero_based = any(
        isinstance(limb, list | tuple) and any(end == 0 and _is_index(end) for end in limb) for limb in known
    )
    found: list[tuple[int, int]] = []
    wrong = ""
    for place, limb in enumerate(known):
        try:
            found += _checked_links([limb], len(names), "", first_index=0 if zero_based else 1)
        except DataError:
            last = len(names) - 1 if zero_based else len(names)
            wrong = (
                wrong or f"[{place}]: {limbs[place]!r:.80}, expected two keypoints, {0 if zero_based else 1} to {last}"
            )
    return tuple((first, second) if zero_based else (first - 1, second - 1) for first, second in found), wrong


def _checked_names(value: object, where: str) -> tuple[str, ...]:
    """Return a non-empty tuple of at most `MAX_KEYPOINTS` different names."""
    if not isinstance(value, list | tuple) or not value:
        raise DataError(f"{where}: {value!r:.80}, expected a list of names")
    if len(value) > MAX_KEYPOINTS:
        raise DataError(f"{where}: {len(value)} names, expected at most {MAX_KEYPOINTS}")
    seen: set[str] = set()
    for place, name in enumerate(value):
        if not _is_name(name):
            raise DataError(f"{where}[{place}]: {name!r:.80}, expected 1 to {MAX_NAME_LENGTH} printable characters")
        if name in seen:
            raise DataError(f"{where}[{place}]: duplicate keypoint {name!r}")
        seen.add(name)
    return tuple(value)


def _checked_links(
    value: object, num_keypoints: int, where: str, *, first_index: int = 0
) -> tuple[tuple[int, int], ...]:
    """Return pairs of two different keypoint indices."""
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: {value!r:.80}, expected a list of pairs of keypoint indices")
    last = num_keypoints - 1 + first_index
    links = []
    for place, link in enumerate(value):
        if not isinstance(link, list | tuple) or len(link) != 2 or not all(_is_index(end) for end in link):
            raise DataError(f"{where}[{place}]: {link!r:.80}, expected two keypoint indices")
        if not all(first_index <= end <= last for end in link):
            raise DataError(f"{where}[{place}]: {link!r:.80}, keypoint indices run from {first_index} to {last}")
        if link[0] == link[1]:
            raise DataError(f"{where}[{place}]: {link!r:.80} connects a keypoint with itself")
        links.append((int(link[0]), int(link[1])))
    return tuple(links)


def _check_each_once(pairs: tuple[tuple[int, int], ...], names: tuple[str, ...], where: str) -> None:
    """Raise DataError if a keypoint is in two pairs."""
    seen: set[int] = set()
    for place, pair in enumerate(pairs):
        for index in pair:
            if index in seen:
                raise DataError(f"{where}[{place}]: keypoint {index} ({names[index]}) is already in another pair")
            seen.add(index)


def _checked_sigmas(value: object, num_keypoints: int, where: str) -> tuple[float, ...]:
    """Return one sigma per keypoint, 0.001 to 1."""
    if not isinstance(value, list | tuple):
        raise DataError(f"{where}: {value!r:.80}, expected a list of {num_keypoints} numbers")
    if len(value) != num_keypoints:
        raise DataError(f"{where}: {len(value)} numbers, expected {num_keypoints}, one per keypoint")
    for place, sigma in enumerate(value):
        if isinstance(sigma, bool) or not isinstance(sigma, int | float | np.number) or not 0.001 <= sigma <= 1:
            raise DataError(f"{where}[{place}]: {sigma!r:.80}, expected a fraction of the person's size, 0.001 to 1")
    return tuple(float(sigma) for sigma in value)


def _numbered(value: object, names: tuple[str, ...], where: str) -> Any:
    """Replace keypoint names in limbs and pairs by indices. Other errors are found by later checks."""
    if not isinstance(value, list | tuple):
        return value
    index = {name: place for place, name in enumerate(names)}
    numbered = []
    for place, link in enumerate(value):
        if not isinstance(link, list | tuple):
            return value
        for end in link:
            if isinstance(end, str) and end not in index:
                raise DataError(f"{where}[{place}]: unknown keypoint {end!r:.80}{_nearest(end, names)}")
        numbered.append([index[end] if isinstance(end, str) else end for end in link])
    return numbered


def _known_sigmas(names: Sequence[str]) -> tuple[float, ...]:
    """Return COCO's sigma for COCO's keypoint names, and the default for all others."""
    return tuple(DEFAULT_SIGMA if place is None else COCO.sigmas[place] for place in find_names(names, COCO.keypoints))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value.strip()) <= MAX_NAME_LENGTH


def _is_index(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _nearest(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """Return a suggestion for a misspelt name, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _built_in(name: str, sigmas: dict[str, float], limbs: Sequence[tuple[str, str]]) -> Skeleton:
    names = tuple(sigmas)
    joined = tuple((names.index(first), names.index(second)) for first, second in limbs)
    return Skeleton(name, names, joined, infer_pairs(names), tuple(sigmas.values()))


_FACE = {"nose": 0.026, "left_eye": 0.025, "right_eye": 0.025, "left_ear": 0.035, "right_ear": 0.035}
_BODY = {
    f"{side}_{part}": sigma
    for part, sigma in {
        "shoulder": 0.079,
        "elbow": 0.072,
        "wrist": 0.062,
        "hip": 0.107,
        "knee": 0.087,
        "ankle": 0.089,
    }.items()
    for side in ("left", "right")
}
_TOP = {"head_top": 0.079, "neck": 0.079}

_BODY_LIMBS = (
    ("left_ankle", "left_knee"),
    ("left_knee", "left_hip"),
    ("right_ankle", "right_knee"),
    ("right_knee", "right_hip"),
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
    ("left_shoulder", "right_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("right_shoulder", "right_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_elbow", "right_wrist"),
)
_FACE_LIMBS = (
    ("left_eye", "right_eye"),
    ("nose", "left_eye"),
    ("nose", "right_eye"),
    ("left_eye", "left_ear"),
    ("right_eye", "right_ear"),
    ("left_ear", "left_shoulder"),
    ("right_ear", "right_shoulder"),
)
_TOP_LIMBS = (("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"))

COCO = _built_in("coco", _FACE | _BODY, _BODY_LIMBS + _FACE_LIMBS)
CROWDPOSE = _built_in("crowdpose", _BODY | _TOP, _BODY_LIMBS + _TOP_LIMBS)
# The official CrowdPose networks have one more keypoint, because their layer requires an odd number.
CROWDPOSE15 = _built_in(
    "crowdpose15", _BODY | _TOP | {"abdomen": DEFAULT_SIGMA}, (*_BODY_LIMBS, *_TOP_LIMBS, ("neck", "abdomen"))
)
BODY19 = _built_in("body19", _FACE | _BODY | _TOP, _BODY_LIMBS + _FACE_LIMBS + _TOP_LIMBS)

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO, CROWDPOSE, CROWDPOSE15, BODY19)}
