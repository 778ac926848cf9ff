"""One open model, and the bounded queue of photos in front of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Literal

import numpy as np
from starlette.requests import ClientDisconnect

from posedet.image import Letterbox
from posedet.poses import Poses
from posedet.runtime.detector import PoseDet
from posedet.serve.observe import Metrics
from posedet.serve.refusals import busy
from posedet.serve.uploads import Upload, called_photo

Format = Literal["posedet", "coco"]

MAX_WAIT_SECONDS = 30
HUGE_PIXELS = 8_000_000  # larger photos are in the model one at a time


class Worker:
    """Finds poses in `detector.at_once` photos at a time, each in a thread, in the order of their arrival.

    Huge photos take turns among themselves, because each needs much memory and time.

    Args:
        detector: The detector to run, warmed up here.
        max_waiting: How many photos may wait, besides the `detector.at_once` that are in the model.
        metrics: What is told of the queue and the stages.
    """

    def __init__(self, detector: PoseDet, max_waiting: int, metrics: Metrics) -> None:
        self.detector, self._room = detector, max_waiting + detector.at_once
        self._metrics = metrics
        self._slots = asyncio.Semaphore(detector.at_once)
        self._threads = ThreadPoolExecutor(detector.at_once, "model")
        self._huge_photos = asyncio.Lock()
        self._waiting = self._present = 0
        side = detector.config.long_side
        detector.batch([np.zeros((side, side, 3), np.uint8)] * detector.at_once)

    @property
    def is_full(self) -> bool:
        return self._present >= self._room

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._threads.shutdown()

    async def find(
        self, uploads: Sequence[Upload], detector: PoseDet, format: Format, gone: Callable[[], Awaitable[bool]]
    ) -> list[str]:
        """Return the poses of some photos as JSON: an object for each photo, or in COCO's format for each pose.

        Args:
            uploads: The photos of a request.
            detector: The detector with the settings of the request.
            format: `"posedet"` or `"coco"`.
            gone: Whether the client has gone; its waiting photos are then left out.

        Raises:
            Refusal: If the queue has no room for all the photos, or one has waited too long.
            PhotoError: If a photo is damaged.
            ClientDisconnect: If the client has gone.
        """
        if self._present + len(uploads) > self._room:
            raise busy("too many photos are waiting")
        self._present += len(uploads)
        self._waiting += len(uploads)
        self._metrics.waiting.set(self._waiting)
        alone = len(uploads) == 1 and uploads[0].name is None
        jobs = [
            self._answer(upload, place, "photo" if alone else f"photo {place}", detector, format, gone)
            for place, upload in enumerate(uploads, 1)
        ]
        try:
            answers = await asyncio.gather(*jobs, return_exceptions=True)
        finally:
            self._present -= len(uploads)
        texts: list[str] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            texts += answer
        return texts

    async def _answer(
        self,
        upload: Upload,
        place: int,
        called: str,
        detector: PoseDet,
        format: Format,
        gone: Callable[[], Awaitable[bool]],
    ) -> list[str]:
        async with AsyncExitStack() as turn:
            try:
                with self._metrics.stage("wait"):
                    async with asyncio.timeout(MAX_WAIT_SECONDS):
                        # Huge photos wait for each other first, so that the others can pass them.
                        if upload.num_pixels > HUGE_PIXELS:
                            await turn.enter_async_context(self._huge_photos)
                        await turn.enter_async_context(self._slots)
            except TimeoutError:
                raise busy(f"the photo has waited for {MAX_WAIT_SECONDS} s") from None
            finally:
                self._waiting -= 1
                self._metrics.waiting.set(self._waiting)
            if await gone():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            with self._metrics.running.track_inprogress():
                return await loop.run_in_executor(self._threads, self._found, upload, place, called, detector, format)

    def _found(self, upload: Upload, place: int, called: str, detector: PoseDet, format: Format) -> list[str]:
        with called_photo(called), self._metrics.stage("decode"):
            letterbox, image = detector.prepared(upload.content)
        with self._metrics.stage("model"):
            poses = detector.find(letterbox, image)
        with self._metrics.stage("encode"):
            return _coco(poses, place, upload.name) if format == "coco" else [_own(poses, letterbox, upload.name)]


def _own(poses: Poses, letterbox: Letterbox, name: str | None) -> str:
    height, width = letterbox.photo_size
    return json.dumps({"file_name": name, "width": width, "height": height, **poses.to_dict()}, allow_nan=False)


def _coco(poses: Poses, place: int, name: str | None) -> list[str]:
    named = {} if name is None else {"file_name": name}
    return [json.dumps({**result, **named}, allow_nan=False) for result in poses.to_coco(place)]
