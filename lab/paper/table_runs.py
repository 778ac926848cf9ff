"""Reproduce a table: train its unfinished runs, evaluate every row, and write the paper's results next to ours.

Finished work is reused: a run in `OUTPUT/runs/NAME/seedN` resumes where it stopped, and `OUTPUT/evaluations/` stores
each evaluation by its inputs. Tables in the same folder share both.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lab.paper import GENERATOR
from lab.paper.evaluations import Decoded, evaluated, open_for, photos_per_second
from lab.paper.measured import Measured, write_table
from lab.paper.tables import BASE, Table, TableRow
from posedet.commands.options import photos_named_by
from posedet.config import Config, DecodeConfig, decode_config_from_dict, load_config, up_to_date
from posedet.data.annotations import AnnotatedPhoto
from posedet.data.sources import Source, read_photos, read_sets
from posedet.errors import ConfigError
from posedet.evaluation.keypoint_ap import evaluate_keypoints
from posedet.evaluation.protocols import PROTOCOLS
from posedet.evaluation.report import processor
from posedet.evaluation.run import validation
from posedet.outputs import make_folder, write_json
from posedet.runtime.model_files import RELEASES, model_file
from posedet.runtime.session import Session, open_session
from posedet.training.loop import train
from posedet.training.processes import Processes
from posedet.training.state import skeleton_to_train
from posedet.weights.checkpoint import load_info
from posedet.weights.torch_session import local_device

log = logging.getLogger(__name__)

VALIDATIONS = 21  # of a training run, so every 10 of the paper's 210 epochs; each keeps its weights


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of a table; `python -m lab.paper TABLE --help` describes each."""

    table: Table
    data: Source  # annotated photos to evaluate on
    output: Path
    train_data: Sequence[str] = ()
    start: Sequence[str] = ()  # FILE, or RUN=FILE
    weights: Sequence[str] = ()  # RUN=FILE
    only: Sequence[str] = ()  # runs to train
    preset: str | None = None
    protocol: str | None = None
    settings: Sequence[str] = ()
    seeds: int = 1
    device: str = "cpu"
    workers: int = 1


@dataclass(frozen=True)
class Trial:
    """One training run with one seed, or given weights that replace it."""

    run: str
    seed: int
    config: Config
    folder: Path
    given: Path | None  # weights that replace training
    start: str | None

    @property
    def weights(self) -> Path:
        return self.given or self.folder / "weights.safetensors"

    @property
    def finished(self) -> bool:
        if self.given is not None:
            return True
        return self.weights.is_file() and load_info(self.weights).get("step", 0) >= self.config.train.steps


def reproduce(request: Request) -> str:
    """Train, evaluate, and write TABLE.md and TABLE.json into the folder `output`; returns the Markdown.

    Under `torchrun` all processes train and evaluate; only the first writes, and the others return "". Raises
    ConfigError for an unknown run, and for an existing run with other settings, data or start weights.
    """
    trials = _all_trials(request)
    protocol = PROTOCOLS[request.protocol or request.table.protocol]
    with photos_named_by("--photos FOLDER"):
        photos = read_photos(request.data, protocol.skeleton)
    evaluate_keypoints(photos, [], protocol)  # reports errors before days of training
    make_folder(request.output)
    processes = Processes.join(request.device)
    # Decided before anything runs, because processes that train together must agree.
    wanted = [trial for trial in trials if request.train_data and (not request.only or trial.run in request.only)]
    for trial in [trial for trial in wanted if not trial.finished]:
        _train(trial, request, validation(photos, protocol, processes))
    processes.gathered([])  # the first one may still be writing the last weights
    measured = [_measure_row(row, request, photos, trials, processes) for row in request.table.rows]
    if processes.rank:
        return ""
    return write_table(
        request.table,
        measured,
        request.output,
        {
            "data": str(request.data.path),
            "device": _device_name(request.device),
            "protocol": protocol.name,
            "preset": request.preset or request.table.preset,
            "settings": list(request.settings),
            "runs": {
                f"{trial.run}/seed{trial.seed}": _plan(trial, request.train_data) for trial in trials if trial.finished
            },
        },
    )


def _all_trials(request: Request) -> list[Trial]:
    names = list(request.table.runs)
    for name in request.only:
        _known(name, names, f"--only {name}")
    given, start = _by_run(request.weights, names, "--weights"), _by_run(request.start, names, "--start")
    if "" in given:
        raise ConfigError(f"--weights {given[''][0]}: expected RUN=FILE, RUN one of {', '.join(names)}")
    anywhere = start.get("", [])
    trials = [
        trial for name in names for trial in _trials(request, name, given.get(name, []), start.get(name, anywhere))
    ]
    for trial in trials:
        _compare_plans(trial, _plan(trial, request.train_data))
    return trials


def _known(name: str, names: Sequence[str], option: str) -> None:
    if name not in names:
        raise ConfigError(f"{option}: no such run; the runs of this table are {', '.join(names)}")


