"""Reading ``.npz`` files of strangers: nothing is unpickled, evaluated, or allocated that is not there.

A file says four times how much there is: in the zip archive's directory, in its members, in the header of
each array, and by its own length.  All are held against each other before anything is read.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from zeroq_asr.errors import CalibrationError
from zeroq_asr.files import open_file

#: of all arrays, unpacked
MAX_BYTES = 2**30
#: unpacked bytes over packed ones: noise hardly packs at all
_MAX_RATIO = 100
_MAX_MEMBERS, _MAX_HEADER, _MAX_DIMS = 64, 10_000, 8
_END, _END64_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
_REMEDY = "synthesize it again"
#: what NumPy writes in front of an array of numbers or text, and nothing else
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[biufcU]\d{1,9})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,18}, ?)*\d{0,18},?)\),? ?\}\s*"
)


def read_arrays(path: str | os.PathLike[str], names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays ``names`` of an ``.npz`` file.

    Raises CalibrationError when it is missing, damaged, incomplete, or says that it holds more than it does.
    """
    with open_file(path, CalibrationError) as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            _check_end(path, stream, size)
            with zipfile.ZipFile(stream) as archive:
                members = _members(path, archive, names, size)
                return {name: _read(path, archive, info, name) for name, info in members.items()}
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError) as error:
            raise damaged(path, str(error) or type(error).__name__) from None
        except (ValueError, RuntimeError, IndexError, OverflowError) as error:  # of damaged directories
            raise damaged(path, str(error) or type(error).__name__) from None


def damaged(path: str | os.PathLike[str], reason: str) -> CalibrationError:
    """Return the error of a file that is not what ``SyntheticFeatures.save`` writes."""
    return CalibrationError(
        path, f"is not a file of synthetic features, or it is damaged ({reason})", _REMEDY
    )


def _check_end(path: str | os.PathLike[str], stream: BinaryIO, size: int) -> None:
    """Refuse directories of millions of entries before they are read."""
    stream.seek(max(0, size - 2**16 - 22))
    tail = stream.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise damaged(path, "it is no archive of arrays")
    if int.from_bytes(tail[at + 10 : at + 12], "little") > _MAX_MEMBERS or _END64_LOCATOR in tail[:at]:
        raise damaged(path, f"it has more than {_MAX_MEMBERS} members")
    stream.seek(0)


def _members(
    path: str | os.PathLike[str], archive: zipfile.ZipFile, names: tuple[str, ...], size: int
) -> Mapping[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len({info.filename for info in infos}) < len(infos):
        raise damaged(path, "it has two members of one name")
    found = {info.filename: info for info in infos}
    missing = [name for name in names if f"{name}.npy" not in found]
    if missing:
        raise damaged(path, f"it has no {missing[0]}")
    members = {name: found[f"{name}.npy"] for name in names}
    total = sum(info.file_size for info in members.values())
    if total > MAX_BYTES:
        raise CalibrationError(path, f"unpacks to {total} bytes, more than any features", _REMEDY)
    if total > _MAX_RATIO * size + 2**16:
        raise CalibrationError(path, f"unpacks to {total} bytes from {size}, as no features do", _REMEDY)
    return members


def _read(
    path: str | os.PathLike[str], archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str
) -> npt.NDArray[Any]:
    with archive.open(info) as member:
        head = member.read(8)
        if head[:6] != b"\x93NUMPY" or head[6:] not in (b"\x01\0", b"\x02\0", b"\x03\0"):
            raise damaged(path, f"{name} is no array")
        length = int.from_bytes(member.read(2 if head[6] == 1 else 4), "little")
        if length > _MAX_HEADER:
            raise damaged(path, f"the header of {name} says it has {length} bytes")
        dtype, order, shape = _header(path, name, member.read(length).decode("utf-8"))
        start = len(head) + (2 if head[6] == 1 else 4) + length
        claimed, there = math.prod(shape) * dtype.itemsize, info.file_size - start
        if claimed != there:
            raise damaged(path, f"the header of {name} claims {claimed} bytes, {there} are there")
        data = member.read(claimed + 1)  # and its end, where the checksum is compared
    if len(data) != claimed:
        raise damaged(path, f"{name} has {len(data)} bytes, not {claimed}")
    if order == "F" and len(shape) > 1:
        return np.ascontiguousarray(np.frombuffer(data, dtype).reshape(shape, order="F"))
    return np.frombuffer(data, dtype).reshape(shape).copy()  # what is read may be written


def _header(path: str | os.PathLike[str], name: str, text: str) -> tuple[np.dtype[Any], str, tuple[int, ...]]:
    match = _HEADER.fullmatch(text)
    if match is None:
        raise damaged(path, f"the header of {name} is not that of an array of numbers or text")
    shape = tuple(int(part) for part in match[3].replace(" ", "").split(",") if part)
    if len(shape) > _MAX_DIMS:
        raise damaged(path, f"{name} has {len(shape)} dimensions")
    try:
        dtype = np.dtype(match[1])
    except TypeError:
        raise damaged(path, f"{name} is of no type that there is, {match[1]}") from None
    return dtype, "F" if match[2] == "True" else "C", shape
