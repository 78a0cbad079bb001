"""What the header of a sound file says of its length, against the length of the file.

Recorders that write into a pipe cannot come back to fill the length in: they leave 0, or the largest number
there is.  libsndfile reads nothing of the former, and says nothing of files that were cut off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

#: a length of so many bytes is none: 0x7fffffff and 0xffffffff, less what some writers take off
_UNKNOWN = 0x7FFF0000
#: chunks of a file looked at, and bytes behind the sound that may be anybody's padding
_MOST_CHUNKS, _PADDING = 10_000, 64


@dataclass(frozen=True)
class Length:
    """How the length in a header differs from what there is, and how to read it all the same."""

    #: the length is not in the header
    guessed: bool = False
    #: bytes of sound that the header says are there, and bytes that are not
    claimed: int = 0
    missing: int = 0
    #: bytes behind the sound that belong to nothing
    surplus: int = 0
    #: where the length stands that libsndfile must not see, and what it shall see instead
    patch: tuple[int, bytes] | None = None


def examine(stream: BinaryIO) -> Length:
    """Return what is odd about the length that a file's header gives; the stream is rewound."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    found = Length()
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        found = _wave(stream, size)
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        found = _aiff(stream, size)
    elif head[:4] == b".snd":
        found = _compare(int.from_bytes(head[8:12], "big"), size - int.from_bytes(head[4:8], "big"))
    stream.seek(0)
    return found


def _compare(claimed: int, there: int) -> Length:
    if claimed >= _UNKNOWN and claimed > there:
        return Length(guessed=True)
    return Length(claimed=claimed, missing=max(0, claimed - there))


def _chunks(stream: BinaryIO, start: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and length of the chunks from ``start`` on, as far as they look like chunks."""
    at = start
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
            return
        length = int.from_bytes(head[4:], "little" if order == "little" else "big")
        yield head[:4], at + 8, length
        at += 8 + length + length % 2
        if at >= size:
            return


def _wave(stream: BinaryIO, size: int) -> Length:
    long = 0
    for name, start, length in _chunks(stream, 12, size, "little"):
        if name == b"ds64":
            stream.seek(start + 8)
            long = int.from_bytes(stream.read(8), "little")
        if name != b"data":
            continue
        if long and length == 0xFFFFFFFF:
            return _compare(long, size - start)
        behind = start + length + length % 2
        rest = [*_chunks(stream, behind, size, "little")]
        end = rest[-1][1] + rest[-1][2] if rest else behind
        if length == 0 and size - end > 1 and size > start:
            return Length(guessed=True, patch=(start - 4, b"\xff" * 4))
        odd = _compare(length, size - start)
        surplus = size - end if size - end > _PADDING else 0
        return Length(odd.guessed, odd.claimed, odd.missing, surplus)
    return Length()


def _aiff(stream: BinaryIO, size: int) -> Length:
    for name, start, length in _chunks(stream, 12, size, "big"):
        if name == b"SSND":
            return _compare(length, size - start)
    return Length()


class Patched:
    """A stream in which a few bytes read as others."""

    def __init__(self, stream: BinaryIO, at: int, data: bytes) -> None:
        self._stream, self._at, self._data = stream, at, data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def read(self, count: int = -1) -> bytes:
        """Return bytes from the position on."""
        start = self._stream.tell()
        found = bytearray(self._stream.read(count))
        for place, byte in enumerate(self._data, start=self._at - start):
            if 0 <= place < len(found):
                found[place] = byte
        return bytes(found)
