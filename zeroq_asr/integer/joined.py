"""Two programs as one, where a runtime takes two parts of a recogniser in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from zeroq_asr.errors import ExportError
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Instruction, Program
from zeroq_asr.integer.proof import check_boundaries


def joined(bundle: Bundle, giver: str, taker: str) -> Program:
    """Return one program of two parts of a bundle, in which what ``giver`` gives enters ``taker``.

    It takes the inputs of ``giver``, those of ``taker`` that nobody gives, and the states of both; it gives
    the outputs of ``taker``.  Values and constants are called PART.NAME.  Raises ProofError where the two do
    not fit each other, and ExportError where something of ``giver`` enters nowhere.
    """
    check_boundaries(bundle)
    first, then = bundle.programs[giver], bundle.programs[taker]
    given = {port.name: f"{giver}.{port.value}" for port in first.outputs}
    taken = {port.value: given[port.name] for port in then.inputs if port.name in given}
    if len(taken) < len(given):
        raise ExportError(giver, f"gives {', '.join(given)}, which {taker} does not take")
    one, other = _renamed(first, giver, {}), _renamed(then, taker, taken)
    return Program(
        inputs=(*one.inputs, *(port for port in other.inputs if port.name not in given)),
        outputs=other.outputs,
        code=[*one.code, *other.code],
        constants=one.constants | other.constants,
        # the giver says what a value means that both know
        values=other.values | one.values,
        max_frames=max(one.max_frames, other.max_frames),
        states=(*one.states, *other.states),
        packings=one.packings | other.packings,
    )


def _renamed(program: Program, part: str, known: Mapping[str, str]) -> Program:
    """The same program with names of its own: those that are ``known``, all others behind ``part``."""

    def name(old: str) -> str:
        return known.get(old, f"{part}.{old}")

    def instruction(i: Instruction) -> Instruction:
        outs = [name(out) for out in i.outs]
        return replace(i, out=outs[0], ins=tuple(map(name, i.ins)), others=tuple(outs[1:]))

    return Program(
        inputs=tuple(replace(port, value=name(port.value)) for port in program.inputs),
        outputs=tuple(replace(port, value=name(port.value)) for port in program.outputs),
        code=[*map(instruction, program.code)],
        constants={name(key): array for key, array in program.constants.items()},
        values={name(key): info for key, info in program.values.items()},
        max_frames=program.max_frames,
        states=tuple(
            replace(state, enters=name(state.enters), leaves=name(state.leaves)) for state in program.states
        ),
        packings={name(key): packing for key, packing in program.packings.items()},
    )
