"""How commands show what a file needs of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def runs_on(found: Mapping[str, Any]) -> str:
    """Return the oldest ONNX Runtime that runs a file, and what stores its weights beside bytes.

    ``found``: an account of a file with ``onnxruntime`` and ``packings``, as in the commands' JSON.
    """
    text = f"ONNX Runtime {found['onnxruntime']} or later"
    stored = [f"{count} as {name} ({runtime})" for name, (runtime, count) in found["packings"].items()]
    return text + (f"; weights of {', '.join(stored)}, others as bytes" if stored else "")
