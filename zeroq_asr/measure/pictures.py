"""Pictures that commands write: which files they may be, and writing one whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from zeroq_asr._version import __version__
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import atomic_write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Raise ConfigError, before any work, unless a picture can be written to a file of that name."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            "--plot", f"cannot draw {path.suffix or 'a file without ending'}", f"use {', '.join(FORMATS)}"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--plot", "needs matplotlib, which is not installed", "pip install 'zeroq-asr[plot]'"
        ) from None


def write(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    stream = io.BytesIO()
    kind = path.suffix.lower().removeprefix(".")
    # by which the command line knows a plot of ours that it may replace
    metadata = {"Software" if kind == "png" else "Creator": f"zeroq-asr {__version__}"}
    figure.savefig(stream, format=kind, metadata=metadata)
    atomic_write_bytes(path, stream.getvalue())
