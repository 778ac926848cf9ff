"""The detector: finds the poses in a photo."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from posedet.errors import ConfigError, ModelError, PhotoError
from posedet.files import one_line
from posedet.image import Letterbox, Photo, in_memory, network_input, read_photo, size_of
from posedet.poses import Poses
from posedet.runtime.decode import candidates, decode
from posedet.runtime.model_files import model_file
from posedet.runtime.parallel import in_order
from posedet.runtime.session import Device, Outputs, Runtime, Session, open_session
from posedet.runtime.tiles import joined, tiles_of
from posedet.skeleton import Skeleton, find_skeleton, skeleton_for

DEFAULT_MODEL = "posedet-s"
TILES_PER_RUN = 4  # faster on GPUs; no difference on CPUs (measured)

Key = TypeVar("Key")


class PoseDet:
    """A pose detector. Create it once; it may be used from several threads at the same time.

    It can be pickled, for example for other processes: a copy opens the model file again.

    Args:
        model: An ONNX file made by `posedet export` (its path, its bytes, or a binary file that is open), the name of a
            released model (`posedet weights list`), a URL with a checksum (`https://...#sha256=HEX`), or an open
            session. Default: `posedet-s`.
        skeleton: The keypoints to report: a `Skeleton`, the name of a built-in one (`coco`, `crowdpose`, `body19`), a
            .toml or .json file, a keypoint name, or a list of keypoint names. The model must have all of them.
            Default: the model's own setting.
        score_threshold: Minimum score of a reported pose, from 0 to below 1. Default: the model's own setting.
        long_side: Length in pixels to which the photo's long side is resized, 32 to 8192. A larger input finds smaller
            people but takes longer. Default: the model's own setting.
        tiles: Find small people in large photos: look also at overlapping square tiles with this side in pixels, at
            least 128, each resized to `long_side`. A photo with a long side below 1.4 times that is not cut. Default:
            look only at the whole photo.
        runtime: `"onnxruntime"` or `"openvino"`. Default: ONNX Runtime. An open session has its own.
        device: Where ONNX Runtime runs the network: `"cpu"`, `"cuda"`, `"directml"`, `"coreml"`, `"openvino"`, or
            `"auto"`, the first of `cuda`, `directml`, `coreml`, `openvino` and `cpu` that works. All but the CPU need
            another package of ONNX Runtime. Default: the CPU. An open session has its own.
        threads: Number of processor cores to use. Default: all. An open session has its own.
        embedding: Give every pose `extra["embedding"]`, a unit vector of what the person looks like, if the model has
            it; the cosine of two of them says whether they show the same person. An open session has its own setting.
        covariances: Give every pose `Poses.covariances`, how uncertain the place of each keypoint is. The model must
            have them. An open session has its own setting.
        at_once: Photos processed concurrently in `batch`, or by threads of your own. Use 1 for the lowest latency, or
            the number of cores for the highest throughput.

    Raises:
        ModelError: If the model file is missing, damaged, not made by posedet, or without wanted covariances.
        ConfigError: If an argument is out of range, or if the device cannot be used.
        DataError: If the skeleton is unknown or has a keypoint that the model does not have.

    Examples:
        >>> poses = PoseDet()("photo.jpg")
    """

    def __init__(
        self,
        model: str | Path | bytes | BinaryIO | Session | None = None,
        *,
        skeleton: Skeleton | str | Path | Sequence[str] | None = None,
        score_threshold: float | None = None,
        long_side: int | None = None,
        tiles: int | None = None,
        runtime: Runtime | None = None,
        device: Device | None = None,
        threads: int | None = None,
        at_once: int = 1,
        embedding: bool = False,
        covariances: bool = False,
    ) -> None:
        if at_once < 1:
            raise ConfigError(f"at_once is {at_once}, expected at least 1")
        if model is None:
            model = DEFAULT_MODEL
        if isinstance(model, (str, Path)):
            file = model_file(model)
            if file.suffix == ".safetensors":
                raise ModelError(
                    f"{one_line(file)}: PyTorch weights, expected an ONNX file; convert them with `posedet export`"
                )
            model = file
        if isinstance(model, Path | bytes) or hasattr(model, "read"):
            model = open_session(
                cast(Path | bytes | BinaryIO, model),
                runtime="onnxruntime" if runtime is None else runtime,
                device="cpu" if device is None else device,
                threads=threads,
                at_once=at_once,
                embedding=embedding,
                covariances=covariances,
            )
        elif any(setting is not None for setting in (runtime, device, threads)) or embedding or covariances:
            raise ConfigError(
                "runtime, device, threads, embedding and covariances are for opening a model file, but model is an "
                "open session"
            )
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
            raise ConfigError(f"score_threshold is {self.config.score_threshold}, expected 0 or more and less than 1")
        if not 32 <= self.config.long_side <= 8192:
            raise ConfigError(f"long_side is {self.config.long_side}, expected 32 to 8192 pixels")
        if tiles is not None and tiles < 128:
            raise ConfigError(f"tiles is {tiles}, expected at least 128 pixels")
        self.tiles = tiles
        self.skeleton = self._wanted(skeleton)

    @property
    def device(self) -> str:
        """Where the network runs; for `device="auto"`, what was chosen."""
        return self._session.device

    def __call__(self, photo: Photo) -> Poses:
        """Find the poses in one photo.

        Args:
            photo: A path, the bytes of a file, a binary file, a PIL image, or an array (H, W, 3) uint8 RGB. Files and
                PIL images are rotated according to their EXIF data.

        Returns:
            The poses in pixels of the photo, in order of falling score.

        Raises:
            PhotoError: If the photo cannot be read.
        """
        return self.find(*self.prepared(photo)) if self.tiles is None else self._in_tiles(photo, TILES_PER_RUN)

    def find(self, letterbox: Letterbox, image: NDArray[np.uint8]) -> Poses:
        """Find the poses in a whole photo that `prepared` has prepared.

        Args:
            letterbox: The letterbox that maps points back to the photo.
            image: The network input (h, w, 3) uint8 RGB.
        """
        return self._decoded(self._session.run(image[None]).one(0), letterbox)

    def adjusted(
        self,
        *,
        skeleton: Skeleton | str | Path | Sequence[str] | None = None,
        score_threshold: float | None = None,
        long_side: int | None = None,
        tiles: int | None = None,
    ) -> "PoseDet":
        """Return a detector with other settings that shares the open model of this one.

        Args:
            skeleton: As in the constructor. Default: as in this detector. So are the others.
            score_threshold: Minimum score of a reported pose.
            long_side: Length in pixels to which the photo's long side is resized.
            tiles: Side of the tiles of large photos in pixels.

        Raises:
            ConfigError: If a setting is out of range.
            DataError: If the skeleton is unknown or has a keypoint that the model does not have.
        """
        return PoseDet(
            self._session,
            skeleton=self.skeleton if skeleton is None else skeleton,
            score_threshold=self.config.score_threshold if score_threshold is None else score_threshold,
            long_side=self.config.long_side if long_side is None else long_side,
            tiles=self.tiles if tiles is None else tiles,
            at_once=self.at_once,
        )

    def prepared(self, photo: Photo) -> tuple[Letterbox, NDArray[np.uint8]]:
        """Prepare a photo for the network, without tiles.

        Args:
            photo: As in a call of the detector.

        Returns:
            The letterbox that maps points back to the photo, and the network input (h, w, 3) uint8 RGB.

        Raises:
            PhotoError: If the photo cannot be read.
        """
        return network_input(photo, self._letterbox)

    def batch(self, photos: Iterable[Photo]) -> list[Poses]:
        """Find the poses in several photos, `at_once` of them concurrently.

        Args:
            photos: Photos as in a call of the detector.

        Returns:
            One `Poses` per photo, in the order of the photos and equal to those of single calls.

        Raises:
            PhotoError: If a photo cannot be read.
        """
        if isinstance(photos, str | bytes) or hasattr(photos, "read"):  # would be iterated by letter, byte or line
            raise PhotoError(
                f"photos: {photos!r:.80}, expected several photos; for one photo, call the detector itself"
            )
        # A batched network input is no faster on a CPU: 25 ms per photo singly, 29 ms in batches of 8 (measured).
        return list(in_order(self, photos, self.at_once))

    def grouped(self, photos: Iterable[tuple[Key, Photo]], size: int) -> Iterator[tuple[Key, Poses]]:
        """Find the poses in many photos with several photos per run of the network, which is faster on GPUs only.

        Args:
            photos: Pairs of a key of your choice and a photo.
            size: The number of photos per run, or of tiles. Only network inputs of the same size share a run.

        Yields:
            Pairs of a key and its poses, in another order than the photos. Poses equal those of single calls up to
                rounding.

        Raises:
            ConfigError: If `size` is below 1.
            PhotoError: If a photo cannot be read.
        """
        if size < 1:
            raise ConfigError(f"size is {size}, expected at least 1 photo")
        if self.tiles is not None:
            yield from ((key, self._in_tiles(photo, size)) for key, photo in photos)
            return
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

    def _in_tiles(self, photo: Photo, size: int) -> Poses:
        """Find the poses in the tiles of a photo, `size` tiles per run."""
        assert self.tiles is not None
        photo = in_memory(photo)
        tiles = tiles_of(size_of(photo), self.tiles)
        if len(tiles) == 1:
            return self.find(*self.prepared(photo))
        image = read_photo(photo)
        whole = PoseDet(
            self._session,
            skeleton=self.about.skeleton,
            score_threshold=self.config.score_threshold,
            long_side=self.config.long_side,
        )
        parts = ((tile, image[tile.top : tile.bottom, tile.left : tile.right]) for tile in tiles)
        return joined(list(whole.grouped(parts, size)), image.shape[:2], self.config).select(self.skeleton)

    def candidates(self, photo: Photo, *, long_side: int, short_side: int | None = None) -> Poses:
        """Return everything that the network finds, including poses with low scores and duplicates.

        Args:
            photo: As in a call of the detector.
            long_side: Maximum length of the resized photo's long side in pixels.
            short_side: Maximum length of its short side in pixels. Default: no limit.

        Returns:
            The poses with all keypoints of the model, in pixels of the photo and in no particular order.

        Raises:
            PhotoError: If the photo cannot be read.
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
            # Only a built-in skeleton, because a model file must not make us read other files.
            skeleton = own if self.config.skeleton == own.name else find_skeleton(self.config.skeleton)
        if isinstance(skeleton, str) and skeleton in own.keypoints:
            skeleton = [skeleton]
        if isinstance(skeleton, (str, Path)):
            skeleton = own if skeleton == own.name else skeleton_for(str(skeleton), own.keypoints)
        names = skeleton.keypoints if isinstance(skeleton, Skeleton) else tuple(skeleton)
        subset = own.subset(names)
        return skeleton if isinstance(skeleton, Skeleton) else subset
