"""A section of a configuration, read option by option: whatever nobody reads is refused by its name.

So the list of known options is the code that reads them.  `Options.only` reads an option whose other values
this package has no network for, with the values under which NeMo does nothing; `Options.ignore` reads those
that change nothing at inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import printable, shorten, shown

#: stands for a default where there is none
REQUIRED: Any = object()


class UnsupportedOptionError(ConfigError):
    """An option that asks for a network that is not supported."""


class Options:
    """One section, at ``path`` of its configuration.

    Every method that reads takes a ``default`` for an option that is absent.  Raises ConfigError, which
    names the option with its path, for one that is required and absent, of another type or out of range.
    """

    def __init__(self, section: object, path: str) -> None:
        if not isinstance(section, Mapping):
            raise ConfigError(path, f"must be a mapping, got {shown(section)}")
        self.path = path
        self._section = section
        self._read: set[str] = set()

    def where(self, name: str) -> str:
        """Return what errors call an option."""
        return f"{self.path}.{name}" if self.path else name

    def raw(self, name: str, default: Any = None) -> Any:
        """Return whatever the option holds; the caller checks it."""
        self._read.add(name)
        value = self._section.get(name, default)
        if value is REQUIRED:
            raise ConfigError(self.where(name), "is missing from the configuration", "is it whole?")
        return value

    def wrong(self, name: str, expected: str) -> ConfigError:
        """Return the error of an option that is not what was expected."""
        found = shown(self._section.get(name))
        return ConfigError(self.where(name), f"must be {expected}, got {found}", "correct the configuration")

    def whole(self, name: str, low: int, high: int, default: Any = REQUIRED) -> int:
        """Return a whole number from ``low`` to ``high``."""
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}")
        return value

    def whole_or_list(self, name: str, low: int, high: int) -> int:
        """Return a whole number, written as ``11`` or ``[11]``."""
        value = self.raw(name, REQUIRED)
        if isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number from {low} to {high}, or a list of one")
        return value

    def number(self, name: str, low: float, high: float, default: Any = REQUIRED) -> float:
        """Return a number from ``low`` to ``high``."""
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return value

    def flag(self, name: str, default: Any = REQUIRED) -> bool:
        """Return true or false."""
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: Any = REQUIRED) -> str:
        """Return a text."""
        value = self.raw(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def choice(self, name: str, allowed: Iterable[str], default: Any = REQUIRED) -> str:
        """Return one of the texts ``allowed``; others are not supported."""
        value, names = self.text(name, default), list(allowed)
        if value not in names:
            raise UnsupportedOptionError(
                self.where(name), f"{shown(value)} is not supported", f"supported: {', '.join(names)}"
            )
        return value

    def only(self, name: str, *neutral: Any, why: str = "") -> None:
        """Read an option that may be absent, or have one of the ``neutral`` values; no other is supported."""
        value = self.raw(name, neutral[0])
        if not any(_same(value, one) for one in neutral):
            usual = " or ".join(_yaml(one) for one in neutral)
            remedy = f"supported: {usual}" + (f" ({why})" if why else "")
            raise UnsupportedOptionError(self.where(name), f"{shown(value)} is not supported", remedy)

    def ignore(self, *names: str) -> None:
        """Read options that change nothing at inference, whatever they hold."""
        self._read.update(names)

    def sections(self, name: str, most: int) -> Iterator[Options]:
        """Yield the sections of a list of 1 to ``most``."""
        value = self.raw(name, REQUIRED)
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= most:
            raise self.wrong(name, f"a list of 1 to {most} sections")
        for index, section in enumerate(value):
            yield Options(section, f"{self.where(name)}[{index}]")

    def finish(self) -> None:
        """Raise UnsupportedOptionError for options that nobody has read."""
        unknown = [key for key in self._section if not isinstance(key, str) or key not in self._read]
        if unknown:
            names = [printable(shorten(str(key), 80)) for key in unknown[:5]]
            others = f" (so are {', '.join(names[1:])})" if names[1:] else ""
            raise UnsupportedOptionError(
                self.where(names[0]), f"is an unknown option{others}", "leave it out if it changes nothing"
            )


def _same(value: Any, other: Any) -> bool:
    """Tell whether two values are equal and of a kind: true is not 1."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value == other
    return type(value) is type(other) and bool(value == other)


def _yaml(value: Any) -> str:
    """Return a neutral value as a configuration spells it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)
