"""Whether other processes use the processor while something is measured; Linux alone tells (/proc/stat)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

#: cores that other processes may use, on average, on a machine that is quiet
FOREIGN = 0.1
#: seconds of a look at a machine on which nothing of ours runs yet
LOOK = 2.0

_STAT = Path("/proc/stat")


class NoisyMachineError(Exception):
    """The machine is not quiet, or does not tell whether it is."""


def busy_seconds() -> float:
    """Seconds that all cores together have worked for anybody, or were kept from working, since the start.

    Raises NoisyMachineError where the system does not say.
    """
    try:
        with _STAT.open() as stream:
            fields = [int(field) for field in stream.readline().split()[1:]]
    except OSError:
        raise NoisyMachineError(
            "this system does not tell what other processes use (no /proc/stat)"
        ) from None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in the first two
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Seconds that this process, and those that it started and waited for, have worked."""
    return sum(os.times()[:4])


def foreign(run: Callable[[], None]) -> float:
    """Return how many cores others used on average while ``run`` did."""
    start, busy, own = time.perf_counter(), busy_seconds(), own_seconds()
    run()
    others = (busy_seconds() - busy) - (own_seconds() - own)
    return max(0.0, others / (time.perf_counter() - start))


def require_quiet(what: str, cores: float) -> None:
    """Raise NoisyMachineError where others used more than a quiet machine's ``cores``."""
    if cores > FOREIGN:
        used = f"others used {cores:.2f} of {os.cpu_count()} cores {what}, at most {FOREIGN:g} may be in use"
        raise NoisyMachineError(used)


def look() -> None:
    """Raise NoisyMachineError unless the machine is quiet now."""
    require_quiet("before anything was measured", foreign(lambda: time.sleep(LOOK)))
