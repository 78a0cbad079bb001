"""Reading tar archives, and folders, that a stranger wrote: within limits, without unpacking by their names.

Nothing is read into memory but what is asked for.  A compressed archive is unpacked first, within its limits,
into a temporary file without a name, so that nothing is left of it however this process ends.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from zeroq_asr.errors import CheckpointError
from zeroq_asr.files import open_file
from zeroq_asr.lines import shown

#: bytes of an unpacked archive: several times the largest recogniser
MAX_TOTAL_BYTES = 64 * 2**30
#: times that an archive may grow by unpacking, beyond some that no memory minds: weights hardly shrink
MAX_RATIO, FREE_BYTES = 20, 64 * 2**20
MAX_MEMBERS = 1000
GZIP_MAGIC = b"\x1f\x8b"

#: bytes of one header of a tar archive; longer ones hold no name but a trap
_MAX_HEADER_BYTES = 2**20
_CHUNK = 2**20
#: what a name's listing may show, and the files of a folder that are looked at
_SHOWN, _MAX_FOLDER = 5, 10_000


class Part(io.RawIOBase):
    """A part of a file, read as a file of its own."""

    def __init__(self, stream: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, and return it."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill ``buffer`` as far as the part goes, and return how many bytes that were."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        self._stream.seek(self._start + self._at)
        count: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return count


class Files:
    """Files by name, of an archive or a folder; ``where`` is what errors call them."""

    def __init__(self, where: str | os.PathLike[str], openers: Mapping[str, Callable[[], BinaryIO]]) -> None:
        self.where = where
        self._openers = openers

    def __contains__(self, name: object) -> bool:
        return name in self._openers

    @property
    def names(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._openers)

    def open(self, name: str) -> BinaryIO:
        """Open a file to be read; close it."""
        return self._openers[name]()

    def read(self, name: str, limit: int) -> bytes:
        """Return the bytes of a file, or raise CheckpointError when there are more than ``limit``."""
        with self.open(name) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise CheckpointError(
                self.where, f"{shown(name)} is larger than the {limit} bytes that such a file may have"
            )
        return data

    def listed(self) -> str:
        """Return the first names, for an error."""
        names = self.names
        return ", ".join(map(shown, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "") or "nothing"


@contextlib.contextmanager
def open_tar(
    path: str | os.PathLike[str], *, max_total: int = MAX_TOTAL_BYTES, max_members: int = MAX_MEMBERS
) -> Iterator[Files]:
    """Open a tar or tar.gz archive: its files, by name without a leading "./".

    Raises CheckpointError when the archive is damaged, larger than the limits (bytes), or holds
    anything but files and folders with relative names: links, devices, "..".
    """
    with open_file(path, CheckpointError) as raw, contextlib.ExitStack() as stack:
        held = os.fstat(raw.fileno()).st_size
        limit = min(max_total, max(MAX_RATIO * held, FREE_BYTES))
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        plain: IO[bytes] = stack.enter_context(_unpacked(path, raw, limit)) if zipped else raw
        size = plain.seek(0, os.SEEK_END)
        if size > limit:
            raise CheckpointError(path, "holds more bytes than the limit for a checkpoint")
        yield Files(path, _members(path, plain, size, max_members))


@contextlib.contextmanager
def open_folder(path: str | os.PathLike[str]) -> Iterator[Files]:
    """Open a folder: the files that lie directly in it."""
    try:
        with os.scandir(path) as entries:
            found = [Path(entry.path) for entry, _ in zip(entries, range(_MAX_FOLDER), strict=False)]
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})", "check the path") from None
    yield Files(path, {one.name: _opener(one) for one in found if one.is_file()})


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: open_file(path, CheckpointError)


@contextlib.contextmanager
def _unpacked(path: str | os.PathLike[str], raw: BinaryIO, limit: int) -> Iterator[IO[bytes]]:
    """Give what a gzip file holds as a temporary file that has no name; a small one stays in memory."""
    with tempfile.SpooledTemporaryFile(max_size=FREE_BYTES) as plain:
        source, left = gzip.GzipFile(fileobj=raw), limit
        while chunk := _read_zipped(path, source):
            left -= len(chunk)
            if left < 0:
                raise CheckpointError(path, "unpacks to more bytes than the limit for a checkpoint")
            try:
                plain.write(chunk)
            except OSError as error:  # a full disk is no fault of the archive
                error.filename = error.filename or tempfile.gettempdir()
                raise
        yield plain


def _read_zipped(path: str | os.PathLike[str], source: gzip.GzipFile) -> bytes:
    """Return the next bytes, or raise CheckpointError; the checksum comes last."""
    try:
        return source.read(_CHUNK)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CheckpointError(path, f"is not a whole tar archive ({error})", "download it again") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})", "check the disk") from None


class _Headers:
    """What tarfile reads of an archive: its headers, which are short."""

    def __init__(self, path: str | os.PathLike[str], stream: IO[bytes]) -> None:
        self._path = path
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise CheckpointError(self._path, f"has a tar header of {size} bytes", "it is no checkpoint")
        return self._stream.read(size)


def _members(
    path: str | os.PathLike[str], plain: IO[bytes], size: int, most: int
) -> dict[str, Callable[[], BinaryIO]]:
    """Return how each file of a tar archive of ``size`` bytes is opened, or raise CheckpointError."""
    files: dict[str, tuple[int, int]] = {}
    plain.seek(0)
    try:
        with tarfile.open(fileobj=_Headers(path, plain), mode="r:") as archive:  # type: ignore[call-overload]
            for count, member in enumerate(archive, start=1):
                if count > most:
                    raise CheckpointError(path, f"holds more than {most} members")
                name = _checked_name(path, member)
                if member.isdir():
                    continue
                if member.offset_data + member.size > size:
                    raise CheckpointError(path, f"ends inside {shown(name)}", "download it again")
                if name in files:
                    raise CheckpointError(path, f"holds {shown(name)} twice")
                files[name] = (member.offset_data, member.size)
            # tarfile ends without a word at a header that it cannot read
            plain.seek(archive.offset)
            if plain.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise CheckpointError(path, "has damaged tar headers", "download it again")
    except (tarfile.TarError, EOFError) as error:
        raise CheckpointError(
            path, f"is not a whole tar archive ({shown(str(error))})", "download it again"
        ) from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})", "check the disk") from None
    except (ValueError, IndexError, OverflowError, RecursionError, TypeError, AttributeError) as error:
        # tarfile's parser lets these out for damaged headers
        raise CheckpointError(
            path, f"has damaged tar headers ({shown(str(error))})", "download it again"
        ) from None
    return {name: _part(plain, *place) for name, place in _without_folder(files).items()}


def _without_folder(files: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Leave out the folder that all files lie in, where somebody packed that and not what is in it."""
    folders = {name.partition("/")[0] if "/" in name else "" for name in files}
    folder = folders.pop() if len(folders) == 1 else ""
    return {name.removeprefix(f"{folder}/"): place for name, place in files.items()} if folder else files


def _part(plain: IO[bytes], start: int, size: int) -> Callable[[], BinaryIO]:
    return lambda: Part(plain, start, size)  # type: ignore[return-value]


def _checked_name(path: str | os.PathLike[str], member: tarfile.TarInfo) -> str:
    """Return the member's name without "./", or raise CheckpointError when it is not to be trusted."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise CheckpointError(path, f"member {shown(member.name)} points outside the archive")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise CheckpointError(path, f"member {shown(member.name)} is neither a file nor a folder")
    return str(name)
