"""How long one step of an LSTM takes: our integers, ONNX Runtime's float LSTM, and its DynamicQuantizeLSTM.

    python benchmarks/lstm.py --units 640 --layers 2 --out benchmarks/results/lstm.txt
    python benchmarks/lstm.py --units 160 --labels 129 --out benchmarks/results/lstm-labels.txt

With ``--labels`` an embedding of so many labels stands in front, as in a transducer's predictor: fused as it
is, against the same with layer 0's product with the embedding looked up by label, in a table that ONNX
Runtime makes as it loads the file, or that the file stores.

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
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from zeroq_asr.config import QuantSpec
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, FloatState
from zeroq_asr.graph.onnx_writer import Writer, spell
from zeroq_asr.graph.shapes import infer
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.lowering.lower import lower

Feeds = dict[str, np.ndarray]


def step_graph(layers: int, units: int, labels: int = 0, seed: int = 0) -> FloatGraph:
    """Layers of an LSTM, one step: x [B, H, 1] → h of the last layer; every h and c is a state.

    ``labels``: x is an integer [B, 1, 1], which of so many rows of an embedding enters; 0: it is what enters.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / units**0.5

    nodes, states, x = [], [], "x"
    if labels:
        table = {"weight": 3 * units**0.5 * uniform(labels, units), "place": 0, "reach": (-3.0, 3.0)}
        nodes, x = [FloatNode("embedding", "embedding", ("x",), table, "embedding")], "embedding"
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
    one = {"x": ["batch", 1, 1]} if kinds["x"] == TensorProto.INT32 else {}
    nodes = [*nodes, *(helper.make_node("Identity", [made[v]], [name]) for v, name in leaves.items())]
    made = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info(name, kinds[name], one.get(name, dims)) for name in graph.entering],
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


def integer_model(graph: FloatGraph, units: int, dialect: str, labels: int = 0) -> bytes:
    """The step in integers, x float32 as it enters, or one of so many labels."""
    cells = {name: (-4.0, 4.0) for s in graph.states if s.name[0] == "c" for name in (s.enters, s.leaves)}
    program = lower(
        graph,
        {"x": (-3.0, 3.0), **cells},
        QuantSpec(),
        channels={"x": 1 if labels else units},
        max_frames=1,
        fixed={"x": ValueInfo("int32", 1.0, 0, 0, labels - 1)} if labels else None,
    )
    backend = (OnnxFusedBackend if dialect == "fused" else OnnxStrictBackend)("x86-any")
    results = build(backend, program)
    ports = [*program.inputs, *program.states]
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}
    kinds = {port.name: int(types[port.type]) for port in ports}
    kinds |= {s.leaves: int(types[s.type]) for s in program.states}
    nodes = list(backend.nodes)
    made = dict(zip(program.leaving, (v.name for v in results), strict=True))
    return _model(nodes, [*backend.initializers.values()], graph, kinds, made, units)


