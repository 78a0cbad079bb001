"""Files: the one place where they are opened to be read, and written whole.

Only regular files are read: a pipe would wait for ever, a device never ends.  What is written is written
beside the target first, then renamed, so that nothing is ever half written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
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


#: what undoes a write that is under way, by its temporary file or folder
_UNDONE_BY: dict[Path, Callable[[], None]] = {}
#: of the machine, not of the path: a full disk, no file handle or memory left, a broken disk
_MACHINES = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def discard_temporaries() -> None:
    """Remove what every write under way, in any thread, has left so far: the process is about to end."""
    for undo in [*_UNDONE_BY.values()]:
        with contextlib.suppress(OSError):
            undo()


@contextlib.contextmanager
def _temporary(path: Path, undo: Callable[[], None]) -> Iterator[Path]:
    """Have ``undo`` called at the end of the block, however it ends.

    It is known before the path exists, so that a signal may come at any time.
    """
    try:
        _UNDONE_BY[path] = undo
        yield path
    finally:
        undo()
        _UNDONE_BY.pop(path, None)


def _beside(target: Path) -> Path:
    """Return a name in the folder of ``target``, short since that may be as long as the system allows."""
    return target.parent / f".zeroq-asr-{os.urandom(8).hex()}"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder of one's own, removed at the end of the block or of the process."""
    path = Path(tempfile.gettempdir()) / f"zeroq-asr-{os.urandom(8).hex()}"
    with _temporary(path, lambda: shutil.rmtree(path, ignore_errors=True)):
        path.mkdir(mode=0o700)
        yield path


def written_at(path: str | os.PathLike[str]) -> Path:
    """Return where a file of that name would be written: what a link points to is replaced, not the link.

    Raises ConfigError where no file can be written by that name, and OSError where the machine fails.
    """
    target = _target(path)
    trial = _beside(target)
    with _temporary(trial, lambda: trial.unlink(missing_ok=True)):
        # the permission bits do not tell: only writing does
        os.close(_created(trial, path))
    return target


def _target(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(os.path.realpath(path))
        mode = stat.S_IFMT(os.lstat(target).st_mode)
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _refused(path, error) from None
    if mode == stat.S_IFDIR:
        raise ConfigError(path, "is a folder, a file name was expected", "name the file to write")
    if mode == stat.S_IFLNK:
        raise ConfigError(path, "is a link that leads to itself", "choose another output path")
    if mode != stat.S_IFREG:
        kind = _KINDS.get(mode, "something else")
        raise ConfigError(path, f"is no regular file but {kind}", "choose another output path")
    if not target.parent.is_dir():
        problem = f"there is no folder {target.parent}"
        raise ConfigError(path, problem, "make it, or choose another output path")
    return target


def _created(new: Path, path: str | os.PathLike[str]) -> int:
    """Make the file ``new``, with the usual permissions, for what is to be written at ``path``."""
    try:
        return os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: str | os.PathLike[str], error: OSError | ValueError) -> Exception:
    """Return what to raise where nothing can be written: the machine's fault, or the name's."""
    if isinstance(error, OSError) and error.errno in _MACHINES:
        error.filename, error.filename2 = os.fspath(path), None
        return error
    problem = f"cannot be written ({getattr(error, 'strerror', None) or error})"
    return ConfigError(path, problem, "choose another output path")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; it replaces ``path`` when the block ends without error.

    What is there is replaced whatever it is: whether it may be, a caller decides.  Raises ConfigError when
    the folder does not exist or cannot be written.
    """
    target = _target(path)
    temporary = _beside(target)
    with _temporary(temporary, lambda: temporary.unlink(missing_ok=True)):
        try:
            with os.fdopen(_created(temporary, path), "wb") as stream:
                yield stream
            temporary.replace(target)
        except OSError as error:
            # errors of the stream (a full disk) do not know the file's name, and nobody knows the temporary's
            if error.filename in (None, os.fspath(temporary)):
                error.filename, error.filename2 = os.fspath(path), None
            raise


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
    work = _beside(target)
    old, new = work / "old", work / "new"

    def undo() -> None:
        # what was there is put back
        if old.exists() and not target.exists():
            with contextlib.suppress(OSError):
                old.rename(target)
        # if even that failed, it is still in there
        if target.exists() or not old.exists():
            shutil.rmtree(work, ignore_errors=True)

    with _temporary(work, undo):
        try:
            work.mkdir(mode=0o700)
        except OSError as error:
            raise _refused(path, error) from None
        # within a folder that nobody else can read, one of the usual permissions
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if target.exists():
            target.rename(old)
        new.rename(target)
