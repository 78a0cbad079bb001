"""The command ``zeroq-asr``: parse, call, print.  The one place where errors become exit codes.

A command is a function in a module of its own, listed in ``app.COMMANDS``; ``terminal`` is where
it prints and where errors become exit codes (``exits``).

Imported by: __main__.
Imports: _version, errors, lines, progress, files, config, speech, synthesis, deployment, measure, __init__.
Never imports: nothing.
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
