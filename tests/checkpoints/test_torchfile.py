from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
import types
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from zeroq_asr.checkpoints import load_checkpoint, save_checkpoint
from zeroq_asr.errors import CheckpointError, ConfigError
from zeroq_asr.model import AsrModel

Config = dict[str, Any]
State = dict[str, torch.Tensor]


@pytest.fixture
def model(write_nemo: Callable[..., Path], conv_config: Config, conv_state: State) -> AsrModel:
    return load_checkpoint(write_nemo(conv_config, conv_state))


@pytest.fixture
def yaml_path(tmp_path: Path, conv_config: Config) -> Path:
    path = tmp_path / "model_config.yaml"
    path.write_text(yaml.safe_dump(conv_config))
    return path


def assert_same(one: AsrModel, other: AsrModel) -> None:
    features, lengths = one.example_input()
    for a, b in zip(one.network(features, lengths), other.network(features, lengths), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert one.frontend == other.frontend
    assert one.tokenizer == other.tokenizer
    assert one.subsampling_factor == other.subsampling_factor


def test_own_format_survives(model: AsrModel, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "saved.pt")
    loaded = load_checkpoint(tmp_path / "saved.pt")
    assert_same(model, loaded)
    assert (loaded.name, loaded.architecture, loaded.config) == (model.name, "conv_ctc", model.config)
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_own_format_needs_an_architecture_and_a_folder(model: AsrModel, tmp_path: Path) -> None:
    foreign = AsrModel(model.network, model.frontend, model.tokenizer, "foreign")
    with pytest.raises(CheckpointError, match=r"torch\.export\.save"):
        save_checkpoint(foreign, tmp_path / "saved.pt")
    with pytest.raises(ConfigError):
        save_checkpoint(model, tmp_path / "none" / "saved.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "format version 2, this release reads 1"),
        ({"config": None}, "wrong type: config"),
        ({"tokenizer": {}}, "tokenizer"),
        ({"frontend": {"mels": 3}}, "unknown keys mels"),
        ({"architecture": "transformer"}, "unknown architecture 'transformer'; known: .*conv_ctc"),
        ({"config": {"encoder": {}, "decoder": {}}}, "encoder.activation: is missing"),
        ({"state_dict": {}}, "state dict"),
        ({"state_dict": {1: torch.zeros(1)}}, "a name that is no string: 1"),
        ({"tokenizer": {"tokens": ["\ud800"], "kind": "characters"}}, "no Unicode"),
        ({"frontend": {"features": 17}}, "feat_in is 16, the frontend makes 17 mels"),
    ],
)
def test_own_format_is_checked(model: AsrModel, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "saved.pt"
    save_checkpoint(model, path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, **change}, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_with_their_configuration(
    model: AsrModel, conv_state: State, yaml_path: Path, old_format: bool, wrapped: bool
) -> None:
    path = yaml_path.with_name("weights.ckpt")
    content = {"state_dict": conv_state, "epoch": 3} if wrapped else conv_state
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    assert_same(model, load_checkpoint(path, config=yaml_path))
    with pytest.raises(CheckpointError, match=r"pass --config model_config\.yaml"):
        load_checkpoint(path)


def test_training_options_of_frameworks_are_left_out(
    model: AsrModel, conv_state: State, yaml_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Lightning checkpoint of NeMo stores OmegaConf objects: neither imported nor run."""
    module = types.ModuleType("omegaconf")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf"})  # type: ignore[attr-defined]  # a module made by hand
    options = module.DictConfig()
    options.content = {"lr": 1.0, "path": Path("somewhere")}
    monkeypatch.setitem(sys.modules, "omegaconf", module)
    path = yaml_path.with_name("lightning.ckpt")
    torch.save({"state_dict": conv_state, "hyper_parameters": {"cfg": options}}, path)
    monkeypatch.delitem(sys.modules, "omegaconf")
    assert_same(model, load_checkpoint(path, config=yaml_path))
    assert "omegaconf" not in sys.modules


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


@pytest.mark.parametrize("old_format", [False, True])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    conv_state: State, yaml_path: Path, old_format: bool
) -> None:
    marker, path = yaml_path.with_name("ran"), yaml_path.with_name("evil.pt")
    content = {"state_dict": conv_state, "more": Touch(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError, match="exec") as caught:
        load_checkpoint(path, config=yaml_path)
    assert "--loader" in str(caught.value)
    assert not marker.exists()
    path.write_bytes(pickle.dumps(content["more"], protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, config=yaml_path)
    assert not marker.exists()


def test_code_in_an_archive_is_refused_and_not_run(
    write_nemo: Callable[..., Path], conv_config: Config, conv_state: State, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(CheckpointError, match="exec"):
        load_checkpoint(write_nemo(conv_config, {**conv_state, "more": Touch(marker)}))
    assert not marker.exists()


def test_modules_say_what_to_do_instead(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match=r"Linear.*save_checkpoint or torch\.export\.save"):
        load_checkpoint(path)


def test_torchscript_says_what_to_do_instead(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("script/constants.pkl", "script/data.pkl", "script/code/__torch__.py"):
            archive.writestr(name, b"")
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*--loader"):
        load_checkpoint(path)


@pytest.mark.parametrize("end", [1, 3, 30, 300, 0.5, 0.99])
def test_truncated_files(model: AsrModel, tmp_path: Path, end: float) -> None:
    path = tmp_path / "saved.pt"
    save_checkpoint(model, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(end if end >= 1 else end * len(data))])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_damaged_bytes_never_escape(model: AsrModel, tmp_path: Path) -> None:
    path = tmp_path / "saved.pt"
    save_checkpoint(model, path)
    data = path.read_bytes()
    at = data.index(b"data.pkl") + 8
    for position in range(at, at + 2000, 37):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path)


def test_a_flipped_bit_of_a_weight_is_found(model: AsrModel, tmp_path: Path) -> None:
    path = tmp_path / "saved.pt"
    save_checkpoint(model, path)
    data = bytearray(path.read_bytes())
    weight = next(model.network.parameters()).numpy().tobytes()
    data[data.index(weight)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged: .*data/\d+ does not match its checksum"):
        load_checkpoint(path)


def test_torchs_advice_to_run_a_file_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"weights": torch.nn.Linear(2, 2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="nothing of it was run") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeroq_asr.checkpoints import pickles

    monkeypatch.setattr(pickles, "MAX_TOTAL_BYTES", 1_000_000)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(2_000_000))
    with pytest.raises(CheckpointError, match="more bytes than the limit"):
        load_checkpoint(path)


def test_a_zip_that_grows_beyond_all_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(65 * 2**20))
    with pytest.raises(CheckpointError, match="more bytes than the limit"):
        load_checkpoint(path)


def test_an_entry_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("twice/data.pkl", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("twice/data.pkl", b"")
    with pytest.raises(CheckpointError, match="holds an entry twice"):
        load_checkpoint(path)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is a pipe"):
        load_checkpoint(tmp_path / "pipe")
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="is a pipe"):
        load_checkpoint(tmp_path / "weights.pt", config=tmp_path / "pipe")


def test_weights_are_never_held_twice(
    conv_state: State, yaml_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a type that must be converted, one tensor at a time is there in both."""
    from zeroq_asr.checkpoints import weights

    path = yaml_path.with_name("half.ckpt")
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in conv_state.items()}, path)
    seen: list[Any] = []
    checked = weights.checked_state

    def watched(where: Path, network: nn.Module, state: State) -> State:
        seen.extend(weakref.ref(tensor) for tensor in state.values())
        result = checked(where, network, state)
        kept = {id(tensor) for tensor in result.values()}
        assert not state
        assert not [one for one in seen if one() is not None and id(one()) not in kept]
        return result

    monkeypatch.setattr(weights, "checked_state", watched)
    load_checkpoint(path, config=yaml_path)
    assert len(seen) == len(conv_state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"RIFF and so on", "neither a .nemo archive nor"),
        (b"PK\x03\x04 and no more", "not a whole zip"),
        (b"\x80\x02nonsense", "no readable weights"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "file.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_a_missing_configuration_is_named(conv_state: State, tmp_path: Path) -> None:
    torch.save(conv_state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"none\.yaml: there is no such file"):
        load_checkpoint(tmp_path / "weights.pt", config=tmp_path / "none.yaml")


def test_the_tokenizer_is_looked_for_beside_the_configuration_only(
    conv_config: Config, conv_state: State, tmp_path: Path
) -> None:
    conv_config["tokenizer"] = {"type": "bpe", "model_path": "/etc/hostname"}
    conv_config["decoder"]["vocabulary"] = None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(conv_config))
    buffer = io.BytesIO()
    torch.save(conv_state, buffer)
    (tmp_path / "weights.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="tokenizer: /etc/hostname is missing"):
        load_checkpoint(tmp_path / "weights.pt", config=tmp_path / "config.yaml")
