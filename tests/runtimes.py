"""Runtimes that tests need and users may lack: there, or a skip that says what is missing."""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

import pytest


def required(module: str) -> Any:
    """Import a runtime of the extra ``runtimes``."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(f"{module} is not installed: pip install 'zeroq-asr[runtimes]'")


def missing(reason: str) -> NoReturn:
    """Skip; with ZEROQ_NO_SKIP fail."""
    if os.environ.get("ZEROQ_NO_SKIP"):
        pytest.fail(reason)
    pytest.skip(reason)
