from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import PART, against_float, printable, shorten, shown


@given(st.text(st.characters()))
def test_nothing_printable_steers_a_terminal(text: str) -> None:
    line = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029\u202e\u2066" for c in line)
    line.encode()  # no surrogates either


@pytest.mark.parametrize("text", ["plain", "Ünïcödé", "نمی‌خواهم", "ไทย", "日本語\u3000です", "👩‍💻"])
def test_letters_of_every_script_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "line"), [("\x1b]0;x\x07", r"\x1b]0;x\x07"), ("a\nb\tc", r"a\nb\tc"), ("\udcff", r"\udcff")]
)
def test_controls_are_escaped(text: str, line: str) -> None:
    assert printable(text) == line


@given(st.text(), st.integers(20, 200))
def test_shortened_text_keeps_its_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or (short[:5] == text[:5] and short[-5:] == text[-5:])


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, b"\x00" * 10**6, [*range(10**5)], 10**6000, Unshowable()],
    ids=["text", "bytes", "list", "number", "unshowable"],
)
def test_any_value_is_shown_on_a_short_line(value: object) -> None:
    assert 0 < len(shown(value)) <= 100


def test_errors_have_a_bounded_line() -> None:
    text = str(ConfigError("w" * 10**5, "p\n" * 10**5, "r" * 10**5))
    assert len(text) <= 3 * PART + 10
    assert "\n" not in text


def test_sizes_beside_float() -> None:
    assert against_float(100, 370) == "3.7 times smaller than float"
    assert against_float(960, 407) == "2.4 times as large as float"
