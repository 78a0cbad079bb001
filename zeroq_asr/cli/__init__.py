"""The command line: it parses, calls the library, prints, and does nothing else.

A command is a function in a module of its own, listed in ``app.COMMANDS``; ``terminal`` is where
it prints and where errors become exit codes (``exits``).

Imports: __init__, _version, config, errors, files, progress, speech, synthesis, deployment, measure.
Never imports: integer, graph, capture, operators, lowering, calibration, pipeline.
"""

from __future__ import annotations

import signal
import sys
import warnings

from zeroq_asr.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit."""
    if not sys.warnoptions:  # those of the libraries beneath are for developers: python -W default
        warnings.simplefilter("ignore")
    if hasattr(signal, "SIGPIPE"):  # when the reader leaves, as `head` does, end as other commands do
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # a transcript may hold characters that the terminal's encoding lacks
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="zeroq-asr")
