"""Which handler says what an ATen operator means: by the operator's name and the kinds of its operands.

A handler takes the tracer and the operator's arguments in schema order, as the kinds of ``capture.tracer``,
and returns a kind, or NotImplemented for arguments that it has no meaning for.  Handlers of graph operators
come with their records (``Operator.captures``); those of lengths, masks and sizes, which are no operators,
are in this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from zeroq_asr.capture.aten import canonical, spellings
from zeroq_asr.capture.tracer import Tracer
from zeroq_asr.registry import OPERATORS, Capture, Handler, Kinds

#: those of no operator, by canonical name
_HANDLERS: dict[str, list[Capture]] = {}


def handles(name: str, *kinds: Kinds) -> Callable[[Handler], Handler]:
    """Register a handler of an ATen operator, by its canonical name, for leading operands of ``kinds``."""

    def register(handler: Handler) -> Handler:
        _HANDLERS.setdefault(name, []).append(Capture(name, kinds, handler))
        return handler

    return register


class Captures:
    """The handlers of one operator, collected by decorating them: ``@captures("add", Real, Real)``."""

    def __init__(self) -> None:
        self._found: list[Capture] = []

    def __call__(self, name: str, *kinds: Kinds) -> Callable[[Handler], Handler]:
        """Collect a handler of an ATen operator, by its canonical name, for leading operands of ``kinds``."""

        def collect(handler: Handler) -> Handler:
            self._found.append(Capture(name, kinds, handler))
            return handler

        return collect

    def __iter__(self) -> Iterator[Capture]:
        return iter(self._found)


def captures_of(name: str) -> Iterator[Capture]:
    """Every handler of a canonical name: those of the operators first."""
    for operator in OPERATORS.values():
        yield from (capture for capture in operator.captures if capture.name == name)
    yield from _HANDLERS.get(name, ())


def meaning(tracer: Tracer, aten: str, arguments: tuple[Any, ...]) -> Any:
    """What an ATen (or Python) operator makes of ``arguments``; NotImplemented if no handler knows."""
    name = canonical(aten)
    for capture in captures_of(name):
        if fits(capture, arguments):
            result = capture.handler(tracer, *arguments)
            if result is not NotImplemented:
                return result
    return NotImplemented


def fits(capture: Capture, arguments: tuple[Any, ...]) -> bool:
    """Whether the leading arguments are of the kinds that a handler asks for."""
    return len(arguments) >= len(capture.kinds) and all(
        isinstance(a, kinds) for a, kinds in zip(arguments, capture.kinds, strict=False)
    )


def overlaps() -> list[tuple[Capture, Capture]]:
    """Pairs of captures of one name that both accept some operands, of which the first to know them wins."""
    found = []
    for name in sorted(_names()):
        captures = [*captures_of(name)]
        for i, a in enumerate(captures):
            found += [(a, b) for b in captures[i + 1 :] if _share(a.kinds, b.kinds)]
    return found


def _share(a: tuple[Kinds, ...], b: tuple[Kinds, ...]) -> bool:
    """Whether some operand fits both, at every place that both look at."""
    return all(
        any(issubclass(p, q) or issubclass(q, p) for p in _classes(one) for q in _classes(other))
        for one, other in zip(a, b, strict=False)
    )


def _classes(kinds: Kinds) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)


def known(aten: str) -> bool:
    """Whether any handler knows the operator."""
    return next(captures_of(canonical(aten)), None) is not None


def supported() -> str:
    """The operators that have a meaning, for error texts."""
    return f"supported: {', '.join(sorted({n for name in _names() for n in spellings(name)}))}"


def _names() -> set[str]:
    """Canonical names that any handler knows."""
    return {c.name for operator in OPERATORS.values() for c in operator.captures} | _HANDLERS.keys()
