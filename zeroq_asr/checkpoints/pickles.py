"""Tensors out of files that `torch.save` wrote, without running anything that is in them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from zeroq_asr.checkpoints.archive import MAX_TOTAL_BYTES
from zeroq_asr.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"


def load_pickle(path: str | os.PathLike[str], data: bytes) -> Any:
    """Return what ``data`` holds: plain containers and tensors, or CheckpointError for anything else."""
    check_zip(path, data)
    try:
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    # torch.load raises whatever its parsers meet in a damaged file: no narrower class covers it
    except Exception as error:
        raise CheckpointError(path, f"holds no readable weights ({_reason(error)})") from None


def load_tensors(path: str | os.PathLike[str], data: bytes) -> dict[str, torch.Tensor]:
    """Return the state dict in ``data``, or raise CheckpointError."""
    return as_state_dict(path, load_pickle(path, data))


def as_state_dict(path: str | os.PathLike[str], value: Any) -> dict[str, torch.Tensor]:
    """Return ``value`` if it maps names to tensors, else raise CheckpointError."""
    if not isinstance(value, Mapping) or not value:
        raise CheckpointError(
            path, f"expected a state dict of names and tensors, found {type(value).__name__}"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            found = type(tensor).__name__
            raise CheckpointError(path, f"entry {name!r} of the state dict is no named tensor but {found}")
    return dict(value)


def check_zip(path: str | os.PathLike[str], data: bytes) -> None:
    """Raise CheckpointError when a zip archive unpacks to more than the limit."""
    if not data.startswith(ZIP_MAGIC):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(path, f"is not a whole zip archive ({error})", "download it again") from None
    if total > MAX_TOTAL_BYTES:
        raise CheckpointError(path, "unpacks to more bytes than the limit for a checkpoint")


def _reason(error: Exception) -> str:
    """Return the first line of torch's message, which runs to a screenful."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
