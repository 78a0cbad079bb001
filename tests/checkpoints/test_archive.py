from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from zeroq_asr.checkpoints.archive import FREE_BYTES, MAX_RATIO, open_folder, open_tar
from zeroq_asr.errors import CheckpointError

Put = Callable[[bytes], Path]


def read_tar(path: Path, **limits: int) -> dict[str, bytes]:
    with open_tar(path, **limits) as files:
        return {name: files.read(name, 2**30) for name in files.names}


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def file_of(name: str, data: bytes = b"data", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(data: bytes) -> Path:
        path = tmp_path / "archive.nemo"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_reads_files_with_and_without_dot(put: Put, compress: Callable[[bytes], bytes]) -> None:
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    data = tar_of((folder, b""), file_of("./a.yaml", b"one"), file_of("b/c.ckpt", b""))
    assert read_tar(put(compress(data))) == {"a.yaml": b"one", "b/c.ckpt": b""}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "a/../../outside", "./../outside", "..\\outside"]
)
def test_refuses_names_that_lead_outside(put: Put, name: str) -> None:
    with pytest.raises(CheckpointError, match="outside"):
        read_tar(put(tar_of(file_of(name))))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_refuses_links_and_devices(put: Put, kind: bytes) -> None:
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        read_tar(put(tar_of(file_of("model_config.yaml", b"", type=kind, linkname="/etc/passwd"))))


def test_refuses_the_same_name_twice(put: Put) -> None:
    with pytest.raises(CheckpointError, match="twice"):
        read_tar(put(tar_of(file_of("a"), file_of("./a"))))


def test_limits_hold(put: Put) -> None:
    path = put(tar_of(*(file_of(f"f{i}", bytes(1000)) for i in range(5))))
    assert len(read_tar(path)) == 5
    with pytest.raises(CheckpointError, match="more than 4 members"):
        read_tar(path, max_members=4)
    with pytest.raises(CheckpointError, match="more bytes than the limit"):
        read_tar(path, max_total=3000)
    with open_tar(path) as files, pytest.raises(CheckpointError, match="'f0' is larger than the 999 bytes"):
        files.read("f0", 999)


def test_a_bomb_stops_at_the_limit(put: Put) -> None:
    bomb = gzip.compress(tar_of(file_of("zeros", bytes(50_000_000))))
    assert len(bomb) < 100_000
    with pytest.raises(CheckpointError, match="more bytes than the limit"):
        read_tar(put(bomb), max_total=1_000_000)


def test_a_header_cannot_promise_more_than_the_file_holds(put: Put) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 2**33
    with pytest.raises(CheckpointError, match="ends inside 'huge'"):
        read_tar(put(info.tobuf()))
    with pytest.raises(CheckpointError, match="ends inside 'huge'"):
        read_tar(put(gzip.compress(info.tobuf())))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_truncated_at_any_point(put: Put, compress: Callable[[bytes], bytes]) -> None:
    data = compress(tar_of(file_of("a", bytes(range(256)) * 8), file_of("b", bytes(3000))))
    whole = read_tar(put(data))
    for end in (5, 100, 300, 600, 1500, 2600, 3000, len(data) // 2):
        if end >= len(data):
            continue
        try:
            files = read_tar(put(data[:end]))
        except CheckpointError:
            continue
        # cut between two members: what is there is whole
        assert files.items() <= whole.items()


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"\x1f\x8bnot gzip", b"x" * 2000])
def test_refuses_what_is_no_archive(put: Put, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_tar(put(data))


def test_a_flipped_bit_of_a_compressed_archive_is_found(put: Put) -> None:
    """The checksum of gzip is its last word, behind all that tar reads."""
    data = bytearray(gzip.compress(tar_of(file_of("a", bytes(range(256)) * 40)), compresslevel=0))
    data[len(data) // 2] ^= 1
    with pytest.raises(CheckpointError, match="not a whole tar archive"):
        read_tar(put(bytes(data)))
    data[len(data) // 2] ^= 1
    with pytest.raises(CheckpointError, match="not a whole tar archive"):
        read_tar(put(bytes(data[:-4])))


def test_what_grows_beyond_all_weights_is_refused(put: Put) -> None:
    bomb = gzip.compress(tar_of(file_of("zeros", bytes(FREE_BYTES + 2**20))))
    assert MAX_RATIO * len(bomb) < FREE_BYTES
    with pytest.raises(CheckpointError, match="unpacks to more bytes"):
        read_tar(put(bomb))


def test_a_folder_around_all_files_is_left_out(put: Put) -> None:
    data = tar_of(file_of("model/a.yaml", b"one"), file_of("model/b/c.ckpt", b"two"))
    assert read_tar(put(data)) == {"a.yaml": b"one", "b/c.ckpt": b"two"}


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_part_is_a_file_of_its_own(put: Put, compress: Callable[[bytes], bytes]) -> None:
    inner = tar_of(file_of("x", b"inner"))
    outer = put(compress(tar_of(file_of("before", bytes(700)), file_of("a", inner), file_of("after", b"!"))))
    with open_tar(outer) as files, files.open("a") as part:
        assert part.seek(0, 2) == len(inner)
        assert part.read(5) == b""
        assert part.seek(-3, 1) == len(inner) - 3
        part.seek(0)
        assert part.read() == inner
        part.seek(0)
        with tarfile.open(fileobj=part) as archive:
            member = archive.extractfile("x")
            assert member is not None
            assert member.read() == b"inner"


def test_a_damaged_header_behind_the_first_is_found(put: Put) -> None:
    data = bytearray(tar_of(file_of("a"), file_of("b")))
    data[1024 + 150] ^= 1
    with pytest.raises(CheckpointError, match="damaged tar headers"):
        read_tar(put(bytes(data)))


def test_a_header_without_end_is_not_read(put: Put) -> None:
    info = tarfile.TarInfo("x" * (3 * 2**20))
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(CheckpointError, match="a tar header of"):
        read_tar(put(data))


def test_names_are_shown_on_one_line(put: Put) -> None:
    name = "../\x1b[31m\n" + "x" * 300
    with pytest.raises(CheckpointError, match="outside the archive") as caught:
        read_tar(put(tar_of(file_of(name))))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_was_unpacked_has_no_name(put: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zeroq_asr.checkpoints.archive.FREE_BYTES", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = put(gzip.compress(tar_of(file_of("a", os.urandom(5000)))))
    with open_tar(path) as files:
        assert len(files.read("a", 5000)) == 5000
        assert [*tmp_path.iterdir()] == [path]


def test_a_folder_gives_its_files_and_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "inner").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with open_folder(tmp_path) as files:
        assert files.names == ["a"]
        assert files.read("a", 3) == b"one"
    with pytest.raises(CheckpointError, match="cannot be read"), open_folder(tmp_path / "none"):
        pass
