"""Text on one line: what strangers wrote, in which nothing may steer a terminal, and results."""

from __future__ import annotations

import unicodedata

#: most characters of a value, and of one part of an error, that are shown
VALUE, PART = 80, 600
#: embedding, override and isolate marks: they reorder what stands on the line behind them
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: control characters, surrogates (the bytes of a name that is no UTF-8), separators of lines and paragraphs
_UNSHOWN = ("Cc", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """Return ``text`` with escapes for control characters, line ends, surrogates and reordering marks.

    Letters of every script stay, with the joiners that some need.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c in _REORDERING or unicodedata.category(c) in _UNSHOWN else c
        for c in text
    )


def shorten(text: str, limit: int = PART) -> str:
    """Return ``text``, its middle left out where it has more than ``limit`` characters."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 3]} … {text[-tail:]}"


def said(error: BaseException) -> str:
    """Return what an error says, on one line; its class where that is nothing, or fails itself."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a stranger's class may do anything
        text = ""
    return printable(shorten(text)) or type(error).__name__


def shown(value: object, limit: int = VALUE) -> str:
    """Return what ``value`` looks like in an error: its repr, cut to ``limit`` characters.

    Never raises: a number of more digits than Python prints, or a repr that fails, is named by its type.
    """
    try:
        text = repr(value[: 4 * limit] if isinstance(value, str | bytes) else value)
    except Exception:  # a repr may do anything; ValueError for long integers is the usual one
        return f"a {type(value).__name__} that cannot be shown"
    return printable(shorten(text, limit))


def size(count: float) -> str:
    """Return bytes for people: "5.1 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5 or unit == "GB":
            break
    return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def summary(of: object, name: object, *facts: str) -> str:
    """Return the repr of a result, one line of bounded length: its class, its name and a few facts."""
    told = "".join(f", {fact}" for fact in facts if fact)
    return f"<{type(of).__name__} {printable(shorten(str(name), 40))}{printable(shorten(told, 120))}>"


def against_float(written: int, float_bytes: int) -> str:
    """Return how many bytes were written, more than 0, beside those of the float network, in words."""
    if written <= float_bytes:
        return f"{float_bytes / written:.1f} times smaller than float"
    return f"{written / max(1, float_bytes):.1f} times as large as float"
