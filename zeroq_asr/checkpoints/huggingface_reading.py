"""transformers at work: kept from printing, its errors as ours, files of a folder or of the hub."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from zeroq_asr.checkpoints.hub import INSTALL
from zeroq_asr.errors import CheckpointError

#: part → the files of a folder of which one holds it
_FILES = {
    "preprocessor": ("preprocessor_config.json", "processor_config.json"),
    "vocabulary": ("vocab.json",),
    "tokenizer": ("tokenizer.json",),
}


@contextlib.contextmanager
def quiet_library(name: str) -> Iterator[Any]:
    """Import transformers and keep it from printing while it is used; what fails still raises."""
    try:
        library = importlib.import_module("transformers")
        logging = importlib.import_module("transformers.utils.logging")
        hub = importlib.import_module("huggingface_hub.utils")
        hub_logging = importlib.import_module("huggingface_hub.utils.logging")
    except ImportError as error:
        problem = f"is a Hugging Face model, which takes the package transformers ({error})"
        raise CheckpointError(name, problem, INSTALL) from None
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_level, hub_bars = hub_logging.get_verbosity(), not hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        # what it prints besides its log may be a stranger's text
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield library
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()


def read(name: str, part: str, function: Callable[..., Any], **options: Any) -> Any:
    """Return what a ``from_pretrained`` reads, or raise CheckpointError with the gist of its message."""
    local = os.path.isdir(name)
    needed = _FILES.get(part, ())
    if local and needed and not any(os.path.isfile(os.path.join(name, file)) for file in needed):
        raise CheckpointError(name, f"holds no {needed[0]}, its {part}", "is the folder whole?")
    try:
        # without trust_remote_code it would ask on the terminal whether to run a repository's code
        if part != "network":
            options["trust_remote_code"] = False
        return function(name, local_files_only=local, **options)
    # its parsers, the hub's client and safetensors raise whatever they meet: no narrower class covers it
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split()).partition(". ")[0]
        short = reason if len(reason) <= 200 else f"{reason[:200]}…"
        remedy = "check the name and the connection to the hub"
        if local:
            remedy = "is the folder whole, and transformers up to date?"
        raise CheckpointError(name, f"its {part} cannot be read ({short})", remedy) from None


def file_of(name: str, file: str, part: str) -> str:
    """Return the path of a file of a folder, or of the hub's, which is then asked for it."""
    if os.path.isdir(name):
        path = os.path.join(name, file)
        if not os.path.isfile(path):
            raise CheckpointError(name, f"holds no {file}, its {part}", "is the folder whole?")
        return path
    hub = importlib.import_module("transformers.utils.hub")
    return str(read(name, part, lambda where, **_: hub.cached_file(where, file)))
