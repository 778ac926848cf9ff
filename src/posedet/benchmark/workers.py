"""Alternatives, each in its own process.

In a shared process the threads of one runtime slow down the next (1.5 ms were measured as 14 ms), and the peak memory
cannot be attributed.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from posedet.benchmark.stages import QUANTISED, Ours, Subject, Timed
from posedet.errors import ConfigError, ModelError, PoseDetError
from posedet.image import Photo
from posedet.runtime.session import Session, open_session
from posedet.weights.opening import open_model

Engine = Literal["onnxruntime", "openvino", "pytorch"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
TITLES: dict[Engine, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "pytorch": "PyTorch"}


@dataclass(frozen=True)
class Alternative:
    """A posedet model in an engine; or, with `foreign`, any model file in OpenVINO."""

    model: str
    engine: Engine
    threads: int
    foreign: bool = False

    @property
    def name(self) -> str:
        return f"{Path(self.model).name} in {TITLES[self.engine]}"

    def open(self) -> Subject:
        """Load the model. Raises ModelError or ConfigError if that is not possible."""
        path = Path(self.model)
        if self.foreign:
            from posedet.benchmark.peers import open_peer

            return open_peer(path, self.threads)
        # An ONNX file contains the names of its operators as plain text.
        quantised = self.engine != "pytorch" and path.is_file() and b"QuantizeLinear" in path.read_bytes()
        return Ours(self.session(), QUANTISED if quantised else "float32")

    def session(self, at_once: int = 1) -> Session:
        """The network, for `at_once` concurrent calls. Raises as `open`."""
        runtime = None if self.engine == "pytorch" else self.engine
        return open_model(Path(self.model), runtime=runtime, threads=self.threads, at_once=at_once)


class Worker:
    """A process that has loaded one alternative and measures it on request."""

    def __init__(self, alternative: Alternative) -> None:
        self._name = alternative.name
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of other runtimes
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(alternative, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.precision = str(self._answer())

    def measure(self, photo: Photo, long_side: int | None = None, batch: int = 1) -> Timed:
        """As `Subject.measure`. Raises what the subject raises."""
        return self.ask(photo, long_side, batch)

    def ask(self, *arguments: object) -> Timed:
        """Call the subject's `measure` with any arguments. Raises what it raises."""
        with suppress(BrokenPipeError):  # `_answer` reports that the process has ended
            self._pipe.send(arguments)
        timed = self._answer()
        assert isinstance(timed, Timed)
        return timed

    def _answer(self) -> object:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise PoseDetError(f"{self._name}: its process ended unexpectedly; it may be out of memory") from None
        if isinstance(answer, PoseDetError):
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(alternative: Alternative, pipe: Connection) -> None:
    try:
        subject = alternative.open()
        pipe.send(subject.precision)
        while True:
            pipe.send(subject.measure(*pipe.recv()))
    except PoseDetError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the parent process has ended


def open_all(alternatives: Mapping[str, Alternative], stack: ExitStack) -> dict[str, Worker]:
    """Start a worker for each alternative; `stack` ends them."""
    return {name: stack.enter_context(Worker(alternative)) for name, alternative in alternatives.items()}


def available_engines(model: Path, wanted: Sequence[str] | None) -> list[Engine]:
    """The engines that are installed and for which the model has a file: `.onnx`, or `.safetensors` beside it.

    All `wanted` engines are returned, even if they are not available: opening one raises an error that says what is
    missing. Raises ConfigError for unknown engines.
    """
    from importlib.util import find_spec

    if wanted is not None:
        for name in wanted:
            if name not in ENGINES:
                raise ConfigError(f"unknown engine '{name}'; available engines: {', '.join(ENGINES)}")
        return [engine for engine in ENGINES if engine in wanted]
    modules = {"onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "pytorch": ("torch", "safetensors")}
    return [
        engine
        for engine in ENGINES
        if all(find_spec(module) for module in modules[engine]) and file_for(model, engine).is_file()
    ]


def is_posedet(path: Path) -> bool:
    """Whether a file is a posedet model in ONNX format."""
    try:
        open_session(path, threads=1)
    except ModelError:
        return False
    return True


def file_for(model: Path, engine: Engine) -> Path:
    """The file of a model in the format that an engine runs."""
    return model.with_suffix(".safetensors" if engine == "pytorch" else ".onnx")
