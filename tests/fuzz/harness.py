"""Runs one command line in a forked child with limits, and says which rules it broke.

The parent has imported everything, so that a child costs a fork.  Nothing here knows of kinds of input.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

#: exit codes that --help documents for what a user may cause
DOCUMENTED = (0, 2, 3, 4, 5, 6)
#: of wall time; a child that got little of a busy machine may have more, up to so many times
SECONDS, PATIENCE = 20.0, 4
MEMORY = 6 * 2**30
FILE_BYTES = 2**29
#: what no reader of files has to do
_FORBIDDEN_EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.bind",
    "urllib.Request",
    "webbrowser.open",
)
#: marks that reorder the line they stand in
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")
_ERROR_LINE = re.compile(r"^(?:error|Error):", re.MULTILINE)

#: every outcome that no case may have, in the order of the table
OUTCOMES = (
    "traceback",
    "exit code",
    "signal",
    "hang",
    "memory",
    "executed",
    "leftover",
    "control",
    "lines",
    "mute",
    "json",
    "silent",
)


@dataclass
class Ran:
    """What a child did."""

    code: int | None
    signal: int | None = None
    hung: bool = False
    stdout: bytes = b""
    stderr: bytes = b""
    seconds: float = 0.0
    #: seconds of the processor
    busy: float = 0.0
    peak: int = 0
    events: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return (self.stdout + b"\n" + self.stderr).decode("utf-8", "surrogateescape")


def isolated(
    function: Callable[[], object],
    root: Path,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Ran:
    """Run ``function`` in a forked child that stands in ``root``/work; its result is ignored.

    The child has a home and a folder for temporary files of its own in ``root``.
    """
    for name in ("work", "tmp", "home", "canary"):
        (root / name).mkdir(parents=True, exist_ok=True)
    out, err, seen = (os.memfd_create(name) for name in ("out", "err", "seen"))
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _inside(function, root, out, err, seen)
        finally:
            os._exit(code)
    ran = _watch(child, start, seconds, memory)
    contents = []
    for handle in (out, err, seen):
        os.lseek(handle, 0, os.SEEK_SET)
        with os.fdopen(handle, "rb") as stream:
            contents.append(stream.read(2**24))
    ran.stdout, ran.stderr = contents[:2]
    ran.events = contents[2].decode("utf-8", "replace").splitlines()
    return ran


def _inside(function: Callable[[], object], root: Path, out: int, err: int, seen: int) -> int:
    """The child: redirect, limit, run; returns the exit code that an interpreter would end with."""
    os.setsid()
    faulthandler.disable()  # pytest's would write to the parent's stderr
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
    ):
        resource.setrlimit(kind, (limit, limit))
    os.environ.update(TMPDIR=str(root / "tmp"), HOME=str(root / "home"))
    tempfile.tempdir = None
    os.chdir(root / "work")
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_FORBIDDEN_EVENTS):
            os.write(seen, f"{event} {arguments!r:.200}\n".encode("utf-8", "replace"))

    sys.addaudithook(listen)
    code = 0
    try:
        function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as an interpreter does, whatever it is
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code & 255


def _watch(child: int, start: float, seconds: float, memory: int) -> Ran:
    """Wait for the child; end it when it takes too long or too much."""
    hung, over = False, False
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    nap = 10
    while not poller.poll(nap):
        nap = min(nap * 2, 80)
        wall = time.monotonic() - start
        over = over or _resident(child) > memory
        if wall > seconds:
            # a busy machine is no fault of the child's: it may take its time of the processor
            share = _processor_seconds(child)
            working = 0.1 * wall < share < 0.75 * seconds
            hung = not working or wall > PATIENCE * seconds
        if hung or over:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            break
    _, status, usage = os.wait4(child, 0)
    os.close(pidfd)
    took = time.monotonic() - start
    peak = max(usage.ru_maxrss * 1024, memory + 1 if over else 0)
    busy = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        killed = hung or over
        return Ran(None, None if killed else os.WTERMSIG(status), hung, seconds=took, busy=busy, peak=peak)
    return Ran(os.WEXITSTATUS(status), None, hung, seconds=took, busy=busy, peak=peak)


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _processor_seconds(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


# -- the command and its rules -------------------------------------------------------------------------


def command(argv: tuple[str, ...]) -> Callable[[], object]:
    """Return what the console script does for ``argv``."""

    def run() -> object:
        from zeroq_asr.cli import main

        sys.argv = ["zeroq-asr", *argv]
        return main()

    return run


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return what lies in ``root``: path → (mode, size, time of the last change)."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            # making a file changes its folder's time, and the file itself is found
            when = 0 if name in folders else status.st_mtime_ns
            size = 0 if name in folders else status.st_size
            found[key] = (status.st_mode, size, when)
    return found


def broken_rules(
    ran: Ran,
    before: dict[str, tuple[int, int, int]],
    after: dict[str, tuple[int, int, int]],
    *,
    outputs: tuple[str, ...] = (),
    as_json: bool = False,
    memory: int = MEMORY,
) -> dict[str, str]:
    """Return the rules that a run broke: outcome → what was seen.

    ``outputs``: files that a run which ends well may leave, relative to the folder of both snapshots.
    """
    broken: dict[str, str] = {}
    text = ran.text
    if "Traceback" in text or re.search(r"\binternal:", text):
        broken["traceback"] = _last_line(text, ("Error", "internal", "Exception"))
    if ran.hung:
        broken["hang"] = f"over {ran.seconds:.0f} s"
    elif ran.signal is not None:
        broken["signal"] = signal.Signals(ran.signal).name
    elif ran.code is None:
        pass
    elif ran.code not in DOCUMENTED:
        broken["exit code"] = f"{ran.code}: {_last_line(text)}"
    if ran.peak > memory:
        broken["memory"] = f"{ran.peak / 2**30:.1f} GiB"
    ran_code = [path for path in after if path.startswith("canary/")]
    if ran_code or ran.events:
        broken["executed"] = "; ".join([*ran_code, *ran.events])[:300]
    allowed = {*outputs} if ran.code == 0 else set()
    new = [p for p in after if before.get(p) != after[p] and p not in allowed and not p.startswith("canary/")]
    new += [f"{path} (gone)" for path in before if path not in after]
    if new:
        broken["leftover"] = ", ".join(repr(p) for p in sorted(new)[:5])
    raw = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    raw += _REORDERING.findall(text)
    if raw:
        place = text.index(raw[0])
        broken["control"] = f"{raw[0]!r} in {text[max(0, place - 40) : place + 20]!r}"
    errors = len(_ERROR_LINE.findall(text))
    if errors > 1:
        broken["lines"] = f"{errors} error lines"
    if ran.code not in (0, None) and not re.search(r"(?i)error|usage", text):
        broken["mute"] = f"exit code {ran.code} and no message"
    if ran.code == 0 and as_json:
        try:
            json.loads(ran.stdout)
        except ValueError as error:
            broken["json"] = f"stdout is no JSON: {error}"
    return broken


def _last_line(text: str, words: tuple[str, ...] = ()) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    chosen = [line for line in lines if not words or any(word in line for word in words)]
    return (chosen or lines or [""])[-1][:300]
