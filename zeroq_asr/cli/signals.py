"""Ctrl-C, SIGTERM and SIGHUP: the command ends with one line, its code, and nothing half-written left behind.

While nothing is written yet, as when torch is imported, the process ends at once.  While a command works, the
first signal raises KeyboardInterrupt where the work is, so that everything is cleaned up behind it.  A second
one, or the first if the work has not ended some seconds later, because it is in the middle of a long call
that is no Python, or because a library caught the exception, ends the process from a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

TYPE_CHECKING = False  # what typing says, without the time that it takes
if TYPE_CHECKING:
    from types import FrameType

#: what each says on stderr
_WORDS = {
    getattr(signal, name): words
    for name, words in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up"))
    if hasattr(signal, name)
}
#: seconds that the work has to end itself
GRACE = 5.0
#: a shell's code of a process that a signal ended, above the signal's number
SIGNALLED = 128

#: the signals that this process handles; none where somebody else's calls a command, as a test does
_ours: list[int] = []
#: the first signal that came while a command worked
_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal other than that of Ctrl-C asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(_WORDS.get(number, "stopped"))
        #: the number of the signal
        self.number = number


def end_at_once() -> None:
    """From now on end the process where a signal finds it: there is nothing to clean up."""
    _ours[:] = _handled()
    for number in _ours:
        signal.signal(number, lambda number, _: _end(number))


def interrupt_the_work() -> None:
    """From now on raise KeyboardInterrupt in the main thread, and watch over what becomes of it."""
    import threading

    if not _ours:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    for number in _ours:
        signal.signal(number, _interrupt)


def leave() -> None:
    """From now on let the system end the process: all is done, and Python may handle nothing any more."""
    for number in _ours:
        signal.signal(number, signal.SIG_DFL)


def cause_of(error: BaseException) -> BaseException:
    """Return the interruption, if there was one, whatever a library has made of it; else ``error``."""
    if isinstance(error, Stopped) or not _received:
        return error  # also a KeyboardInterrupt that nothing here has raised
    return _interruption(_received[0])


def _handled() -> list[int]:
    """The signals to handle: a shell or nohup may have had some ignored, and so they stay."""
    import threading

    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in _WORDS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _interruption(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _received:  # a second one is the watcher's
        _received.append(number)
        raise _interruption(number)


def _watch(reading: int) -> None:
    """Wait for a signal; end the process on another, or if it has not ended in time."""
    import select

    first = None
    while first is None:
        first = next((number for number in os.read(reading, 1) if number in _WORDS), None)
    while True:
        ready, _, _ = select.select([reading], [], [], GRACE)
        if not ready or any(number in _WORDS for number in os.read(reading, 1)):
            _end(first)


def _end(number: int) -> None:
    # only if they are there already is there anything of theirs to be undone
    files = sys.modules.get("zeroq_asr.files")
    if files is not None:
        getattr(files, "discard_temporaries", int)()
    # rich hides the cursor of a terminal while bars are shown
    shown = b"\r\x1b[K\x1b[?25h" if _is_terminal() else b""
    with contextlib.suppress(OSError):
        os.write(2, shown + f"error: {_WORDS[number]}\n".encode())
    os._exit(SIGNALLED + number)


def _is_terminal() -> bool:
    try:
        return os.isatty(2) and os.environ.get("TERM") not in (None, "", "dumb")
    except OSError:
        return False
