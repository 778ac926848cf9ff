"""Curves of a log, also of one that an interruption cut."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posedet.commands.main import main
from posedet.errors import DataError
from posedet.training import plot as plot_module
from posedet.training.plot import draw_curves, read_log, write_curves


def line(step: int, loss: float, seconds: float, **more: object) -> str:
    return json.dumps({"step": step, "loss": loss, "coarse": loss / 2, "rate": 0.1, "seconds": seconds, **more})


def written(folder: Path, *lines: str) -> Path:
    (folder / "log.jsonl").write_text("\n".join(lines))
    return folder


def test_a_run_that_went_on(tmp_path: Path) -> None:
    """Steps made twice count the second time; a line cut off, and one that is no step, not at all."""
    log = read_log(
        written(
            tmp_path,
            line(0, 8, 0.5),
            line(1, 7, 1.0),
            line(2, 6, 1.5),
            '{"step": 3, "loss": 5.5, "coa',
            line(1, 6.9, 0.4),
            json.dumps({"step": 2, "validation": {"ap": 0.25, "note": "words", "ar": math.inf}}),
            line(2, 5.9, 0.8, gradient=2.5),
            "[1, 2]",
            '{"step": "3"}',
            '{"step": true}',
            '{"step": 1e3}',
        )
        / "log.jsonl"
    )
    assert log.steps.tolist() == [0, 1, 2]
    assert log.values["loss"].tolist() == [8, 6.9, 5.9]
    assert log.values["coarse"].tolist() == [4, 3.45, 2.95]
    np.testing.assert_array_equal(log.values["gradient"], [np.nan, np.nan, 2.5])
    assert list(log.validations) == ["ap"]
    steps, values = log.validations["ap"]
    assert (steps.tolist(), values.tolist()) == ([2], [0.25])


def curves(folder: Path, batch_size: int | None) -> dict[str, dict[str, np.ndarray]]:
    """Title of each part -> name of each curve drawn bold -> its points (n, 2)."""
    figure = draw_curves(read_log(folder / "log.jsonl"), batch_size, "run")
    return {
        axes.get_title(): {
            str(each.get_label()): np.column_stack(each.get_data())
            for each in axes.lines
            if each.get_zorder() == 2 and not str(each.get_label()).startswith("_child")
        }
        or {"": np.column_stack(axes.lines[0].get_data()) if axes.lines else np.empty((0, 2))}
        for axes in figure.axes
    }


def test_what_is_drawn(tmp_path: Path) -> None:
    """Each number of the log, at its step; photos a second from steps, seconds and the batch size."""
    lines = [line(step, 8 - step, 0.5 * step, gradient=1.0 + step) for step in range(4)]
    lines += [line(4, 4, 0.25, gradient=5.0), line(5, 3, 0.5, gradient=6.0)]  # after an interruption: a new clock
    lines += [json.dumps({"step": step, "validation": {"ap": step / 10}}) for step in (2, 4)]
    drawn = curves(written(tmp_path, *lines), 8)
    np.testing.assert_allclose(drawn["loss"]["loss"], [[step, 8 - step] for step in range(6)])
    assert set(drawn["terms of the loss"]) == {"coarse"}
    np.testing.assert_allclose(drawn["terms of the loss"]["coarse"], [[step, 4 - step / 2] for step in range(6)])
    np.testing.assert_allclose(drawn["norm of the gradient"]["gradient"], [[step, 1 + step] for step in range(6)])
    np.testing.assert_allclose(drawn["learning rate"][""], [[step, 0.1] for step in range(6)])
    np.testing.assert_allclose(
        drawn["photos / s"]["photos / s"], [[0, np.nan], [1, 16], [2, 16], [3, 16], [4, np.nan], [5, 32]]
    )
    np.testing.assert_allclose(drawn["validation"]["ap"], [[2, 0.2], [4, 0.4]])
    assert "steps / s" in curves(tmp_path, None)
    assert "no validation in this run" in curves(written(tmp_path, *lines[:6]), 8)


@given(st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(math.nan)), min_size=1, max_size=30), st.integers(1, 12))
def test_smoothing_is_the_mean_of_the_last(values: list[float], width: int) -> None:
    smooth = plot_module._smooth(np.array(values), width)
    for place, found in enumerate(smooth):
        known = [value for value in values[max(0, place - width + 1) : place + 1] if not math.isnan(value)]
        assert found == pytest.approx(np.mean(known), abs=1e-6) if known else math.isnan(found)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_command_writes_what_the_name_says(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, line(0, 2, 0.1))
    output = tmp_path / f"curves.{suffix}"
    assert main(["plot", str(tmp_path), *([] if suffix == "png" else ["--output", str(output)])]) == 0
    assert capsys.readouterr().out == f"curves -> {output}\n"
    assert output.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems have no such names")
def test_the_name_of_the_run_may_be_anything(tmp_path: Path) -> None:
    run = tmp_path / os.fsdecode(b"\xe9 $\\frac$")
    run.mkdir()
    written(run, line(0, 2, 0.1))
    assert write_curves(run).is_file()


def test_photos_a_second_need_a_config_that_says_how_many(tmp_path: Path) -> None:
    assert plot_module._batch_size(tmp_path) is None
    for content, expected in (
        ({"config": {"train": {"batch_size": 8}}}, 8),
        ({"config": {"train": {"batch_size": "8"}}}, None),
        ({"config": []}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert plot_module._batch_size(tmp_path) == expected


def test_logs_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"log\.jsonl: no such file; is this the folder of a run\?$"):
        write_curves(tmp_path)
    written(tmp_path, "", "nothing", "[" * 100_000)
    with pytest.raises(DataError, match=r"log\.jsonl: contains no training steps$"):
        write_curves(tmp_path)
    written(tmp_path, line(0, 2, 0.1))
    with pytest.raises(DataError, match=r"^curves\.jpg: expected a name that ends in \.png, \.svg or \.pdf$"):
        write_curves(tmp_path, Path("curves.jpg"))
    monkeypatch.setattr(plot_module, "MAX_LOG_BYTES", 10)
    with pytest.raises(DataError, match=r"log\.jsonl: larger than 10 bytes and therefore not a training log$"):
        write_curves(tmp_path)
