"""Float networks as files of any size: a protobuf message holds 2 GiB, and weights beyond lie beside it.

Integer files have a quarter of the bytes, and are one file each.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_model

#: bytes of weights that one file is given at most: what is not weights takes far less than the rest of 2 GiB
MOST = 2**31 - 2**26
#: what the weights of a file lie in, behind its name
_BESIDE = ".data"

#: a model: what is in its file, or the file, whose weights may lie beside it
File = bytes | Path


def save(model: onnx.ModelProto, path: Path) -> bool:
    """Write a float export to ``path``; return whether weights that one file cannot hold are in PATH.data."""
    if _is_small(model):
        path.write_bytes(model.SerializeToString())
        return False
    onnx.save_model(
        model,
        os.fspath(path),
        save_as_external_data=True,
        location=path.name + _BESIDE,
        all_tensors_to_one_file=True,
    )
    # saving takes the weights out of the model
    load_external_data_for_model(model, os.fspath(path.parent))
    return True


def held(model: onnx.ModelProto, folder: Path) -> File:
    """Return a float export as bytes; as a new file in ``folder`` where that takes weights beside it."""
    if _is_small(model):
        return model.SerializeToString()
    path = folder / f"{os.urandom(8).hex()}.onnx"
    save(model, path)
    return path


def size(file: File) -> int:
    """Return the bytes of a model, those of the weights beside it included."""
    if isinstance(file, bytes):
        return len(file)
    beside = _beside(file)
    return file.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def put(file: File, path: Path) -> None:
    """Give a model a file of another name; one that is a file by links to it and to its weights."""
    if isinstance(file, bytes):
        path.write_bytes(file)
        return
    path.hardlink_to(file)
    beside = _beside(file)
    if beside.exists():
        # under the name that the model says
        (path.parent / beside.name).hardlink_to(beside)


def source(file: File) -> str | bytes:
    """Return what ONNX Runtime opens a model by."""
    return file if isinstance(file, bytes) else os.fspath(file)


def _is_small(model: onnx.ModelProto) -> bool:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= MOST


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _BESIDE)
