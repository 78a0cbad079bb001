"""Files of saved features as strangers may write them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.errors import CalibrationError
from zeroq_asr.synthesis.features import LayerAccount, SyntheticFeatures

LAYER = LayerAccount("a", 2, 3, 1.0, 0.5, 0.25, 1.0)
MADE = SyntheticFeatures(
    np.random.default_rng(0).standard_normal((2, 4, 16)).astype(np.float32),
    np.array([16, 12]),
    SynthesisSpec(),
    (2.0, 1.0),
    (LAYER,),
)


def npy(array: np.ndarray, header: str | None = None, version: bytes = b"\x01\0") -> bytes:
    """An array as NumPy saves it, its header replaced."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    if header is None:
        return stream.getvalue()
    length = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + length + header.encode() + array.tobytes()


def write(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes | None) -> Path:
    MADE.save(path)
    with zipfile.ZipFile(path) as archive:
        data = {name: archive.read(name) for name in archive.namelist()}
    data |= {f"{name}.npy": content for name, content in members.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in data.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def header(shape: str, descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        loaded = SyntheticFeatures.load(write(tmp_path / "a.npz", compression))
        np.testing.assert_array_equal(loaded.features, MADE.features)
        np.testing.assert_array_equal(loaded.lengths, MADE.lengths)
        assert (loaded.spec, loaded.losses, loaded.account) == (MADE.spec, MADE.losses, MADE.account)
        assert loaded.features.flags.writeable


def test_fortran_order_is_read(tmp_path: Path) -> None:
    turned = npy(np.asfortranarray(MADE.features))
    assert b"'fortran_order': True" in turned
    np.testing.assert_array_equal(
        SyntheticFeatures.load(write(tmp_path / "a.npz", features=turned)).features, MADE.features
    )


F = MADE.features


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (npy(F, header("(600000, 1024, 1024)")), r"claims 2516582400000 bytes, 512 are there"),
        (npy(F, header("(2, 4, 15)")), "claims 480 bytes, 512 are there"),
        (npy(F, header("(" + "999999999999999999, " * 8 + ")")), "claims 3999"),
        (npy(F, header("(" + "1, " * 40 + ")")), "40 dimensions"),
        (npy(F, header("(-2, -4, 16)")), "header of features is not that of an array"),
        (npy(F, header("(2, 4, 16")), "header of features is not that of an array"),
        (npy(F, header("(2, 4, True)")), "header of features is not that of an array"),
        (npy(F, header("(" * 5000)), "header of features is not that of an array"),
        (npy(F, "{'descr': '<f4', 'fortran_order': False, 'shape': ("), "is not that of an array"),
        (npy(F, header("(2, 4, 16)", "'|O'")), "header of features is not that of an array"),
        (npy(F, header("(2, 4, 16)", "[('a', '<f4')]")), "header of features is not that of an array"),
        (npy(F, header("(2, 4, 16)", "'<f3'")), "no type that there is, <f3"),
        (npy(F, header("(128,)")), r"must be float32 \[B, M, T\], got float32 \[128\]"),
        (npy(F, header("(2, 4, 16)", "'>f4'")), r"must be float32 .* got >f4"),
        (npy(F.astype(np.float64)), "must be float32 .* got float64"),
        (npy(F, header("(0, 4, 16)")), "claims 0 bytes, 512"),
        (npy(np.array([object()])), "header of features is not that of an array"),
        (npy(F, header("(2, 4, 16)") + " " * 20_000), "says it has 20"),
        (npy(F, header("(2, 4, 16)"), b"\x02\0")[:40], "claims|is not that of an array"),
        (npy(F)[:-1], "claims 512 bytes, 511"),
        (npy(F, header("(2, 4, 16)"), b"\x09\0"), "features is no array"),
        (pickle.dumps({"a": 1}), "features is no array"),
        (b"", "features is no array"),
        (None, "it has no features"),
    ],
)
def test_features_that_are_not_what_they_say(tmp_path: Path, features: bytes | None, problem: str) -> None:
    path = write(tmp_path / "a.npz", features=features)
    with pytest.raises(CalibrationError, match=problem) as caught:
        SyntheticFeatures.load(path)
    assert caught.value.where == str(path)


def note(**changes: Any) -> bytes:
    layer = {"name": "a", "channels": 2, "total_channels": 3, "kl_before": 1.0, "kl_after": 0.5}
    account = [{**layer, "mean_mismatch": 0.25, "std_ratio": 1.0, **changes}]
    return npy(np.asarray(json.dumps({"spec": SynthesisSpec().to_dict(), "account": account})))


@pytest.mark.parametrize(
    "content",
    [
        npy(np.asarray("[" * 100_000)),
        npy(np.asarray("[]")),
        npy(np.asarray('{"spec": {}, "account": [3]}')),
        npy(np.asarray('{"spec": {"colour": 1}, "account": []}')),
        npy(np.zeros(3)),
        note(kl_after="large"),
        note(channels=True),
        note(name=3),
        note(more=1),
    ],
)
def test_a_note_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CalibrationError, match="its note does not say how it was made"):
        SyntheticFeatures.load(write(tmp_path / "a.npz", note=content))
    assert SyntheticFeatures.load(write(tmp_path / "a.npz", note=note())).account == (LAYER,)


def test_an_archive_that_unpacks_to_far_more(tmp_path: Path) -> None:
    zeros = npy(np.zeros((2, 4, 2**20), np.float32))
    path = write(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, features=zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CalibrationError, match=r"unpacks to \d+ bytes from \d+, as no features do"):
        SyntheticFeatures.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def _directory(data: bytes) -> int:
    return data.rindex(b"PK\x01\x02")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:-30], "no archive of arrays"),
        (lambda data: data[: len(data) // 2], "no archive of arrays"),
        (lambda data: b"", "no archive of arrays"),
        (lambda data: data[:300] + b"\xff" + data[301:], "damaged"),
        # of the last member: encrypted, packed in no known way, a far larger size
        (lambda data: _patch(data, _directory(data) + 8, b"\x01\0"), "damaged"),
        (lambda data: _patch(data, _directory(data) + 10, b"\x63\0"), "damaged"),
        (lambda data: _patch(data, _directory(data) + 24, b"\xff\xff\xff\x7f"), "more than any features"),
        (lambda data: _patch(data, data.rindex(b"PK\x05\x06") + 10, b"\xff\xff"), "more than 64 members"),
    ],
)
def test_damaged_archives(tmp_path: Path, damage: Callable[[bytes], bytes], problem: str) -> None:
    path = write(tmp_path / "a.npz")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CalibrationError, match=problem):
        SyntheticFeatures.load(path)


def _patch(data: bytes, at: int, change: bytes) -> bytes:
    return data[:at] + change + data[at + len(change) :]


def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("features.npy", npy(F * 2))
    with pytest.raises(CalibrationError, match="two members of one name"):
        SyntheticFeatures.load(path)


def test_every_byte_may_be_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with contextlib.suppress(CalibrationError):  # anything else is a fault
            SyntheticFeatures.load(path)


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(CalibrationError, match="is a pipe"):
        SyntheticFeatures.load(tmp_path / "a.npz")
    with pytest.raises(CalibrationError, match="is a device"):
        SyntheticFeatures.load("/dev/zero")
