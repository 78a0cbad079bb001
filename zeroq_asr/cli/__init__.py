"""The command ``zeroq-asr``: parse, call, print.  The one place where errors become exit codes.

A command is a function in a module of its own, listed in ``commands.COMMANDS``; ``terminal`` is where
it prints and where errors become exit codes (``exits``).  ``process`` is the command as a process: its
streams (``streams``), its signals (``signals``), and the end.

Imported by: __main__.
Imports: _version, errors, lines, progress, files, config, speech, synthesis, embedded, training,
deployment, measure, _api, __init__.
Never imports: nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what typing says, without the time that it takes
if TYPE_CHECKING:
    from typing import Any

    from zeroq_asr.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit."""
    # first of all, and before anything that takes its time: an early Ctrl-C is no traceback either
    from zeroq_asr.cli import signals

    signals.end_at_once()

    from zeroq_asr.cli.process import run

    run()


def __getattr__(name: str) -> Any:
    """Return ``app``, the commands, which the process itself does not need before its signals are set up."""
    if name != "app":
        raise AttributeError(f"module 'zeroq_asr.cli' has no attribute {name!r}")
    from zeroq_asr.cli.commands import app as commands

    return commands
