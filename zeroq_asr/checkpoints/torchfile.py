"""Files that PyTorch writes: `.pt`, `.ckpt` and `.pt2`.

::

    our own format            a dictionary with "format": "zeroq-asr", written by `save_checkpoint`
    weights                   a state dict, or {"state_dict": …}, with NeMo's model_config.yaml
    an exported program       torch.export.save, with model_config.yaml for frontend and tokens
    TorchScript, nn.Module    refused: reading them runs what they contain
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from zeroq_asr.architectures import ARCHITECTURES, SUBSAMPLING
from zeroq_asr.checkpoints.archive import MAX_TOTAL_BYTES
from zeroq_asr.checkpoints.exported import load_program
from zeroq_asr.checkpoints.nemo import read_config, read_surroundings
from zeroq_asr.checkpoints.pickles import CODE_REMEDY, as_state_dict, is_zip, load_pickle
from zeroq_asr.checkpoints.weights import build_network
from zeroq_asr.config.choices import CTC
from zeroq_asr.errors import CheckpointError, ConfigError
from zeroq_asr.files import atomic_write, open_file, read_file
from zeroq_asr.lines import shown
from zeroq_asr.model import AsrModel, Model, TransducerModel, model_of
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

FORMAT = "zeroq-asr"
VERSION = 1
#: of an exported program, which is taken apart and put together again in memory
MAX_PROGRAM_BYTES = 2 * 2**30

_FIELDS = {
    "format": str,
    "version": int,
    "architecture": str,
    "config": dict,
    "state_dict": dict,
    "tokenizer": dict,
    "frontend": dict,
    "name": str,
}


def save_checkpoint(model: Model, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to one file that `load_checkpoint` reads without running code.

    Raises CheckpointError when the network is not one of this package's architectures, and
    ConfigError when the file cannot be written.
    """
    if model.architecture not in ARCHITECTURES:
        raise CheckpointError(
            path, "only networks of this package's architectures can be saved", "use torch.export.save"
        )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": model.architecture,
        "config": model.config,
        "state_dict": dict(model.network.state_dict()),
        "tokenizer": model.tokenizer.to_dict(),
        "frontend": model.frontend.to_dict(),
        "name": model.name,
    }
    with atomic_write(path) as stream:
        torch.save(content, stream)


def load_torch_file(
    path: str | os.PathLike[str], config: str | os.PathLike[str] | None = None, head: str = CTC
) -> AsrModel | TransducerModel:
    """Read a file of `torch.save` or `torch.export.save`, or raise CheckpointError."""
    with open_file(path, CheckpointError) as stream:
        if stream.seek(0, os.SEEK_END) > MAX_TOTAL_BYTES:
            raise CheckpointError(path, "is larger than the limit for a checkpoint")
        names = _zip_names(path, stream)
        if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
            return _load_exported(path, config)
        if any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                path, "is a TorchScript archive, which runs code when it is read", CODE_REMEDY
            )
        content = load_pickle(path, stream)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if config is not None:
            raise CheckpointError(path, "brings its own configuration", "leave --config out")
        return _load_own(path, content)
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    state = as_state_dict(path, content)
    # what else a training left in the file is in nobody's hands any more
    del content
    if config is None:
        raise CheckpointError(
            path, "holds weights without their configuration", "pass --config model_config.yaml"
        )
    return read_config(config, head).model(path, state)


def _zip_names(path: str | os.PathLike[str], stream: BinaryIO) -> list[str]:
    """Return the names in a zip archive; whether it is whole is found out where it is read."""
    if not is_zip(stream):
        return []
    try:
        with zipfile.ZipFile(stream) as archive:
            return archive.namelist()
    # zipfile raises whatever its parser meets in a damaged file
    except Exception as error:
        raise CheckpointError(
            path, f"is not a whole zip archive ({shown(str(error))})", "download it again"
        ) from None


def _load_own(path: str | os.PathLike[str], content: dict[str, Any]) -> AsrModel | TransducerModel:
    """Return the model that `save_checkpoint` wrote, each field checked."""
    if content.get("version") != VERSION:
        raise CheckpointError(
            path,
            f"format version {shown(content.get('version'))}, this release reads {VERSION}",
            "update zeroq-asr",
        )
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise CheckpointError(path, f"fields missing or of the wrong type: {', '.join(wrong)}")
    architecture, config = content["architecture"], content["config"]
    try:
        frontend = FrontendConfig.from_dict(content["frontend"])
        tokenizer = Tokenizer.from_dict(content["tokenizer"])
    except ConfigError as error:
        raise CheckpointError(path, str(error)) from None
    mels = config.get("encoder", {}).get("feat_in") if isinstance(config.get("encoder"), Mapping) else None
    if mels is not None and mels != frontend.features:
        raise CheckpointError(
            path, f"encoder.feat_in is {shown(mels)}, the frontend makes {frontend.features} mels"
        )
    network = build_network(path, architecture, config, as_state_dict(path, content.pop("state_dict")))
    return model_of(
        network,
        frontend=frontend,
        tokenizer=tokenizer,
        name=content["name"],
        architecture=architecture,
        config=config,
        subsampling_factor=SUBSAMPLING[architecture](config),
    )


def _load_exported(path: str | os.PathLike[str], config: str | os.PathLike[str] | None) -> AsrModel:
    """Return the model around an exported program."""
    if config is None:
        raise CheckpointError(
            path,
            "is an exported program: it holds neither frontend nor tokens",
            "pass --config model_config.yaml",
        )
    frontend, tokenizer = read_surroundings(config)
    data = read_file(path, CheckpointError, MAX_PROGRAM_BYTES)
    network, factor = load_program(path, data, frontend.features, len(tokenizer.tokens) + 1)
    return AsrModel(
        network=network,
        frontend=frontend,
        tokenizer=tokenizer,
        name=Path(path).stem,
        subsampling_factor=factor,
    )
