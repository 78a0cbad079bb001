"""Files that ONNX Runtime has optimized before they are loaded, in its own format (``.ort``).

Much of what a file takes to load is ONNX Runtime's work on its graph, which is done once and saved here.
The graph is then of one release, whose operators it may hold, and of one kind of processor: convolutions of
float may have been laid out for the width of its vectors, and on other vectors they would give other numbers.
So such a file says what it was made for (``OPTIMIZED_KEY`` in its metadata), and is opened there alone.

Its nodes are no longer those that a program exports, so it cannot be verified.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.errors import ConfigError, ExportError
from zeroq_asr.files import temporary_folder

#: by this ending ONNX Runtime tells its own format, of a file that has a name
ENDING = ".ort"
#: key of what a file was optimized for, in its metadata
OPTIMIZED_KEY = "zeroq_asr_optimized"
#: bytes by which a file of that format is told, and where they stand
_MARK, _AT = b"ORTM", 4
#: bytes that ``is_optimized`` looks at
HEAD = _AT + len(_MARK)
_FIELDS = ("architecture", "instruction_sets", "onnxruntime", "source_sha256")


def is_optimized(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes is of ONNX Runtime's own format."""
    return head[_AT:HEAD] == _MARK


def require_ending(path: str | os.PathLike[str], *, optimized: bool) -> None:
    """Raise ConfigError where a file's name would have ONNX Runtime take it for one of the other format."""
    if optimized != (Path(path).suffix.lower() == ENDING):
        it = f"must end in {ENDING}" if optimized else f"must not end in {ENDING}"
        why = "by which ONNX Runtime tells files that it optimized from others"
        raise ConfigError(path, f"{it}, {why}", "choose another output path")


def here() -> dict[str, Any]:
    """Return what a file that is optimized now is optimized for, as JSON values."""
    import onnxruntime

    machine = this_machine()
    return {
        "architecture": machine.architecture,
        "instruction_sets": machine.instruction_sets(),
        "onnxruntime": onnxruntime.__version__,
    }


def optimized(model: onnx.ModelProto, source_sha256: str) -> bytes:
    """Return what ONNX Runtime makes of a model as it loads it here, in its own format.

    Metadata stay, and ``OPTIMIZED_KEY`` says what it was made for, and of which file.
    Raises ExportError where ONNX Runtime cannot do it.
    """
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    told = {**here(), "source_sha256": source_sha256}
    copy.metadata_props.add(key=OPTIMIZED_KEY, value=json.dumps(told, sort_keys=True))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # that the result is of this machine, which is said elsewhere
    options.add_session_config_entry("session.save_model_format", "ORT")
    with temporary_folder() as folder:
        target = folder / f"optimized{ENDING}"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(
                copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return target.read_bytes()
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ExportError("ONNX Runtime", f"cannot optimize it ({reason})") from None


def misfit(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Say why a file must not be run here, and what to do; None of any that says nothing of it.

    ``metadata``: a file's, key → text.
    """
    text = metadata.get(OPTIMIZED_KEY)
    if text is None:
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or told.keys() != {*_FIELDS}:
        return "does not say for which machine it was optimized: it is damaged", "export it again"
    again = f"export it here again, of the file whose SHA-256 begins with {str(told['source_sha256'])[:8]}"
    now = here()
    if told["onnxruntime"] != now["onnxruntime"]:
        made = f"was optimized by ONNX Runtime {told['onnxruntime']!s:.20}"
        return f"{made}, {now['onnxruntime']} is installed", again
    if any(told[name] != now[name] for name in ("architecture", "instruction_sets")):
        return f"was optimized for another processor: {_named(told)}; this one is {_named(now)}", again
    return None


def _named(told: Mapping[str, Any]) -> str:
    """A kind of processor, in words."""
    sets = told["instruction_sets"]
    named = ", ".join(map(str, sets)) if isinstance(sets, list) else str(sets)
    return f"{told['architecture']!s:.20} with {named[:200] or 'nothing that matters'}"
