"""A transducer in float ONNX: three files, which integer bundles are measured against, and what runs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from zeroq_asr.capture.transducer import TransducerGraphs
from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.ports import ENCODED, LABELS, PREDICTED
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.ported_transducer import PortedTransducer, session_run
from zeroq_asr.deployment.sessions import open_session
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.lines import summary


def export_float_transducer(
    graphs: TransducerGraphs, deployment: Deployment, *, flat: bool = False, quantizable: bool = False
) -> dict[str, onnx.ModelProto]:
    """Spell the parts of a transducer in float32 ONNX operators; return part → model.

    ``flat`` and ``quantizable`` are as of ``export_float``.  Raises UnsupportedOperatorError for an operator
    without a spelling.
    """
    width = _width(graphs.joiner)
    taken = {LABELS: graphs.context, ENCODED: width, PREDICTED: width}
    taken[graphs.encoder.inputs[0]] = deployment.frontend.features
    made = {}
    for part in PARTS:
        graph: FloatGraph = getattr(graphs, part)
        channels = {name: taken[name] for name in graph.inputs if name in taken}
        made[part] = export_float(graph, deployment, flat=flat, quantizable=quantizable, channels=channels)
    return made


def _width(joiner: FloatGraph) -> int:
    """Channels that the joiner adds: what the last of its layers reads."""
    weight = joiner.nodes[-1].attrs["weight"]
    return int(weight.shape[1])


class FloatTransducer(PortedTransducer):
    """Encoder, predictor and joiner as ONNX files between floats, decoded greedily, or by a beam.

    These are those of ``export_float_transducer``, or what another tool made of them.
    """

    def __init__(
        self,
        files: Mapping[str, str | os.PathLike[str] | bytes],
        graphs: TransducerGraphs,
        deployment: Deployment,
        threads: int | None = None,
        beam: BeamSpec | BeamDecoder | None = None,
        *,
        spin: bool = True,
    ) -> None:
        """``files``: part → its file, by name or by content; ``graphs``: whose ports and states they have.

        ``threads`` and ``spin`` are as of ``open_session``, ``beam`` says how it is decoded.  Raises
        CheckpointError where ONNX Runtime cannot run a file, and ConfigError for a beam that cannot be had.
        """
        runs = {}
        for part in PARTS:
            file, graph = files[part], getattr(graphs, part)
            where, model = (part, file) if isinstance(file, bytes) else (Path(file).name, os.fspath(file))
            session: Any = open_session(where, model, threads, spin=spin)
            entering = [*graph.inputs, *(state.name for state in graph.states)]
            leaving = [*graph.output_ports, *(f"next_{state.name}" for state in graph.states)]
            runs[part] = session_run(where, session, entering, leaving)
        super().__init__(deployment, runs, graphs.context, graphs.predictor.initial_states, beam)

    def __repr__(self) -> str:
        """Show what it is, on one line."""
        return summary(self, self.name, "float ONNX parts")
