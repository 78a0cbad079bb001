"""The page of a report in a browser: it is drawn, and nothing is said on the console."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import zeroq_asr as zq
from zeroq_asr.measure.page import account_of, write_page

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=2)


@pytest.fixture
def browser() -> str:
    """A Chromium, which ZEROQ_BROWSER names."""
    name = os.environ.get("ZEROQ_BROWSER")
    if name is None:
        pytest.skip("ZEROQ_BROWSER names no Chromium")
    return name


def opened(browser: str, page: Path) -> tuple[str, list[str]]:
    """Return the document that a page becomes, and what the console says."""
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
        # so that nothing of a user's own is read
        f"--user-data-dir={page.parent / 'profile'}",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if re.search(r":CONSOLE", line)]


def test_a_report_is_drawn_without_a_word_on_the_console(
    browser: str, small_model: zq.AsrModel, tmp_path: Path
) -> None:
    zq.save_checkpoint(small_model, tmp_path / "small.pt")
    zq.quantize(small_model, tmp_path / "small.onnx", synthesis=FAST)
    found = zq.report(small_model, tmp_path / "small.onnx", FAST)
    account = account_of(tmp_path / "small.onnx", tmp_path / "small.pt", small_model.float_bytes)
    write_page(tmp_path / "report.html", found, account)
    document, console = opened(browser, tmp_path / "report.html")
    assert console == []
    assert "Proven, integer-only" in document
    assert document.count("<svg") >= 3


def test_what_the_console_says_is_heard(browser: str, tmp_path: Path) -> None:
    (tmp_path / "odd.html").write_text("<!doctype html><script>console.error('planted')</script>")
    _, console = opened(browser, tmp_path / "odd.html")
    assert len(console) == 1
    assert "planted" in console[0]
