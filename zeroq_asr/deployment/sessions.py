"""Sessions of ONNX Runtime on files, and what these say of themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zeroq_asr.deployment.optimized import HEAD, is_optimized, misfit
from zeroq_asr.deployment.runtimes import too_new
from zeroq_asr.errors import CheckpointError, ConfigError
from zeroq_asr.files import open_file, read_file
from zeroq_asr.speech.tokenizer import is_unicode


def open_session(
    where: str | os.PathLike[str], model: str | bytes, threads: int | None, *, spin: bool = True
) -> Any:
    """Return ONNX Runtime's session on the CPU of a file, by its name or its bytes.

    ``spin=False``: its threads sleep as soon as a run is over, so as not to take the cores of another.
    Raises CheckpointError when it cannot be run, and for one that was optimized for another machine.
    """
    import onnxruntime  # here, since a tenth of a second matters to commands that do not need it

    if threads is not None and threads < 1:
        raise ConfigError("threads", f"must be 1 or more, got {threads}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its own log lines; what it raises says the same
    if not spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    # which values could share a buffer is looked for among all of them, by their dimensions' names: of large
    # graphs that is much of the loading.  A value is freed behind its last use without it, too
    options.enable_mem_reuse = False
    ahead = _is_optimized(model)
    if ahead:
        options.add_session_config_entry("session.load_model_format", "ORT")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        if ahead:
            problem = f"is of ONNX Runtime's own format, which {onnxruntime.__version__} cannot run"
            remedy = "is it whole? Else export the file that it was made of again, with this ONNX Runtime"
            raise CheckpointError(where, f"{problem} ({reason(error)})", remedy) from None
        if (found := too_new(model, onnxruntime.__version__)) is not None:
            raise CheckpointError(where, *found) from None
        raise CheckpointError(where, f"is not an ONNX file that can be run ({reason(error)})") from None
    if ahead and (wrong := misfit(read_metadata(where, session))) is not None:
        raise CheckpointError(where, *wrong)
    return session


def _is_optimized(model: str | bytes) -> bool:
    if isinstance(model, bytes):
        return is_optimized(model[:HEAD])
    with open_file(model, CheckpointError) as stream:
        return is_optimized(stream.read(HEAD))


def readable(path: Path) -> str | bytes:
    """Return what ONNX Runtime opens a file by: its name, or what is in it if the name is no Unicode."""
    return str(path) if is_unicode(str(path)) else read_file(path, CheckpointError)


def reason(error: Exception) -> str:
    """Return the first line of onnxruntime's message, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else f"{lines[0][:200]}…"


def read_metadata(path: str | os.PathLike[str], session: Any) -> dict[str, str]:
    """Return the metadata of a file that ONNX Runtime has opened; CheckpointError if it is no text."""
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError:
        raise CheckpointError(path, "its metadata is damaged: it is no Unicode", "export it again") from None
