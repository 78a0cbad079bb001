"""The command as a process: from its arguments to its exit code, whatever becomes of it on the way."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable
from typing import Any

from zeroq_asr._version import __version__
from zeroq_asr.cli import signals
from zeroq_asr.cli.exits import INTERNAL, MACHINE, OK, READER_LEFT, code_of, line_of
from zeroq_asr.cli.streams import Streams
from zeroq_asr.files import discard_temporaries


def run() -> None:
    """Run the command line and exit."""
    streams = Streams()
    if not sys.warnoptions:  # those of the libraries beneath are for developers: python -W default
        warnings.simplefilter("ignore")
        sys.unraisablehook = _nothing
    code = _code(_command, streams)
    discard_temporaries()
    signals.leave()
    sys.exit(code)


def _command() -> None:
    if sys.argv[1:] == ["--version"]:
        print(__version__)
        return
    from zeroq_asr.cli.commands import app

    app(prog_name="zeroq-asr")


def _code(command: Callable[[], None], streams: Streams) -> int:
    """Run ``command`` and return the code to exit with; what nobody has told yet is told."""
    error: BaseException | None = None
    code: Any = OK
    try:
        command()
    except SystemExit as end:
        code = end.code or OK
    except BaseException as problem:
        error = signals.cause_of(problem)
        code = code_of(error)
    lost = streams.failure
    if lost is not None and lost.errno == errno.EPIPE:
        return READER_LEFT  # as `head` does: no error
    if lost is not None and code in (OK, INTERNAL):
        error, code = lost, MACHINE
    if error is not None:
        print(line_of(error), file=sys.stderr)
    return code if isinstance(code, int) else INTERNAL


def _nothing(_: object) -> None:
    """Say nothing of an exception that Python cannot raise, as an interruption within a destructor."""