def looked_up(step: bytes, units: int, labels: int, stored: bool) -> bytes:
    """A fused step that reads what a label gives the gates of layer 0 in a table [labels, 4 · units].

    ``stored``: the file has it; else nodes of constants make it.
    """
    model = onnx.load_from_string(step)
    nodes = [*model.graph.node]
    first = next(n for n, node in enumerate(nodes) if "x" in node.input)
    product = next(n for n, node in enumerate(nodes) if node.op_type == "MatMulInteger")
    _, weight, zero_x, zero_w = nodes[product].input
    given, bias = nodes[product + 1].output[0], nodes[product + 1].input[1]
    entries = next(node.input[0] for node in nodes[first:] if node.op_type == "GatherElements")
    made = [
        helper.make_node("Reshape", [entries, "rows"], ["embedding/rows"]),
        helper.make_node("MatMulInteger", ["embedding/rows", weight, zero_x, zero_w], ["embedding/given"]),
        helper.make_node("Add", ["embedding/given", bias], ["table"]),
    ]
    numbers = {"rows": np.array([labels, units]), "column": np.array([-1, 1])}
    ahead = nodes[:first]
    read = [
        helper.make_node("Reshape", ["x", "column"], ["x/column"]),
        helper.make_node("Gather", ["table", "x/column"], [given], axis=0),
    ]
    if stored:
        out = helper.make_tensor_value_info("table", TensorProto.INT32, None)
        constants = [*model.graph.initializer, *map(_stored, numbers.items())]
        graph = helper.make_graph([*ahead, *made], "table", [], [out], constants)
        opsets = [*model.opset_import]
        whole = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        numbers["table"] = onnxruntime.InferenceSession(whole, _options()).run(None, {})[0]
        made = []
    kept = [*ahead, *made, *read, *nodes[product + 2 :]]
    for node in reversed([*kept]):
        if not any(name in other.input for other in kept for name in node.output) and not any(
            value.name in node.output for value in model.graph.output
        ):
            kept.remove(node)
    taken = {name for node in kept for name in node.input}
    constants = [
        one for one in (*model.graph.initializer, *map(_stored, numbers.items())) if one.name in taken
    ]
    for field, value in (("node", kept), ("initializer", constants), ("value_info", [])):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(value)
    return model.SerializeToString()


def _stored(named: tuple[str, np.ndarray]) -> onnx.TensorProto:
    return numpy_helper.from_array(named[1], named[0])


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


class Contender:
    """A session whose states are carried from step to step."""

    def __init__(self, model: bytes, batch: int, units: int, hidden: int) -> None:
        begun = time.process_time()
        self.session = onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        #: seconds of the process, and bytes
        self.load, self.size = time.process_time() - begun, len(model)
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
    parser.add_argument("--labels", type=int, default=0, help="an embedding of so many in front")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    graph = step_graph(args.layers, args.units, args.labels)
    if args.labels:
        fused = integer_model(graph, args.units, "fused", args.labels)
        models = {"fused": fused}
        for name, stored in (("table made", False), ("table stored", True)):
            models[name] = looked_up(fused, args.units, args.labels, stored)
    else:
        floats = float_model(graph, args.units)
        models = {"float LSTM": floats, "DynamicQuantizeLSTM": dynamic_model(floats)}
        models["fused"] = integer_model(graph, args.units, "fused")
        if args.strict:
            models["strict"] = integer_model(graph, args.units, "strict")
    base = next(iter(models))
    lines = [
        f"One step of {args.layers} x {args.units} units, one thread, "
        f"ONNX Runtime {onnxruntime.__version__}; "
        f"median of {args.rounds} rounds of {args.steps} steps; load average {os.getloadavg()[0]:.1f} "
        f"on {os.cpu_count()} cores",
        f"{'batch':>5}  {'':20}  {'us a step':>9}  {base.split()[0] + ' / it':>10}"
        + (f"  {'kB':>6}  {'ms to load':>10}" if args.labels else ""),
    ]
    generator = np.random.default_rng(0)
    for batch in args.batch:
        shape = (batch, args.units, 1)
        inputs = [generator.standard_normal(shape).astype(np.float32) for _ in range(args.steps)]
        if args.labels:
            inputs = [
                generator.integers(0, args.labels, (batch, 1, 1), dtype=np.int32) for _ in range(args.steps)
            ]
        contenders = {name: Contender(model, batch, args.units, 128) for name, model in models.items()}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, contender in contenders.items():
                found[name].append(contender.time(inputs))
        medians = {name: statistics.median(times) for name, times in found.items()}
        for name, seconds in medians.items():
            line = f"{batch:>5}  {name:20}  {seconds * 1e6:>9.0f}  {medians[base] / seconds:>10.2f}"
            one = contenders[name]
            lines.append(line + (f"  {one.size / 1e3:>6.0f}  {one.load * 1e3:>10.0f}" if args.labels else ""))
        # a table gives what the product does
        for name in models if args.labels else ():
            for state, array in contenders[base].states.items():
                assert np.array_equal(array, contenders[name].states[state]), (name, state)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
