"""How commands show what runs in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zeroq_asr.cli.terminal import Terminal


def show_islands(terminal: Terminal, islands: Sequence[Mapping[str, Any]]) -> None:
    """Print what runs in float, an island after the other: layers, operators, boundaries; or nothing.

    ``islands``: fields of ``zeroq_asr.integer.float_parts.Island``, as in the commands' JSON.
    """
    if not islands:
        return
    terminal.text()
    plural = "s" if len(islands) > 1 else ""
    terminal.text(
        f"{len(islands)} float island{plural}, of which nothing is proven but the bounds of what each gives:"
    )
    for island in islands:
        terminal.text()
        terminal.facts(
            [
                ("island", island["name"]),
                ("layers", ", ".join(island["layers"]) or "of the network itself"),
                ("operators", ", ".join(f"{name} × {n}" for name, n in island["operators"].items())),
                ("takes", "; ".join(map(_boundary, island["inputs"]))),
                ("gives", "{}, from {} to {}".format(_boundary(island["result"]), *island["bounds"])),
            ]
        )


def _boundary(value: Mapping[str, Any]) -> str:
    return "{name} ({type}, scale {scale:.4g}, zero point {zero_point})".format(**value)