def _by_run(texts: Sequence[str], names: Sequence[str], option: str) -> dict[str, list[str]]:
    """Group `RUN=FILE` texts by run, with "" for texts without a run. A URL with a checksum also contains "="."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        named = bool(equals) and not any(mark in name for mark in "/:.#")
        if named:
            _known(name, names, f"{option} {text}")
        found.setdefault(name if named else "", []).append(file if named else text)
    return found


def _trials(request: Request, name: str, given: Sequence[str], start: Sequence[str]) -> list[Trial]:
    table = request.table
    if request.preset is not None and table.preset is None:
        raise ConfigError(f"--preset {request.preset} does not go with {table.name}, whose rows are presets")
    preset = request.preset or table.preset
    own = [*BASE, *table.runs[name]] if preset else []
    files = [model_file(text) for text in given]
    if not files and name in RELEASES:
        files = [model_file(name)]
    trials = []
    for seed in range(len(files) or request.seeds):
        # The table's settings come last, so that --set cannot change what a row measures.
        config = load_config(preset or name, [*request.settings, *own, f"train.seed={seed}"])
        folder = request.output / "runs" / name / f"seed{seed}"
        file = files[seed] if files else None
        if file is not None:
            _check_given(file, name, config, ["model.backbone", *(setting.partition("=")[0] for setting in own)])
        trials.append(Trial(name, seed, config, folder, file, start[-1] if start else None))
    return trials


def _check_given(file: Path, name: str, config: Config, keys: Sequence[str]) -> None:
    """Check that given weights were trained with the settings of their row."""
    theirs = load_info(file).get("config") if file.suffix == ".safetensors" else open_session(file).about.config
    was, now = _flat(up_to_date(theirs or {}, str(file))), _flat(config.to_dict())
    for key in keys:
        if was.get(key) != now[key]:
            raise ConfigError(
                f"{file}: was trained with {key} = {was.get(key)!r}, but the run '{name}' has {now[key]!r}"
            )


def _plan(trial: Trial, train_data: Sequence[str]) -> dict[str, Any]:
    """Everything that the weights of a run depend on, as in JSON. Decoding may change after training."""
    if trial.given is not None:
        return {"weights": str(trial.given)}
    config = trial.config.to_dict()
    del config["decode"]
    plan: dict[str, Any] = json.loads(json.dumps({"config": config, "data": list(train_data), "start": trial.start}))
    written = trial.folder / "plan.json"
    if not train_data and written.is_file():
        plan |= {key: _read_plan(written).get(key) for key in ("data", "start")}
    return plan


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        plan = None
    if not isinstance(plan, dict):
        raise ConfigError(f"{path}: damaged; remove its folder to train this run again")
    return plan


def _compare_plans(trial: Trial, plan: dict[str, Any]) -> None:
    path = trial.folder / "plan.json"
    if trial.given is not None or not path.is_file():
        return
    written = _read_plan(path)
    if isinstance(settings := written.get("config"), dict):
        written["config"] = up_to_date(settings, str(path))
    was, now = _flat(written), _flat(plan)
    for key in now:
        if was.get(key) != now[key]:
            raise ConfigError(
                f"{trial.folder}: was trained with {key} = {was.get(key)!r}, now {now[key]!r}; choose another --output"
            )


def _flat(plan: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plan.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name.removeprefix("config."): value}
    return flat


def _train(trial: Trial, request: Request, validate: Callable[[Session], dict[str, float]]) -> None:
    log.info("training %s, seed %d", trial.run, trial.seed)
    skeleton = skeleton_to_train(trial.config.model.skeleton, trial.folder)
    photos = read_sets(request.train_data, skeleton)
    make_folder(trial.folder)
    write_json(trial.folder / "plan.json", GENERATOR, _plan(trial, request.train_data))
    train(
        trial.config,
        photos,
        trial.folder,
        start=trial.start,
        device=request.device,
        workers=request.workers,
        skeleton=skeleton,
        validate=validate,
        validate_every=max(1, trial.config.train.steps // VALIDATIONS),
        keep_validated=True,
    )


def _measure_row(
    row: TableRow,
    request: Request,
    photos: Sequence[AnnotatedPhoto],
    trials: Sequence[Trial],
    processes: Processes,
) -> Measured:
    if row.run is None:
        return Measured(row, [], "")
    protocol = PROTOCOLS[request.protocol or request.table.protocol]
    own = [trial for trial in trials if trial.run == row.run]
    done = [trial for trial in own if trial.finished]
    if not done:
        why = "not among --only" if request.train_data else "no --train-data"
        return Measured(row, [], f"not run: no --weights {row.run}=FILE, {why}")
    note = f"{len(done)} of {len(own)} seeds" if len(done) < len(own) else ""
    scores, speeds = [], []
    for trial in done:
        session = open_for(trial.weights, request.device)
        decoded = Decoded.by(session, _decode_of(row, trial.config, session))
        found = evaluated(
            decoded,
            trial.weights,
            photos,
            protocol,
            request.output,
            truth=str(request.data),
            tta=request.table.tta,
            label=f"{trial.run}, seed {trial.seed}: {row.label}",
            processes=processes,
        )
        scores.append((trial.seed, found))
        if "FPS" in request.table.columns and processes.rank == 0:
            speeds.append(photos_per_second(decoded, protocol, photos))
    return Measured(row, scores, note, speeds)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(local_device(device)) if device.startswith("cuda") else processor()


def _decode_of(row: TableRow, config: Config, session: Session) -> DecodeConfig:
    """The decode settings of a row. The number of candidates is fixed in the network."""
    own = {"candidates": session.about.decode.candidates}
    return decode_config_from_dict({**asdict(config.decode), **own, **row.decode}, row.label)
