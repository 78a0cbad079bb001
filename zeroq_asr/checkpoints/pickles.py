"""Tensors out of files that `torch.save` wrote, without running anything that is in them."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import torch

from zeroq_asr.checkpoints.archive import FREE_BYTES, MAX_RATIO, MAX_TOTAL_BYTES
from zeroq_asr.errors import CheckpointError
from zeroq_asr.lines import printable, shorten, shown

ZIP_MAGIC = b"PK\x03\x04"
#: files in a zip archive: torch.save makes one a tensor
_MAX_ENTRIES = 200_000

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


def load_pickle(path: str | os.PathLike[str], source: bytes | BinaryIO, *, shells: bool = True) -> Any:
    """Return what ``source`` holds: plain containers and tensors, or CheckpointError for anything else.

    A stream is read tensor by tensor.  With ``shells``, the options that training frameworks store become
    empty objects.
    """
    stream = _stream(source)
    check_zip(path, stream)
    try:
        foreign = _foreign_objects(stream)
        refused = [name for name in foreign if not (shells and name.startswith(_SHELLED))]
        if refused:
            names = ", ".join(refused[:3]) + (", …" if len(refused) > 3 else "")
            raise CheckpointError(
                path, f"holds Python objects ({names}), not only tensors; nothing of it was run", CODE_REMEDY
            )
        stream.seek(0)
        with torch.serialization.safe_globals([(_Shell, name) for name in foreign]), _quiet():
            return torch.load(stream, weights_only=True, map_location="cpu")
    except (CheckpointError, MemoryError):
        raise
    # torch.load raises whatever its parsers meet in a damaged file: no narrower class covers it
    except Exception as error:
        raise CheckpointError(path, f"holds no readable weights ({_reason(error)})", CODE_REMEDY) from None


def load_tensors(path: str | os.PathLike[str], source: bytes | BinaryIO) -> dict[str, torch.Tensor]:
    """Return the state dict in ``source``, or raise CheckpointError."""
    return as_state_dict(path, load_pickle(path, source))


def _stream(source: bytes | BinaryIO) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out torch's notes to authors on what it finds in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def as_state_dict(path: str | os.PathLike[str], value: Any) -> dict[str, torch.Tensor]:
    """Return ``value`` if it maps names to tensors, else raise CheckpointError."""
    if not isinstance(value, Mapping) or not value:
        found = type(value).__name__
        raise CheckpointError(path, f"expected a state dict of names and tensors, found {found}", CODE_REMEDY)
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise CheckpointError(
                path, f"the state dict has a name that is no string: {shown(name)}", CODE_REMEDY
            )
        if not isinstance(tensor, torch.Tensor):
            found = type(tensor).__name__
            raise CheckpointError(
                path, f"entry {shown(name)} of the state dict is no tensor but {found}", CODE_REMEDY
            )
    return dict(value)


def check_zip(path: str | os.PathLike[str], source: bytes | BinaryIO) -> None:
    """Raise CheckpointError when a zip archive is damaged or unpacks to more than the limit."""
    stream = _stream(source)
    if not is_zip(stream):
        return
    held = stream.seek(0, os.SEEK_END)
    limit = min(MAX_TOTAL_BYTES, max(MAX_RATIO * held, FREE_BYTES))
    damaged, total = None, 0
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            total = sum(info.file_size for info in entries)
            if total <= limit and len(entries) <= _MAX_ENTRIES:
                names = {info.filename for info in entries}
                if len(names) < len(entries):
                    raise CheckpointError(path, "holds an entry twice", "it is no file of torch.save")
                # torch reads past the checksums, so a flipped bit would become a weight
                damaged = archive.testzip()
    except CheckpointError:
        raise
    # zipfile raises whatever its parser meets in a damaged file, RuntimeError for what needs a password
    except Exception as error:
        raise CheckpointError(
            path, f"is not a whole zip archive ({shown(str(error))})", "download it again"
        ) from None
    if total > limit:
        raise CheckpointError(path, "unpacks to more bytes than the limit for a checkpoint")
    if len(entries) > _MAX_ENTRIES:
        raise CheckpointError(path, f"holds more than {_MAX_ENTRIES} entries")
    if damaged is not None:
        raise CheckpointError(
            path,
            f"is damaged: {printable(shorten(damaged, 80))} does not match its checksum",
            "download it again",
        )


def is_zip(stream: BinaryIO) -> bool:
    """Tell whether a file begins like a zip archive, and go back to its beginning."""
    stream.seek(0)
    head = stream.read(len(ZIP_MAGIC))
    stream.seek(0)
    return head == ZIP_MAGIC


def _foreign_objects(stream: BinaryIO) -> list[str]:
    """Return the names of the classes and functions in a file that are no part of tensors."""
    if not is_zip(stream):
        # torch lists the names of its zip format only; the older one gets no shells
        return []
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))


def _reason(error: Exception) -> str:
    """Return the gist of torch's message, which runs to a screenful."""
    if isinstance(error, pickle.UnpicklingError):
        # torch's own words go on to advise how to run the file, which is what a stranger may want
        name = re.search(r"GLOBAL (\S+)", str(error))
        holds = f"it holds Python objects ({name[1]})" if name else "it is damaged, or holds Python objects"
        return f"{holds}, not only tensors; nothing of it was run"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
