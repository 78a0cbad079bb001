"""Whether the utterances of a batch are apart: whether what is behind the end of one changes its result.

A batch is as long as its longest utterance.  Frames behind the end of a shorter one hold anything, the more
so behind layers with a bias, and a convolution hears them as neighbours of the last valid frames.  A mask in
front of it makes them the zero that the convolution pads with, so that the utterance gives what it gives
alone.  The rule here goes by what each operator's record says of the frames that it reads.
"""

from __future__ import annotations

from zeroq_asr.integer.program import Program
from zeroq_asr.registry import INTEGER_OPERATORS, NEAR, OWN, VALID


def reads_behind(program: Program) -> str:
    """Return the first instruction by which an output may depend on frames behind the end; "" if none does.

    The program is well-formed (``wellformed.check``): masks are those of their frames, and what is masked is
    the zero point of its value.
    """
    #: values whose frames behind the end are their zero point
    zero: set[str] = set()
    #: value → the instruction by which its valid frames may depend on others
    mixed: dict[str, str] = {}
    for i in program.code:
        record = INTEGER_OPERATORS[i.op]
        reached = next((mixed[name] for name in i.ins if name in mixed), "")
        frames = record.frames if isinstance(record.frames, str) else record.frames(i)
        frames = OWN if record.axis_free else frames
        heard = frames == NEAR and i.ins[0] not in zero
        if not reached and (heard or frames not in (OWN, NEAR, VALID)):
            reached = f"{i.out} ({i.op})"
        if reached:
            mixed.update(dict.fromkeys(i.outs, reached))
        elif record.clears_behind or (record.moves is not None and i.ins[record.moves] in zero):
            zero.update(i.outs)
    return next((mixed[port.value] for port in program.outputs if port.value in mixed), "")
