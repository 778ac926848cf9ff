"""PoseDet: a photo in, its poses out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from posedet.errors import ConfigError, ModelError, PhotoError
from posedet.files import one_line
from posedet.image import Letterbox, Photo, network_input, read_photo
from posedet.poses import Poses
from posedet.runtime.decode import candidates, decode
from posedet.runtime.model_files import model_file
from posedet.runtime.parallel import in_order
from posedet.runtime.session import Outputs, Runtime, Session, open_session
from posedet.skeleton import Skeleton, find_skeleton, skeleton_for

DEFAULT_MODEL = "posedet-s"

Key = TypeVar("Key")


class PoseDet:
    """A pose detector, ready to run; one object may be used from many threads at once.

    model: path of an ONNX file made by `posedet export`, name of a released one (`posedet weights list`), URL with its
    checksum (`https://...#sha256=HEX`), or a session; the shipped default if not given.
    skeleton: the keypoints to report: a skeleton, the name of a built-in one, a .toml or .json file, or the name of a
    keypoint, or a list of such; each must be among the model's. score_threshold: poses with a lower score are left out
    (the model's own setting if not given). long_side: pixels to which the photo's long side is brought (the model's own
    if not given): larger finds smaller people and takes longer. threads: cores to use, all if not given. at_once: how
    many photos share them in `batch`, or in threads of your own: 1 for the quickest answer, as many as cores to get
    through many photos soonest.
    Raises ModelError, ConfigError or DataError with one line that says what to mend.

    >>> poses = PoseDet()("photo.jpg")
    """

    def __init__(
        self,
        model: str | Path | Session | None = None,
        *,
        skeleton: Skeleton | str | Path | Sequence[str] | None = None,
        score_threshold: float | None = None,
        long_side: int | None = None,
        runtime: Runtime = "onnxruntime",
        threads: int | None = None,
        at_once: int = 1,
    ) -> None:
        if at_once < 1:
            raise ConfigError(f"at_once is {at_once}, expected at least 1")
        if model is None:
            model = DEFAULT_MODEL
        if isinstance(model, (str, Path)):
            file = model_file(model)
            if file.suffix == ".safetensors":
                raise ModelError(f"{one_line(file)}: weights for PyTorch; `posedet export` makes an ONNX file of them")
            model = open_session(file, runtime=runtime, threads=threads, at_once=at_once)
        self._session: Session = model
        self.at_once = at_once
        self.about = self._session.about
        own = self.about.decode
        self.config = replace(
            own,
            score_threshold=own.score_threshold if score_threshold is None else score_threshold,
            long_side=own.long_side if long_side is None else long_side,
        )
        if not 0 <= self.config.score_threshold < 1:
            raise ConfigError(f"score_threshold is {self.config.score_threshold}, expected 0 up to 1")
        if not 32 <= self.config.long_side <= 8192:
            raise ConfigError(f"long_side is {self.config.long_side}, expected 32 to 8192 pixels")
        self.skeleton = self._wanted(skeleton)

    def __call__(self, photo: Photo) -> Poses:
        """The poses in one photo, best first, in pixels of the photo.

        photo: a path, a PIL image, or an array (H, W, 3) uint8 RGB. A photo from a file is turned as its EXIF data
        say. Raises PhotoError naming what is wrong with it.
        """
        letterbox, image = self.prepared(photo)
        return self._decoded(self._session.run(image[None]).one(0), letterbox)

    def prepared(self, photo: Photo) -> tuple[Letterbox, NDArray[np.uint8]]:
        """What the network is given of a photo, (h, w, 3) uint8, and how to get back to the photo."""
        return network_input(photo, self._letterbox)

    def batch(self, photos: Iterable[Photo]) -> list[Poses]:
        """The poses of each photo, in order, the same as of single calls; `at_once` photos at the same time."""
        if isinstance(photos, str):  # which would be taken letter by letter
            raise PhotoError(f"photos: {photos!r:.80}, expected several; for one, call the detector itself")
        # Not as one input of several photos: no faster on a processor, 25 ms each alone, 29 in eights (measured).
        return list(in_order(self, photos, self.at_once))

    def grouped(self, photos: Iterable[tuple[Key, Photo]], size: int) -> Iterator[tuple[Key, Poses]]:
        """The poses of each photo, with its key: `size` photos in one run of the network, where a device gains by it.

        The same as of single calls, to rounding. Only photos whose network input has the same size share a run, so they
        come in another order.
        """
        if size < 1:
            raise ConfigError(f"size is {size}, expected at least 1 photo")
        waiting: dict[tuple[int, int], list[tuple[Key, Letterbox, NDArray[np.uint8]]]] = {}
        for key, photo in photos:
            letterbox, image = self.prepared(photo)
            group = waiting.setdefault(letterbox.input_size, [])
            group.append((key, letterbox, image))
            if len(group) == size:
                yield from self._group(waiting.pop(letterbox.input_size))
        for group in waiting.values():
            yield from self._group(group)

    def _group(self, group: list[tuple[Key, Letterbox, NDArray[np.uint8]]]) -> Iterator[tuple[Key, Poses]]:
        outputs = self._session.run(np.stack([image for *_, image in group]))
        for place, (key, letterbox, _) in enumerate(group):
            yield key, self._decoded(outputs.one(place), letterbox)

    def candidates(self, photo: Photo, *, long_side: int, short_side: int | None = None) -> Poses:
        """All that the network finds, weak poses and duplicates too, with all of the model's keypoints; in no order.

        The photo is brought to at most these sides, in pixels.
        """
        image = read_photo(photo)
        height, width = image.shape[:2]
        letterbox = Letterbox.fit((height, width), long_side=long_side, short_side=short_side)
        outputs = self._session.run(letterbox.apply(image)[None]).one(0)
        return candidates(outputs, letterbox, self.about.skeleton, replace(self.config, score_threshold=0.0))

    def _letterbox(self, photo_size: tuple[int, int]) -> Letterbox:
        return Letterbox.fit(photo_size, long_side=self.config.long_side, short_side=self.config.short_side)

    def _decoded(self, outputs: Outputs, letterbox: Letterbox) -> Poses:
        return decode(outputs, letterbox, self.about.skeleton, self.config).select(self.skeleton)

    def _wanted(self, skeleton: Skeleton | str | Path | Sequence[str] | None) -> Skeleton:
        own = self.about.skeleton
        if skeleton is None:
            # Of a built-in one: a model file must not name files to read.
            skeleton = own if self.config.skeleton == own.name else find_skeleton(self.config.skeleton)
        if isinstance(skeleton, str) and skeleton in own.keypoints:
            skeleton = [skeleton]
        if isinstance(skeleton, (str, Path)):
            skeleton = own if skeleton == own.name else skeleton_for(str(skeleton), own.keypoints)
        names = skeleton.keypoints if isinstance(skeleton, Skeleton) else tuple(skeleton)
        subset = own.subset(names)
        return skeleton if isinstance(skeleton, Skeleton) else subset
