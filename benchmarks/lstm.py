"""How long one step of an LSTM takes: our integers, ONNX Runtime's float LSTM, and its DynamicQuantizeLSTM.

    python benchmarks/lstm.py --units 640 --layers 2 --out benchmarks/results/lstm.txt

Weights are random.  Every contender steps through the same inputs on one thread, its states carried, in
turns: of each the median over rounds of the mean time of a step is shown, that of the process alone.
DynamicQuantizeLSTM, which ONNX Runtime's own quantizer writes, multiplies bytes and computes all else in
float, so that its states are no integers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from zeroq_asr.config import QuantSpec
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, FloatState
from zeroq_asr.graph.onnx_writer import Writer, spell
from zeroq_asr.graph.shapes import infer
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.lowering.lower import lower

Feeds = dict[str, np.ndarray]


def step_graph(layers: int, units: int, seed: int = 0) -> FloatGraph:
    """Layers of an LSTM, one step: x [B, H, 1] → h of the last layer; every h and c is a state."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / units**0.5

    nodes, states, x = [], [], "x"
    for k in range(layers):
        ins, outs = (x, f"h{k}", f"c{k}"), (f"h{k}_next", f"c{k}_next")
        attrs = {
            "weight": 2 * uniform(4 * units, units),
            "recurrent": 2 * uniform(4 * units, units),
            "bias": uniform(4 * units),
        }
        nodes.append(FloatNode("lstm_step", outs[0], ins, attrs, f"layer.{k}", others=outs[1:]))
        for name, leaves in zip(ins[1:], outs, strict=True):
            states.append(FloatState(name, name, leaves, ("batch", units, 1)))
        x = outs[0]
    return FloatGraph(("x",), (x,), nodes, ("y",), tuple(states), single=("x",))


def _model(
    nodes: list[Any],
    initializers: list[Any],
    graph: FloatGraph,
    kinds: dict[str, int],
    made: dict[str, str],
    units: int,
) -> bytes:
    """A model of a step, whose states leave as next_NAME; ``made``: value → the tensor that it is."""
    leaves, dims = {s.leaves: f"next_{s.name}" for s in graph.states}, ["batch", units, 1]
    nodes = [*nodes, *(helper.make_node("Identity", [made[v]], [name]) for v, name in leaves.items())]
    made = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info(name, kinds[name], dims) for name in graph.entering],
        [helper.make_tensor_value_info(name, kinds[source], dims) for source, name in leaves.items()],
        initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def float_model(graph: FloatGraph, units: int) -> bytes:
    """The step as float ONNX."""
    writer = Writer(infer(graph, units), 1)
    for node in graph.nodes:
        spell(writer, node)
    names = (*graph.entering, *graph.leaving)
    kinds = dict.fromkeys(names, int(TensorProto.FLOAT))
    made = dict(zip(graph.leaving, graph.leaving, strict=True))
    return _model(writer.nodes, [*writer.initializers.values()], graph, kinds, made, units)


def dynamic_model(floats: bytes) -> bytes:
    """The same, quantized by ONNX Runtime's own quantizer."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
        source.write_bytes(floats)
        quantize_dynamic(source, target, weight_type=QuantType.QInt8)
        model = onnx.load(target)
    assert [n.op_type for n in model.graph.node].count("DynamicQuantizeLSTM")
    return model.SerializeToString()


def integer_model(graph: FloatGraph, units: int, dialect: str) -> bytes:
    """The step in integers, x float32 as it enters."""
    cells = {name: (-4.0, 4.0) for s in graph.states if s.name[0] == "c" for name in (s.enters, s.leaves)}
    program = lower(graph, {"x": (-3.0, 3.0), **cells}, QuantSpec(), channels=units, max_frames=1)
    backend = (OnnxFusedBackend if dialect == "fused" else OnnxStrictBackend)("x86-any")
    results = build(backend, program)
    ports = [*program.inputs, *program.states]
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}
    kinds = {port.name: int(types[port.type]) for port in ports}
    kinds |= {s.leaves: int(types[s.type]) for s in program.states}
    nodes = list(backend.nodes)
    made = dict(zip(program.leaving, (v.name for v in results), strict=True))
    return _model(nodes, [*backend.initializers.values()], graph, kinds, made, units)


class Contender:
    """A session whose states are carried from step to step."""

    def __init__(self, model: bytes, batch: int, units: int, hidden: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
        self.states: Feeds = {}
        for given in self.session.get_inputs()[1:]:
            kind = kinds[given.type]
            self.states[given.name] = np.full(
                (batch, units, 1), hidden if kind is np.uint8 else 0, dtype=kind
            )

    def time(self, inputs: list[np.ndarray]) -> float:
        """Mean seconds of a step, those in which this process ran: others may run beside it."""
        names = [f"next_{name}" for name in self.states]
        begun = time.process_time()
        for x in inputs:
            made = self.session.run(names, {"x": x, **self.states})
            self.states = dict(zip(self.states, made, strict=True))
        return (time.process_time() - begun) / len(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, default=640)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--strict", action="store_true", help="the strict dialect, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    graph = step_graph(args.layers, args.units)
    floats = float_model(graph, args.units)
    models = {"float LSTM": floats, "DynamicQuantizeLSTM": dynamic_model(floats)}
    models["fused"] = integer_model(graph, args.units, "fused")
    if args.strict:
        models["strict"] = integer_model(graph, args.units, "strict")
    lines = [
        f"One step of {args.layers} x {args.units} units, one thread, "
        f"ONNX Runtime {onnxruntime.__version__}; "
        f"median of {args.rounds} rounds of {args.steps} steps; load average {os.getloadavg()[0]:.1f} "
        f"on {os.cpu_count()} cores",
        f"{'batch':>5}  {'':20}  {'us a step':>9}  {'float / it':>10}",
    ]
    generator = np.random.default_rng(0)
    for batch in args.batch:
        shape = (batch, args.units, 1)
        inputs = [generator.standard_normal(shape).astype(np.float32) for _ in range(args.steps)]
        contenders = {name: Contender(model, batch, args.units, 128) for name, model in models.items()}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, contender in contenders.items():
                found[name].append(contender.time(inputs))
        medians = {name: statistics.median(times) for name, times in found.items()}
        for name, seconds in medians.items():
            ratio = medians["float LSTM"] / seconds
            lines.append(f"{batch:>5}  {name:20}  {seconds * 1e6:>9.0f}  {ratio:>10.2f}")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
