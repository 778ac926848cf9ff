"""Files of other programs: read as data, or refused in one line."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from posedet.config import load_config
from posedet.errors import ModelError
from posedet.model.build import build_network
from posedet.model.network import PoseDetNet
from posedet.skeleton import BODY19, COCO, find_skeleton
from posedet.weights import pth
from posedet.weights.checkpoint import load_start
from posedet.weights.pth import load_pth
from served import Answer, Server

STATE = OrderedDict(a=torch.arange(6.0).view(2, 3), b=nn.Parameter(torch.ones(2)), c=torch.tensor(3))


def packed(content: object, **settings: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_pth(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


class Runs:
    """Unpickled by the ordinary way, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- PyTorch files ---


@pytest.mark.parametrize("older_format", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_form_of_a_state_dict(tmp_path: Path, older_format: bool, prefix: str, wrapped: bool):
    state = OrderedDict((prefix + name, tensor) for name, tensor in STATE.items())
    content = {"meta": {"epoch": 3, "CLASSES": ("person",)}, "state_dict": state} if wrapped else state
    path = tmp_path / "a.pth"
    path.write_bytes(packed(content, _use_new_zipfile_serialization=not older_format))
    read = load_pth(path)
    assert list(read) == list(STATE)
    for name, tensor in STATE.items():
        assert torch.equal(read[name], tensor)
        assert not read[name].requires_grad


def test_module_is_taken_off_all_names_or_none(tmp_path: Path):
    torch.save({"module.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "a.pth")
    assert list(load_pth(tmp_path / "a.pth")) == ["module.a", "a"]


def test_what_stands_beside_the_weights_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.save({"state_dict": STATE, "meta": {}, "optimizer": {}}, tmp_path / "a.pth")
    with caplog.at_level("INFO"):
        load_pth(tmp_path / "a.pth")
    assert caplog.messages == ["a.pth: ignored entries other than the weights: 'meta', 'optimizer'"]


@pytest.mark.parametrize("older_format", [False, True])
def test_code_is_not_run(tmp_path: Path, older_format: bool):
    path, made = tmp_path / "a.pth", tmp_path / "made"
    path.write_bytes(packed({"state_dict": STATE, "x": Runs(made)}, _use_new_zipfile_serialization=not older_format))
    assert refusal(path).startswith(f"refused: the file requires {os.mkdir.__module__}.mkdir, which could run")
    path.write_bytes(pickle.dumps(Runs(made)))
    assert refusal(path) == "refused: the pickle contains more than tensors and plain values"
    assert not made.exists()
    pickle.loads(path.read_bytes())  # else the test would prove nothing
    assert made.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "contains no named tensors, expected a state dict"),
        ({}, "contains no named tensors, expected a state dict"),
        ({"state_dict": 3}, "contains no named tensors, expected a state dict"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' is int, expected only named tensors"),
        ({3: torch.ones(1)}, "3 is Tensor, expected only named tensors"),
        ({"a": torch.ones(2, 2).to_sparse()}, "'a' is Tensor, expected only named tensors"),
        ({"a": torch.ones(2, device="meta")}, "'a' is Tensor, expected only named tensors"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: object, message: str):
    torch.save(content, tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth") == message


def test_an_onnx_file_is_no_start(tmp_path: Path):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(
        ModelError, match=r"a\.onnx: ONNX files are only for inference; expected a \.safetensors or \.pth file"
    ):
        load_pth(tmp_path / "a.onnx")


def test_damaged_files(tmp_path: Path):
    path, whole = tmp_path / "a.pth", packed(STATE)
    assert refusal(path) == "no such file"
    for content in (b"", b"hello", whole[: len(whole) // 2], packed(STATE, _use_new_zipfile_serialization=False)[:-3]):
        path.write_bytes(content)
        assert refusal(path).startswith("not a PyTorch weights file, or damaged (")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "hello")
    assert refusal(path).startswith("not a PyTorch weights file, or damaged (")


def test_too_large_files_on_disk_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(100_000)}, path)
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr(pth, "MAX_BYTES", 300_000)
    assert refusal(path) == "larger than 300000 bytes"
    assert refusal(bomb) == "larger than 300000 bytes"


def test_a_changed_byte_of_a_name_is_damage(tmp_path: Path) -> None:
    """PyTorch alone would read a tensor of another name."""
    content = packed({"weight": torch.ones(2)})
    place = content.index(b"weight")
    (tmp_path / "x.pth").write_bytes(content[:place] + b"W" + content[place + 1 :])
    assert "eight" in next(iter(torch.load(tmp_path / "x.pth", weights_only=True)))
    expected = "damaged: archive/data.pkl does not have its checksum; download or copy it again"
    assert refusal(tmp_path / "x.pth") == expected


@settings(deadline=None)
@given(st.binary(max_size=100), st.data())
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, noise: bytes, data: st.DataObject):
    path = tmp_path_factory.getbasetemp() / "noise.pth"
    whole = packed(STATE)
    start = data.draw(st.integers(0, len(whole)))
    for content in (noise, whole[:start] + noise + whole[start + max(1, len(noise)) :]):
        path.write_bytes(content)
        try:
            assert list(load_pth(path)) == list(STATE)  # a byte that does not matter
        except ModelError as error:
            assert "\n" not in str(error)


# --- start weights ---


def backbone_tensors(network: PoseDetNet) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else torch.tensor(5)
        for name, tensor in network.backbone.state_dict().items()
    }


def network_of(preset: str) -> PoseDetNet:
    config = load_config(preset).model
    return build_network(config, find_skeleton(config.skeleton))


# The public files hold a classifier that pose networks do not have.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "classifier", "file_name"),
    [
        ("dla34-coco", {"fc.weight": (1000, 512, 1, 1), "fc.bias": (1000,)}, "dla34-ba72cf86.pth"),
        (
            "hrnet-w32-coco",
            {"incre_modules.0.0.conv1.weight": (32, 32, 1, 1), "classifier.weight": (1000, 2048)},
            "hrnetv2_w32.pth",
        ),
    ],
)
def test_public_backbones_start_a_network(
    server: Server, preset: str, classifier: dict[str, tuple[int, ...]], file_name: str
):
    network = network_of(preset)
    tensors = backbone_tensors(network)
    content = packed(tensors | {name: torch.zeros(shape) for name, shape in classifier.items()})
    server.answers[file_name] = Answer(content)
    untouched = {name: tensor.clone() for name, tensor in network.state_dict().items() if "backbone" not in name}
    url = server.url(file_name, content)
    left = ", ".join(f"backbone.{name}" for name in classifier)
    assert load_start(network, url, COCO) == (
        f"{url}: {len(tensors)} of {len(tensors) + 2} tensors loaded (not {left}), {len(untouched)} newly initialised"
    )
    state = network.state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(state[f"backbone.{name}"], tensor), name
    for name, tensor in untouched.items():
        assert torch.equal(state[name], tensor), name


def test_safetensors_start_a_network_too(tmp_path: Path):
    network = network_of("dla34-coco")
    tensors = backbone_tensors(network)
    save_file(tensors, tmp_path / "dla34.safetensors")
    assert load_start(network, tmp_path / "dla34.safetensors", COCO).endswith(
        ": 234 of 234 tensors loaded, 55 newly initialised"
    )
    assert torch.equal(network.state_dict()["backbone.level5.root.conv.weight"], tensors["level5.root.conv.weight"])


def test_start_weights_that_do_not_fit_at_all(tmp_path: Path):
    torch.save(STATE, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"none of the 3 tensors fits this network$"):
        load_start(network_of("posedet-s"), tmp_path / "a.pth", BODY19)
