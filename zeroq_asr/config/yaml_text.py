"""YAML that strangers wrote, read with limits.

Values are those that OmegaConf gives them, with which NeMo reads its configurations: YAML 1.1, with the
floats of YAML 1.2 (``1e-5`` is a number) and without dates; ``yes``, ``no``, ``on`` and ``off`` are true and
false.  A key that stands twice in a mapping is refused, as there.  Nothing is built but mappings, lists,
texts, numbers, true, false and null.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import yaml

from zeroq_asr.errors import ZeroqError
from zeroq_asr.lines import printable, shorten, shown

#: bytes of a text, values in it with all that aliases stand for, and mappings and lists within each other
MAX_BYTES, MAX_VALUES, MAX_DEPTH = 4 * 2**20, 200_000, 100
#: characters of a number: Python takes the square of their count to read it
_MAX_DIGITS = 1000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"yes|Yes|YES|true|True|TRUE|on|On|ON")
_FALSE = re.compile(r"no|No|NO|false|False|FALSE|off|Off|OFF")
_INT = re.compile(
    r"[-+]?0b[01_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"
)
_FLOAT = re.compile(
    r"""[-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+
    |[-+]?\.[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN)""",
    re.VERBOSE,
)


def read_yaml(text: bytes | str, where: str | os.PathLike[str], error: type[ZeroqError]) -> Any:
    """Return the value that a YAML ``text`` holds; None of an empty one.

    Raises ``error``, naming ``where`` and the line, when it is no YAML, holds a key twice, an unknown tag or
    more than one document, is larger than `MAX_BYTES`, or unfolds to more than `MAX_VALUES` values or deeper
    than `MAX_DEPTH`.
    """
    if len(text) > MAX_BYTES:
        problem = f"is larger than the {MAX_BYTES} bytes that a YAML file may have"
        raise error(where, problem, "is it the right file?")
    reader = _Reader(text)
    try:
        return reader.document()
    except _RefusedError as problem:
        raise error(where, f"line {reader.line}: {problem}", "correct the YAML") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        reason = (
            getattr(problem, "problem", None) or getattr(problem, "reason", None) or "it cannot be parsed"
        )
        found = printable(shorten(str(reason), 200))
        raise error(where, f"{line}is not YAML ({found})", "correct the YAML") from None
    except UnicodeError:
        raise error(where, "is not YAML (it is no text)", "save it as UTF-8") from None


class _RefusedError(Exception):
    """What is YAML, and not read all the same."""


class _Reader:
    """One walk over the events of a parser, which builds values as it goes."""

    def __init__(self, text: bytes | str) -> None:
        self._text = text
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0
        self._depth = 0
        self.line = 1

    def document(self) -> Any:
        """Return the one document's value."""
        self._events = self._parse()
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events))
        next(self._events)  # the end of the document
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise _RefusedError("a second document begins, one was expected")
        return value

    def _parse(self) -> Iterator[yaml.Event]:
        for event in yaml.parse(self._text, Loader=_LOADER):
            self.line = event.start_mark.line + 1  # type: ignore[union-attr]
            if not isinstance(event, yaml.StreamStartEvent):
                yield event

    def _spend(self, values: int) -> None:
        self._count += values
        if self._count > MAX_VALUES:
            raise _RefusedError(f"it unfolds into too many values, more than {MAX_VALUES}")

    def _value(self, event: Any) -> Any:
        """Return the value that begins with ``event``."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise _RefusedError(f"the alias {shown(event.anchor)} names nothing that ended before")
            value, size = self._anchors[event.anchor]
            self._spend(size)
            return value
        before = self._count
        self._spend(1)
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        else:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise _RefusedError(f"it is nested too deeply, more than {MAX_DEPTH} levels")
            value = self._list(event) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(event)
            self._depth -= 1
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._count - before
        return value

    def _list(self, start: yaml.Event) -> list[Any]:
        _expect_tag(start, "seq")
        values = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event))
        return values

    def _mapping(self, start: yaml.Event) -> dict[Any, Any]:
        _expect_tag(start, "map")
        values: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]
            key = self._value(event)
            if isinstance(key, list | dict):
                raise _RefusedError("a key is a list or a mapping, a text was expected")
            line = self.line
            value = self._value(next(self._events))
            if merge:
                for one in value if isinstance(value, list) else [value]:
                    if not isinstance(one, dict):
                        raise _RefusedError("<< must name a mapping, or a list of them")
                    # the first of several wins
                    merged = {**one, **merged}
                continue
            if key in values:
                self.line = line
                raise _RefusedError(f"the key {shown(key)} stands twice in one mapping")
            values[key] = value
        return {**merged, **values} if merged else values


def _expect_tag(event: Any, kind: str) -> None:
    if event.tag not in (None, "!", _TAG + kind):
        raise _RefusedError(f"the tag {shown(event.tag)} is not read")


def _scalar(event: Any) -> Any:
    """Return the value of a scalar: of its tag, or of how it looks where it has none."""
    text, tag = event.value, event.tag
    plain, quoted = event.implicit
    if tag is None or (plain and tag == "!"):
        return _plain(text) if plain else text
    if tag in ("!", _TAG + "str") or (quoted and not plain and tag is None):
        return text
    kinds = {"null": type(None), "bool": bool, "int": int, "float": float}
    kind = kinds.get(tag.removeprefix(_TAG))
    if kind is None:
        raise _RefusedError(f"the tag {shown(tag)} is not read")
    value = _plain(text)
    if kind is float and type(value) is int:
        value = _real(text)
    if type(value) is not kind:
        raise _RefusedError(f"{shown(text)} is no {tag.removeprefix(_TAG)}")
    return value


def _plain(text: str) -> Any:
    """Return what a scalar without quotes and tag stands for."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if len(text) > _MAX_DIGITS and (_INT.fullmatch(text[:20]) or _FLOAT.fullmatch(text[:20])):
        # whether the rest is digits too or not: no name looks like that
        if re.fullmatch(r"[-+0-9a-fA-FxXeE._:]+", text):
            raise _RefusedError(f"a number has {len(text)} digits")
        return text
    if _INT.fullmatch(text):
        return _whole(text)
    if _FLOAT.fullmatch(text):
        return _real(text)
    return text


def _sign(text: str) -> tuple[int, str]:
    digits = text.replace("_", "")
    return (-1 if digits[0] == "-" else 1), digits.lstrip("+-")


def _whole(text: str) -> Any:
    sign, digits = _sign(text)
    try:
        if ":" in digits:
            return sign * int(_sixties(digits))
        if digits.startswith("0b"):
            return sign * int(digits[2:], 2)
        if digits.startswith("0x"):
            return sign * int(digits[2:], 16)
        return sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
    except ValueError:  # 0x_ has no digit
        return text


def _real(text: str) -> float:
    sign, digits = _sign(text.lower())
    if digits in (".inf", ".nan"):
        return sign * float(digits[1:])
    return sign * (_sixties(digits) if ":" in digits else float(digits))


def _sixties(text: str) -> float:
    """Return a number to the base of 60, ``1:30`` is 90."""
    value = 0.0
    for part in text.split(":"):
        value = value * 60 + float(part)
    return value
