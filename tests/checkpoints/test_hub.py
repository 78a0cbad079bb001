"""Checkpoints by the name of a repository: what it holds decides, and the hub need not be there."""

from __future__ import annotations

import importlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zeroq_asr.checkpoints import hub, load_checkpoint
from zeroq_asr.checkpoints.hub import HubName, hub_name
from zeroq_asr.errors import CheckpointError

huggingface_hub = pytest.importorskip("huggingface_hub")
CONSTANTS = importlib.import_module("huggingface_hub.constants")
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, a folder to work in, and a hub that nobody may ask."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(CONSTANTS, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(CONSTANTS, "HF_HUB_OFFLINE", True)
    return folder


def cached(cache: Path, repository: str, revision: str, *files: Path) -> None:
    """Lay files of a repository where the hub's client keeps what it has downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, snapshot / file.name)


@pytest.fixture
def archive(conv_config: dict[str, Any], conv_state: dict[str, torch.Tensor], write_nemo: Write) -> Path:
    return write_nemo(conv_config, conv_state, name="small.nemo")


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_names(tmp_path: Path) -> None:
    assert hub_name("nvidia/stt_en_conformer_ctc_small") == HubName("nvidia/stt_en_conformer_ctc_small", None)
    assert hub_name(Path("a/b@v1.0/x")) == HubName("a/b", "v1.0/x")
    for name in ("a", "a/b/c", "/a/b", "../b", "a/b@", "a/b.nemo", "a/b.pt@main", "@main", ""):
        assert hub_name(name) is None
    # local paths win: a file or folder of that name, and a folder of the owner's
    Path("a").mkdir()
    assert hub_name("a/b") is None
    Path("c@main").mkdir()
    assert hub_name("c@main") is None


@pytest.mark.parametrize("revision", [None, "v1"])
def test_an_archive_in_the_cache(cache: Path, archive: Path, revision: str | None) -> None:
    cached(cache, "owner/small", revision or "main", archive)
    name = "owner/small" if revision is None else f"owner/small@{revision}"
    found, expected = load_checkpoint(name), load_checkpoint(archive)
    assert found.name == expected.name == "small"
    assert found.tokenizer == expected.tokenizer
    for mine, theirs in zip(found.network.parameters(), expected.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(CheckpointError, match="has no choice of languages"):
        load_checkpoint(name, language="fra")


def test_an_archive_is_downloaded(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONSTANTS, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_listed", lambda library, name: ["README.md", "small.nemo"])
    asked: list[tuple[str, str, str | None]] = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return str(archive)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_checkpoint("owner/small@v2").name == "small"
    assert asked == [("owner/small", "small.nemo", "v2")]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.nemo", "b.nemo"], r"holds several \.nemo archives: a\.nemo, b\.nemo; download what you mean"),
        (["README.md"], r"holds neither config\.json nor a \.nemo archive"),
    ],
)
def test_what_is_no_checkpoint(monkeypatch: pytest.MonkeyPatch, files: list[str], words: str) -> None:
    monkeypatch.setattr(CONSTANTS, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_listed", lambda library, name: files)
    with pytest.raises(CheckpointError, match=rf"^owner/x: {words}"):
        load_checkpoint("owner/x")


def test_offline_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_listed", lambda library, name: pytest.fail("the hub was asked"))
    with pytest.raises(
        CheckpointError, match=r"^owner/x: is not in the hub's cache, and HF_HUB_OFFLINE forbids"
    ):
        load_checkpoint("owner/x")


@pytest.mark.parametrize("answers", [False, None])
def test_a_hub_out_of_reach_is_said_soon(
    cache: Path, archive: Path, monkeypatch: pytest.MonkeyPatch, silent_server: int, answers: bool | None
) -> None:
    monkeypatch.setattr(CONSTANTS, "HF_HUB_OFFLINE", False)
    port = 9 if answers is None else silent_server
    monkeypatch.setattr(CONSTANTS, "ENDPOINT", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(
        CheckpointError, match=r"^owner/x: is no file, and the Hugging Face hub cannot be reached"
    ):
        load_checkpoint("owner/x")
    # 2 seconds, and what a busy machine adds to the client's own import
    assert time.monotonic() - start < 6
    # what was downloaded before is there all the same
    cached(cache, "owner/small", "main", archive)
    assert load_checkpoint("owner/small").name == "small"


def test_a_repository_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONSTANTS, "HF_HUB_OFFLINE", False)

    class RepositoryNotFoundError(Exception):
        pass

    def absent(library: Any, name: HubName) -> list[str]:
        raise RepositoryNotFoundError("404")

    monkeypatch.setattr(hub, "_listed", absent)
    with pytest.raises(CheckpointError, match="is no file, and no public repository"):
        load_checkpoint("owner/x@v9")
