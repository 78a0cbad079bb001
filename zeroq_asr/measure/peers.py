"""What ONNX Runtime's own quantizers make of a network: its files, and what of it they left in float.

The static quantizer of a transducer's parts needs what each is given.  The encoder hears recordings;
predictor and joiner are given what they are given as the float parts decode these greedily.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import onnx

from zeroq_asr.capture.transducer import TransducerGraphs
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.deployment.float_files import File, held
from zeroq_asr.deployment.float_transducer import FloatTransducer
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.ported_transducer import Run
from zeroq_asr.files import temporary_folder
from zeroq_asr.measure.onnxruntime_quantizers import Feed, attempt, ort_static, ort_static_on, preprocess
from zeroq_asr.measure.said import Features

#: what another tool makes: name of a file → its bytes
Files = dict[str, bytes]


@dataclass(frozen=True)
class Peer:
    """What another tool made of a float network."""

    files: Files
    #: what of it the tool left as it was; mostly nothing
    note: str = ""


class _Watched(FloatTransducer):
    """Float parts that keep what the predictor and the joiner are given."""

    def __init__(self, files: dict[str, File], graphs: TransducerGraphs, deployment: Deployment) -> None:
        super().__init__(files, graphs, deployment)
        self.given: dict[str, list[Feed]] = {}
        for part in PARTS[1:]:
            graph = getattr(graphs, part)
            names = [*graph.inputs, *(state.name for state in graph.states)]
            self._runs[part] = self._kept(self._runs[part], names, self.given.setdefault(part, []))

    @staticmethod
    def _kept(run: Run, names: list[str], given: list[Feed]) -> Run:
        def kept(operands: tuple[Array, ...]) -> tuple[Array, ...]:
            # of frames that are joined ahead, decoding may never come to others than the first
            given.append({name: one[:1].copy() for name, one in zip(names, operands, strict=True)})
            return run(operands)

        return kept


def static_peer(
    models: Mapping[str, onnx.ModelProto],
    graphs: TransducerGraphs,
    deployment: Deployment,
    recordings: Iterable[Features],
) -> Peer:
    """Return a transducer's parts by ONNX Runtime's static quantizer, calibrated on ``recordings``.

    ``models``: part → its float export.  A predictor or a joiner that it cannot quantize stays in float, and
    so does an LSTM, of which it knows nothing; the note says so.  Raises whatever its quantizer raises of the
    encoder, and CalibrationError without recordings.
    """
    notes = []
    with temporary_folder() as folder:
        watched = _Watched({part: held(one, folder) for part, one in models.items()}, graphs, deployment)
        for features in recordings:
            watched.hypotheses(*features)
    files = {part: models[part].SerializeToString() for part in watched.given}
    files["encoder"] = ort_static(preprocess(models["encoder"]), recordings)
    for part, given in watched.given.items():
        ready = preprocess(models[part])
        made, reason = attempt(partial(ort_static_on, ready, given))
        if made is None:
            notes.append(f"the {part} stays in float, for {reason}")
            continue
        files[part] = made
        if any(node.op_type == "LSTM" for node in onnx.load_from_string(made).graph.node):
            notes.append(f"the {part}'s LSTM stays in float, of which its quantizer knows nothing")
    return Peer(files, "; ".join(notes))
