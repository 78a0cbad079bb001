"""Tensors out of files that `torch.save` wrote, without running anything that is in them."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import torch

from zeroq_asr.checkpoints.archive import MAX_TOTAL_BYTES
from zeroq_asr.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"

#: what to do with a file that holds code instead of weights
CODE_REMEDY = (
    "save it with zeroq_asr.save_checkpoint or torch.export.save, or build the model yourself "
    "with --loader package.module:function"
)

#: Training frameworks store options beside the weights, as objects of these packages.  They are
#: replaced by empty shells: neither imported nor run.  Any other object is refused.
_SHELLED = (
    "omegaconf.",
    "typing.",
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "nemo.",
    "pathlib.",
    "argparse.Namespace",
    "collections.defaultdict",
    "enum.",
    "numpy.",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
)


class _Shell:
    """Stands in for an object whose class is not to be trusted: it keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Shell:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_pickle(path: str | os.PathLike[str], data: bytes, *, shells: bool = True) -> Any:
    """Return what ``data`` holds: plain containers and tensors, or CheckpointError for anything else.

    With ``shells``, the options that training frameworks store become empty objects.
    """
    check_zip(path, data)
    try:
        foreign = _foreign_objects(data)
        refused = [name for name in foreign if not (shells and name.startswith(_SHELLED))]
        if refused:
            shown = ", ".join(refused[:3]) + (", …" if len(refused) > 3 else "")
            raise CheckpointError(
                path, f"holds Python objects ({shown}), not only tensors; nothing of it was run", CODE_REMEDY
            )
        with torch.serialization.safe_globals([(_Shell, name) for name in foreign]):
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except CheckpointError:
        raise
    # torch.load raises whatever its parsers meet in a damaged file: no narrower class covers it
    except Exception as error:
        raise CheckpointError(path, f"holds no readable weights ({_reason(error)})", CODE_REMEDY) from None


def load_tensors(path: str | os.PathLike[str], data: bytes) -> dict[str, torch.Tensor]:
    """Return the state dict in ``data``, or raise CheckpointError."""
    return as_state_dict(path, load_pickle(path, data))


def as_state_dict(path: str | os.PathLike[str], value: Any) -> dict[str, torch.Tensor]:
    """Return ``value`` if it maps names to tensors, else raise CheckpointError."""
    if not isinstance(value, Mapping) or not value:
        found = type(value).__name__
        raise CheckpointError(path, f"expected a state dict of names and tensors, found {found}", CODE_REMEDY)
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise CheckpointError(
                path, f"the state dict has a name that is no string: {name!r:.60}", CODE_REMEDY
            )
        if not isinstance(tensor, torch.Tensor):
            found = type(tensor).__name__
            raise CheckpointError(
                path, f"entry {name!r} of the state dict is no tensor but {found}", CODE_REMEDY
            )
    return dict(value)


def check_zip(path: str | os.PathLike[str], data: bytes) -> None:
    """Raise CheckpointError when a zip archive is damaged or unpacks to more than the limit."""
    if not data.startswith(ZIP_MAGIC):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(info.file_size for info in archive.infolist())
            # torch reads past the checksums, so a flipped bit would become a weight
            damaged = archive.testzip() if total <= MAX_TOTAL_BYTES else None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise CheckpointError(path, f"is not a whole zip archive ({error})", "download it again") from None
    if total > MAX_TOTAL_BYTES:
        raise CheckpointError(path, "unpacks to more bytes than the limit for a checkpoint")
    if damaged is not None:
        raise CheckpointError(path, f"is damaged: {damaged} does not match its checksum", "download it again")


def _foreign_objects(data: bytes) -> list[str]:
    """Return the names of the classes and functions in ``data`` that are no part of tensors."""
    if not data.startswith(ZIP_MAGIC):
        # torch lists the names of its zip format only; the older one gets no shells
        return []
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))


def _reason(error: Exception) -> str:
    """Return the gist of torch's message, which runs to a screenful."""
    if isinstance(error, pickle.UnpicklingError):
        # torch's own words go on to advise how to run the file, which is what a stranger may want
        name = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"it holds Python objects ({name[1]})" if name else "it is damaged, or holds Python objects"
        return f"{holds}, not only tensors; nothing of it was run"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
