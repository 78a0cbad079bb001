"""What the programs of a transducer's bundle must be, to be decoded together."""

from __future__ import annotations

from zeroq_asr.architectures.transducer import Transducer
from zeroq_asr.config.choices import ONNX_ASR
from zeroq_asr.decoding.ports import ENCODED, ENCODED_LENGTHS, LABELS, LOGITS, PREDICTED
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.runtime_layout import DECODER_JOINT
from zeroq_asr.deployment.runtime_ports import lstm_states
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.bundle import Bundle

#: encoder, predictor and joiner
PARTS = Transducer.PARTS
#: part → its inputs and its outputs, by name and type; float32: features
_PORTS = {
    "encoder": (
        (("audio_signal", "float32"), ("length", "int64")),
        ((ENCODED, "int32"), (ENCODED_LENGTHS, "int64")),
    ),
    "predictor": (((LABELS, "int32"),), ((PREDICTED, "int32"),)),
    "joiner": (((ENCODED, "int32"), (PREDICTED, "int32")), ((LOGITS, "int32"),)),
    DECODER_JOINT: (((LABELS, "int32"), (ENCODED, "int32")), ((LOGITS, "int32"),)),
}


def check_transducer(bundle: Bundle, deployment: Deployment) -> None:
    """Raise ExportError unless a bundle is a transducer that is decoded as its deployment says.

    That it has a ``decoding`` makes a bundle a transducer's.  Any other is left as it is.
    """
    if deployment.decoding is None:
        return
    runtime = deployment.runtime_ports
    parts = ("encoder", DECODER_JOINT) if runtime and runtime.runtime == ONNX_ASR else PARTS
    if bundle.programs.keys() != {*parts}:
        found, wanted = sorted(bundle.programs), ", ".join(parts)
        raise ExportError(
            deployment.name, f"is a bundle of {', '.join(found)}; a transducer's is of {wanted}"
        )
    predictor, joiner = bundle.programs[parts[1]], bundle.programs[parts[-1]]
    for part in parts:
        program = bundle.programs[part]
        for said, ports in zip(_PORTS[part], (program.inputs, program.outputs), strict=True):
            named = [(port.name, port.type) for port in ports]
            if named != [*said]:
                raise ExportError(part, f"has the ports {named}, not {[*said]}")
        if program.states and program is not predictor:
            raise ExportError(part, "has states, which a predictor alone may have")
    blank = deployment.tokenizer.blank_id
    labels = predictor.inputs[0]
    if (labels.lo, labels.hi) != (0, blank):
        raise ExportError(parts[1], f"takes labels [{labels.lo}, {labels.hi}], not [0, {blank}]")
    scores = blank + 1 + len(deployment.decoding.durations)
    if joiner.outputs[0].dims[1] != scores:
        problem = f"gives {joiner.outputs[0].dims[1]} scores, not {scores}: tokens, the blank and durations"
        raise ExportError(parts[-1], problem)
    for program in (predictor, joiner):
        for port in (*program.inputs, *program.outputs):
            if len(port.dims) != 3 or port.dims[2] != 1:
                raise ExportError(port.name, f"is {list(port.dims)}, not [batch, channels, 1]")
    if runtime is not None:
        hidden, _ = lstm_states(predictor)
        shape, told = (len(hidden), hidden[0].dims[1]), (runtime.layers, runtime.units)
        if shape != told:
            raise ExportError(parts[1], "has {} layers of {} units, not {} of {}".format(*shape, *told))
