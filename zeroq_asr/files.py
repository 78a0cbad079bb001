"""Writing files whole: beside the target first, then renamed, so that none is ever half written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zeroq_asr.errors import ConfigError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; it replaces ``path`` when the block ends without error.

    Raises ConfigError when the folder does not exist or cannot be written.
    """
    # what a link points to is replaced, not the link
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise ConfigError(target, "is a folder, a file name was expected", "name the file to write")
    if target.exists() and not target.is_file():
        raise ConfigError(target, "is no regular file", "choose another output path")
    try:
        # a short name of its own: the target's may be as long as the file system allows
        handle, name = tempfile.mkstemp(prefix=".zeroq-asr-", dir=target.parent)
    except OSError as error:
        raise ConfigError(
            target, f"cannot be written ({error.strerror})", "choose another output path"
        ) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        # errors of the stream (a full disk) do not know the file's name
        error.filename = error.filename or os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(data)
