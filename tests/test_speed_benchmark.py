"""The benchmark of speed has a row for every file, and refuses a machine on which others are at work."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import zeroq_asr as zq

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import quiet
import speed

SMALL = speed.Case("small", lambda _: zq.embedded_model(), seconds=(1.0,), others=True)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "CASES", {"quartznet": SMALL})


def run(*arguments: str) -> int:
    return speed.main(["--models", ".", "--only", "quartznet", "--rounds", "2", "--loads", "1", *arguments])


@pytest.mark.parametrize("cores", [quiet.FOREIGN / 2, quiet.FOREIGN * 2])
def test_rows_or_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cores: float
) -> None:
    monkeypatch.setattr(speed, "look", lambda: None)

    def beside(block: object) -> float:
        assert callable(block)
        block()
        return cores

    monkeypatch.setattr(speed, "foreign", beside)
    noisy = cores > quiet.FOREIGN
    assert run() == (speed.NOISY if noisy else 0)
    found = capsys.readouterr()
    if noisy:
        assert found.out == ""
        last = found.err.splitlines()[-1]
        assert last.startswith("error: others used 0.20 of ")
        assert "nothing is reported" in last
        assert found.err.count("again: ") == speed.TRIES - 1
        return
    rows = [line for line in found.out.splitlines() if line.startswith("    ") and line.strip()[0] != "m"]
    ours = [line for line in rows if "fused W8, x86-any" in line]
    # one and two threads, and the load, also of what is optimized ahead
    assert len(ours) == 4
    assert sum("x86-any, .ort" in line for line in ours) == 1
    assert len([line for line in rows if "ORT static" in line]) == 3
    assert "processor time" not in found.out


def test_processor_time_asks_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("a busy machine is allowed")

    monkeypatch.setattr(speed, "look", never)
    monkeypatch.setattr(speed, "foreign", never)
    assert run("--cpu-time") == 0
    text = capsys.readouterr().out
    assert "processor time, which other work on the machine blurs" in text.splitlines()[0]
    assert "2 threads" not in text


def test_a_busy_machine_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    busy: Iterator[float] = iter((10.0, 12.0))
    monkeypatch.setattr(quiet, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(quiet, "LOOK", 0.5)
    assert run() == speed.NOISY
    assert "before anything was measured" in capsys.readouterr().err


def test_a_system_that_does_not_tell_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "stat")
    assert run() == speed.NOISY
    assert "does not tell" in capsys.readouterr().err


def test_what_others_use_is_told_from_our_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    begun = quiet.own_seconds()
    # a machine on which nobody works but us, and one with another beside us
    monkeypatch.setattr(quiet, "busy_seconds", lambda: quiet.own_seconds() - begun)
    assert quiet.foreign(work) < 0.1
    monkeypatch.setattr(quiet, "busy_seconds", lambda: quiet.own_seconds() - begun + time.perf_counter())
    assert quiet.foreign(work) == pytest.approx(1.0, abs=0.1)


def test_what_the_system_tells_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    # all but idle (1000) and waiting (500)
    stat.write_text("cpu  100 20 30 1000 500 4 6 40 77 0\ncpu0 1 2 3\n")
    monkeypatch.setattr(quiet, "_STAT", stat)
    monkeypatch.setattr(quiet.os, "sysconf", lambda _: 100)
    assert quiet.busy_seconds() == pytest.approx(2.0)
