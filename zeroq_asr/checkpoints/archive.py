"""Reading tar archives that a stranger wrote: into memory, within limits, nothing on the disk."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from pathlib import PurePosixPath
from typing import IO

from zeroq_asr.errors import CheckpointError

#: bytes of an unpacked archive, and of each file in it
MAX_TOTAL_BYTES = 2 * 2**30
MAX_MEMBER_BYTES = 2 * 2**30
#: times that an archive may grow by unpacking, beyond some that no memory minds: weights hardly shrink
MAX_RATIO, FREE_BYTES = 20, 64 * 2**20
MAX_MEMBERS = 1000
GZIP_MAGIC = b"\x1f\x8b"


class _CountingReader:
    """Hand on the bytes of ``stream`` and stop when there are more than ``limit``.

    It counts what comes out of the decompressor, so that a small file cannot become a large one.
    """

    def __init__(self, path: str | os.PathLike[str], stream: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self._path = path
        self._stream = stream
        self._left = limit

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, or raise CheckpointError past the limit."""
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise CheckpointError(self._path, "unpacks to more bytes than the limit for a checkpoint")
        return data


def read_tar(
    path: str | os.PathLike[str],
    *,
    max_total: int = MAX_TOTAL_BYTES,
    max_member: int = MAX_MEMBER_BYTES,
    max_members: int = MAX_MEMBERS,
) -> dict[str, bytes]:
    """Return the files of a tar or tar.gz archive by name, without a leading "./".

    Raises CheckpointError when the archive is damaged, larger than the limits (bytes), or holds
    anything but files and folders with relative names: links, devices, "..".
    """
    files: dict[str, bytes] = {}
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            source = gzip.GzipFile(fileobj=raw) if zipped else raw
            held = os.fstat(raw.fileno()).st_size
            reader = _CountingReader(path, source, min(max_total, max(MAX_RATIO * held, FREE_BYTES)))
            # "r|" reads forward only: no seeking back makes the count above exact
            with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]
                for count, member in enumerate(archive, start=1):
                    if count > max_members:
                        raise CheckpointError(path, f"holds more than {max_members} members")
                    name = _checked_name(path, member)
                    if member.isdir():
                        continue
                    if member.size > max_member:
                        raise CheckpointError(path, f"{name} is larger than the limit for a member")
                    if name in files:
                        raise CheckpointError(path, f"holds {name} twice")
                    files[name] = _read_member(path, archive, member)
            # gzip's checksum comes last, behind what tar has to read
            while reader.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CheckpointError(path, f"is not a whole tar archive ({error})", "download it again") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})") from None
    except (ValueError, IndexError, OverflowError, RecursionError) as error:
        # tarfile's parser lets these out for damaged headers
        raise CheckpointError(path, f"has damaged tar headers ({error})", "download it again") from None
    return files


def _read_member(path: str | os.PathLike[str], archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None, "regular files have a stream"
    data = stream.read()
    if len(data) != member.size:
        raise CheckpointError(path, f"ends inside {member.name}", "download it again")
    return data


def _checked_name(path: str | os.PathLike[str], member: tarfile.TarInfo) -> str:
    """Return the member's name without "./", or raise CheckpointError when it is not to be trusted."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise CheckpointError(path, f"member {member.name!r} points outside the archive")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise CheckpointError(path, f"member {member.name!r} is neither a file nor a folder")
    return str(name)
