from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.errors import CheckpointError

SOURCE = """
import dataclasses
import sys

import torch

import zeroq_asr as zq
from zeroq_asr import checkpoints, errors

def load(path):
    model = checkpoints.load_checkpoint(path)
    model.network.half().train().requires_grad_(True)
    return model

def wrong(path):
    return path

def fails(path):
    raise KeyError(path)

def leaves(path):
    sys.exit(0)

def changed(**fields):
    def load(path):
        return dataclasses.replace(make(), **fields)
    return load

def make():
    network = torch.nn.Conv1d(4, 3, 1)
    return zq.AsrModel(network, zq.FrontendConfig(features=4), zq.Tokenizer(("a", "b")), "model")

no_network, no_frontend = changed(network=None), changed(frontend=None)
no_tokenizer, no_name = changed(tokenizer=["a"]), changed(name=3)

def nan(path):
    model = make()
    torch.nn.init.constant_(model.network.weight, float("nan"))
    return model

def refuses(path):
    raise errors.CheckpointError(path, "is not mine")

value = 3
"""


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "user_loaders.py").write_text(SOURCE)
    (tmp_path / "broken_loaders.py").write_text("import nothing_of_this_name")
    (tmp_path / "leaving_loaders.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield
    for name in ("user_loaders", "broken_loaders", "leaving_loaders"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("loaders")
def test_a_function_in_the_current_folder(
    write_nemo: Callable[..., Path], conv_config: dict[str, Any], conv_state: dict[str, torch.Tensor]
) -> None:
    model = load_checkpoint(write_nemo(conv_config, conv_state), loader="user_loaders:load")
    assert not model.network.training
    parameters = list(model.network.parameters())
    assert {p.dtype for p in parameters} == {torch.float32}
    assert not any(p.requires_grad for p in parameters)


@pytest.mark.usefixtures("loaders")
@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("user_loaders", "write package.module:function"),
        (":load", "write package.module:function"),
        ("user_loaders:", "write package.module:function"),
        ("no_such_module:load", "no_such_module cannot be imported"),
        ("broken_loaders:load", "cannot be imported .*nothing_of_this_name"),
        ("user_loaders:save", "user_loaders has no save"),
        ("user_loaders:wrong", "returned str; return a zeroq_asr.AsrModel"),
        ("user_loaders:value", "failed .*not callable"),
        ("user_loaders:fails", "failed .KeyError"),
        ("user_loaders:refuses", "is not mine"),
        ("user_loaders:leaves", "failed .SystemExit"),
        ("leaving_loaders:load", "cannot be imported .SystemExit"),
        ("user_loaders:no_network", "network is NoneType; it must be Module"),
        ("user_loaders:no_frontend", "frontend is NoneType; it must be FrontendConfig"),
        ("user_loaders:no_tokenizer", "tokenizer is list; it must be Tokenizer"),
        ("user_loaders:no_name", "name is int; it must be str"),
        ("user_loaders:nan", "NaN or infinity: weight"),
    ],
)
def test_what_goes_wrong_is_said(loader: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint("model.bin", loader=loader)
    assert "\n" not in str(caught.value)


def test_a_loader_takes_no_configuration() -> None:
    with pytest.raises(CheckpointError, match="no --config"):
        load_checkpoint("model.bin", loader="a:b", config="c.yaml")
