"""A bundle: the programs that make one recogniser, by the part that each plays.

A CTC network is a bundle of one, ``network``.  A transducer is one of an encoder, a predictor and a joiner.
A bundle has one certificate, one set of tokens and one frontend, and is one file, or one folder of files
where it has several programs.

Programs hand integers to each other, never floats: an input port that has the name of another part's output
port is given what leaves there.  So both are the same integers of the same meaning, one type, one scale, one
zero point, and what may leave may enter (``integer.proof.check_boundaries``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.program import Program
from zeroq_asr.lines import summary

#: the part of a bundle of one
NETWORK = "network"


@dataclass(frozen=True)
class Bundle:
    """Programs by the part that they play in a recogniser; at least one."""

    programs: dict[str, Program]

    def __post_init__(self) -> None:
        if not self.programs:
            raise ConfigError("bundle", "holds no program", "name at least one")
        odd = [name for name in self.programs if not name.isidentifier()]
        if odd:
            raise ConfigError(
                "bundle", f"{odd[0]!r} cannot name a file", "use letters, digits and underscores"
            )

    def __repr__(self) -> str:
        """Show the parts, on one line."""
        return summary(self, self.digest()[:8], ", ".join(self.programs))

    @staticmethod
    def of(program: Program) -> Bundle:
        """The bundle of one program."""
        return Bundle({NETWORK: program})

    @property
    def sole(self) -> Program | None:
        """The program of a bundle of one."""
        return next(iter(self.programs.values())) if len(self.programs) == 1 else None

    def digest(self) -> str:
        """SHA-256 of the parts and their programs; that of the program where there is but one."""
        if self.sole is not None:
            return self.sole.digest()
        h = hashlib.sha256()
        for part in sorted(self.programs):
            h.update(f"{part}:{self.programs[part].digest()}\n".encode())
        return h.hexdigest()
