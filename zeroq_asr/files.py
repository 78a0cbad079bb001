"""Files: the one place where they are opened to be read, and written whole.

Only regular files are read: a pipe would wait for ever, a device never ends.  What is written is written
beside the target first, then renamed, so that nothing is ever half written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from zeroq_asr.errors import ConfigError, ZeroqError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_file(path: str | os.PathLike[str], error: type[ZeroqError]) -> BinaryIO:
    """Open a regular file to be read; links are followed.

    Raises ``error``, naming the path, when there is none, when it is a folder, a pipe, a device or a
    socket, or when it may not be read.
    """
    try:
        # without waiting for somebody to write into a pipe
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(path, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise error(path, "is a folder, a file was expected", "name a file") from None
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(path, f"cannot be read ({reason})", "check the path") from None
    mode = stat.S_IFMT(os.fstat(handle).st_mode)
    if mode != stat.S_IFREG:
        os.close(handle)
        kind = _KINDS.get(mode, "something else")
        raise error(path, f"is {kind}, a file was expected", "name a regular file")
    return os.fdopen(handle, "rb")


def read_file(path: str | os.PathLike[str], error: type[ZeroqError], limit: int | None = None) -> bytes:
    """Return the bytes of a regular file.

    Raises ``error`` as `open_file` does, when it holds more than ``limit`` bytes, and when reading fails.
    """
    with open_file(path, error) as stream:
        try:
            data = stream.read() if limit is None else stream.read(limit + 1)
        except OSError as problem:
            raise error(path, f"cannot be read ({problem.strerror or problem})", "check the disk") from None
    if limit is not None and len(data) > limit:
        raise error(
            path, f"is larger than the {limit} bytes that such a file may have", "is it the right file?"
        )
    return data


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


def atomic_write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes], index: str) -> None:
    """Write a folder of ``files``, by name, whole or not at all.

    A folder that is empty, or holds the file ``index`` and beside it only what is named like ``files``, is
    replaced.  Raises ConfigError for anything else that is there, and where nothing can be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise ConfigError(target, "is a file, a folder was to be written", "choose another output path")
    there = [*target.iterdir()] if target.exists() else []
    kinds = {Path(name).suffix for name in files}
    ours = all(one.is_file() and one.suffix in kinds for one in there)
    if there and not (ours and (target / index).is_file()):
        raise ConfigError(target, f"holds something else than a {index} and its files", "choose another path")
    try:
        work = Path(tempfile.mkdtemp(prefix=".zeroq-asr-", dir=target.parent))
    except OSError as error:
        raise ConfigError(
            target, f"cannot be written ({error.strerror})", "choose another output path"
        ) from None
    old, new = work / "old", work / "new"
    try:
        # within a folder that nobody else can read, one of the usual permissions
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        # if even that failed, what was there is still in it
        if target.exists() or not old.exists():
            shutil.rmtree(work, ignore_errors=True)
