from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from zeroq_asr.errors import AudioError, CheckpointError
from zeroq_asr.files import open_file, read_file


def test_a_regular_file_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link", CheckpointError) == b"bytes"
    with open_file(tmp_path / "file", CheckpointError) as stream:
        assert stream.read(2) == b"by"


def test_a_limit_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    assert read_file(tmp_path / "file", CheckpointError, 5) == b"bytes"
    with pytest.raises(CheckpointError, match="larger than the 4 bytes"):
        read_file(tmp_path / "file", CheckpointError, 4)


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "pipe", "device", "linked device", "socket", "NUL", "long"]
)
def test_anything_else_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = tmp_path / "x", "a file was expected"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "linked device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # the name of a socket has a short limit
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("x")
    elif kind == "NUL":
        path, said = Path("a\0b"), "cannot be read"
    elif kind == "long":
        path, said = tmp_path / ("x" * 300), "cannot be read"
    else:
        said = "no such file"
    with pytest.raises(AudioError, match="cannot be read" if kind == "socket" else said):
        open_file(path, AudioError)
