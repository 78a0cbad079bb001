"""The fuzzer finds what it is made to find, and nothing in a small share of its seeds."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import mutations as m
from fuzz.harness import Ran, broken_rules, isolated, snapshot

ROOT = Path(__file__).parents[2]
CASES, FIRST = 150, 1


def test_a_share_of_the_seeds_finds_nothing() -> None:
    # a process of its own: children are forked, and this one has threads
    command = [sys.executable, "benchmarks/fuzz.py", "--cases", str(CASES), "--seed", str(FIRST)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "nothing was found" in done.stdout
    assert f"{CASES} cases" in done.stdout


def _ran(
    function: Callable[[], object], root: Path, seconds: float = 20.0, memory: int = 6 * 2**30
) -> dict[str, str]:
    for name in ("work", "tmp", "home", "canary"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "work" / "input").write_bytes(b"x")
    before = snapshot(root)
    ran = isolated(function, root, seconds=seconds, memory=memory)
    return broken_rules(ran, before, snapshot(root), outputs=("work/out",), memory=memory)


def _ends(code: int, text: str = "", stream: str = "stderr") -> Callable[[], None]:
    def run() -> None:
        print(text, file=getattr(sys, stream))
        sys.exit(code)

    return run


def _write(*names: str, code: int = 0) -> Callable[[], None]:
    def run() -> None:
        for name in names:
            Path(name).write_bytes(b"y")
        _ends(code, "error: x")()

    return run


def _raise() -> None:
    raise KeyError("x")


def _system() -> None:
    os.system("true")


#: what a child does → the rules that it breaks
FAULTS: dict[str, tuple[Callable[[], object], set[str]]] = {
    "nothing": (lambda: None, set()),
    "a refusal": (_ends(3, "error: a: b; c"), set()),
    "a result": (_write("out"), set()),
    "an exception": (_raise, {"traceback", "exit code"}),
    "internal": (_ends(1, "error: internal: ValueError: x"), {"traceback", "exit code"}),
    "an odd code": (_ends(9, "error: x"), {"exit code"}),
    "no word": (_ends(3), {"mute"}),
    "two errors": (_ends(3, "error: a\nerror: b"), {"lines"}),
    "a colour": (_ends(3, "error: \x1b[31m"), {"control"}),
    "a return": (_ends(0, "a\rb", "stdout"), {"control"}),
    "an override": (_ends(0, "a\u202eb", "stdout"), {"control"}),
    "a segment fault": (lambda: os.kill(os.getpid(), signal.SIGSEGV), {"signal", "executed"}),
    "a half result": (_write("out", code=3), {"leftover"}),
    "something else": (_write("other"), {"leftover"}),
    "a changed input": (_write("input"), {"leftover"}),
    "a temporary file": (_write("../tmp/x"), {"leftover"}),
    "a file at home": (_write("../home/x"), {"leftover"}),
    "the canary": (_write("../canary/ran"), {"executed"}),
    "another program": (_system, {"executed"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_broken_rule_is_seen(name: str, tmp_path: Path) -> None:
    function, rules = FAULTS[name]
    assert _ran(function, tmp_path).keys() == rules


def test_a_hang_is_ended(tmp_path: Path) -> None:
    assert "hang" in _ran(lambda: time.sleep(60), tmp_path, seconds=0.3)


def test_memory_is_watched(tmp_path: Path) -> None:
    def grow() -> None:
        held = bytearray(b"x") * 2**28
        assert held

    assert "memory" in _ran(grow, tmp_path, memory=2**27)


def test_results_must_be_json() -> None:
    assert "json" in broken_rules(Ran(0, stdout=b"{'a': 1}"), {}, {}, as_json=True)


def test_changes_are_the_same_for_the_same_seed_and_are_changes() -> None:
    tree = {"a": [1, 2.5, True, "x"], "b": {"c": None}}
    for seed in range(200):
        one, two = (m.changed(random.Random(seed), tree) for _ in range(2))
        assert repr(one.tree) == repr(two.tree)
        assert tree == {"a": [1, 2.5, True, "x"], "b": {"c": None}}
        data = m.damaged(random.Random(seed), b"0123456789" * 30)
        assert data == m.damaged(random.Random(seed), b"0123456789" * 30)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (5, 5.0, True),
        (5, "5", True),
        (5, [5], True),
        (True, "true", True),
        (True, "no", False),
        (5, 6, False),
    ],
)
def test_what_says_the_same(old: object, new: object, same: bool) -> None:
    assert m.same_meaning(old, new) is same


def test_crafted_pickles_would_run(tmp_path: Path) -> None:
    """The canary sings when one of them is read as a pickle, or the harness would see nothing."""
    import pickle

    sung = 0
    for seed in range(60):
        data, _ = m.evil(random.Random(seed))
        sung += "executed" in _ran(functools.partial(pickle.loads, data), tmp_path / str(seed))
    assert sung > 8
