"""Checkpoints by name: OWNER/NAME of a repository on the Hugging Face hub, or OWNER/NAME@REVISION.

A repository with config.json is a model of transformers; one with a single .nemo archive is that archive.
What the hub's cache holds is read from there where the hub cannot be reached.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from zeroq_asr.errors import CheckpointError
from zeroq_asr.lines import said

CONFIG_NAME = "config.json"
INSTALL = "install it: pip install 'zeroq-asr[huggingface]'"
#: seconds in which the hub must say what a repository holds
SECONDS = 1.5
_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w][\w./-]*))?")
#: a path that ends so is meant to be a file, though there is none
_FILE_SUFFIXES = (".nemo", ".pt", ".pth", ".pt2", ".ckpt", ".onnx", ".bin", ".safetensors", ".tar", ".gz")
#: what a model of transformers is read from
_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors"]
#: errors by which the hub says that there is nothing for us, and not that it is out of reach
_ABSENT = ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "DisabledRepoError")


@dataclass(frozen=True)
class HubName:
    """A repository, and the revision of it; None: its main branch."""

    repository: str
    revision: str | None


def hub_name(path: str | os.PathLike[str]) -> HubName | None:
    """Return what a name means on the hub; None where it is a path, there or not."""
    name = os.fspath(path)
    match = _NAME.fullmatch(name)
    if match is None or os.path.exists(name):
        return None
    repository, revision = match[1], match[2]
    owner, _, model = repository.partition("/")
    if model.lower().endswith(_FILE_SUFFIXES) or os.path.exists(owner):
        return None
    return HubName(repository, revision)


def resolved(path: str | os.PathLike[str], name: HubName) -> str:
    """Return the .nemo archive or the folder that a name stands for, downloaded if need be.

    Of a model of transformers without a revision it is the name itself, which that library reads.  Raises
    CheckpointError, within 2 seconds, where there is no such repository or the hub cannot be reached, and
    where a repository holds none or several.
    """
    try:
        library = importlib.import_module("huggingface_hub")
        constants = importlib.import_module("huggingface_hub.constants")
    except ImportError as error:
        problem = f"is a name on the Hugging Face hub, which takes the package huggingface_hub ({error})"
        raise CheckpointError(path, problem, INSTALL) from None
    cached: str | None = None
    if constants.HF_HUB_OFFLINE:
        cached = _cached(library, name)
        if cached is None:
            problem = "is not in the hub's cache, and HF_HUB_OFFLINE forbids to ask for it"
            raise CheckpointError(path, problem, "name a file, or unset HF_HUB_OFFLINE")
        files = os.listdir(cached)
    else:
        try:
            files = _within(SECONDS, lambda: _listed(library, name))
        except Exception as error:  # the hub's client raises whatever it met
            if type(error).__name__ in _ABSENT:
                problem = "is no file, and no public repository of the Hugging Face hub, or of that revision"
                raise CheckpointError(path, problem, "check the name") from None
            cached = _cached(library, name)
            if cached is None:
                problem = f"is no file, and the Hugging Face hub cannot be reached ({said(error)[:120]})"
                raise CheckpointError(path, problem, "check the path, or the connection") from None
            files = os.listdir(cached)
    archives = sorted(file for file in files if file.endswith(".nemo"))
    if CONFIG_NAME in files:
        if name.revision is None:
            return os.fspath(path)
        return cached or _download(library, path, name, None)
    if len(archives) != 1:
        few = ", ".join(archives[:4])
        held = f"several .nemo archives: {few}" if archives else "neither config.json nor a .nemo archive"
        raise CheckpointError(path, f"holds {held}", "download what you mean, and name the file")
    return os.path.join(cached, archives[0]) if cached else _download(library, path, name, archives[0])


def _listed(library: Any, name: HubName) -> list[str]:
    """Return the names of a repository's files, as the hub says."""
    told = library.HfApi().model_info(name.repository, revision=name.revision, timeout=SECONDS)
    return [file.rfilename for file in told.siblings or ()]


def _cached(library: Any, name: HubName) -> str | None:
    """Return the folder that the hub's cache has of a revision, if any."""
    try:
        return str(library.snapshot_download(name.repository, revision=name.revision, local_files_only=True))
    except Exception:  # no narrower class covers what it raises for what is not there
        return None


def _download(library: Any, path: str | os.PathLike[str], name: HubName, file: str | None) -> str:
    """Return the path of a file of a repository, or of the folder of a model, once it is there."""
    try:
        with _no_bars():
            if file is not None:
                return str(library.hf_hub_download(name.repository, file, revision=name.revision))
            return str(
                library.snapshot_download(name.repository, revision=name.revision, allow_patterns=_PATTERNS)
            )
    except Exception as error:  # as above
        problem = f"cannot be downloaded ({said(error)[:200]})"
        raise CheckpointError(path, problem, "check the connection, and the space on the disk") from None


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the hub's client from drawing on stderr."""
    utils = importlib.import_module("huggingface_hub.utils")
    shown = not utils.are_progress_bars_disabled()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def _within(seconds: float, work: Callable[[], list[str]]) -> list[str]:
    """Return what ``work`` gives, or raise TimeoutError: looking a host up may take longer than any limit."""
    results: list[list[str]] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # raised by the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]
