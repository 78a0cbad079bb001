"""The interpreters of a program, each giving its integers by the names of the program's values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

from zeroq_asr.deployment.export import Export, export
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import Sym, type_of
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program

Array = np.ndarray
#: value of the program → its integers, in whatever type they are carried
Values = dict[str, Array]
LEVELS = {
    name.removeprefix("ORT_").removeprefix("ENABLE_").removesuffix("_ALL").lower(): level
    for name, level in onnxruntime.GraphOptimizationLevel.__members__.items()
}
DIALECTS: dict[str, type[OnnxStrictBackend]] = {"strict": OnnxStrictBackend, "fused": OnnxFusedBackend}
#: other ways of running a file
OTHERS: dict[str, dict[str, Any]] = {
    "2 threads that spin": {"threads": 2, "spin": True},
    "no arena, nodes in parallel": {"parallel": True},
    "bound buffers": {"bound": True},
    "strided inputs": {"strided": True},
}


@dataclass(frozen=True)
class Interpreter:
    name: str
    option: str
    run: Callable[[Array, Array], Values]
    #: whether it gives all values, and not only what leaves the program
    inside: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}, {self.option}{', all values' if self.inside else ''}"


def keeping(backend: type[Any]) -> type[Any]:
    """A backend that keeps every result by its name in ``kept``."""

    class Keeping(backend):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.kept: dict[str, Any] = {}

        def instruction(self, i: Any, operands: list[Any]) -> Any:
            results = super().instruction(i, operands)
            self.kept.update(zip(i.outs, results, strict=True))
            return results

    return Keeping


_Numpy, _Torch = keeping(NumpyBackend), keeping(TorchBackend)


def reference(program: Program, features: Array, lengths: Array) -> Values:
    """Every value of a program, as numpy computes it."""
    backend = _Numpy()
    results = program.run(backend, features, lengths)
    return {**backend.kept, **dict(zip(program.leaving, results, strict=True))}


def interpreters(program: Program, deployment: Deployment, turn: int) -> Iterator[Interpreter]:
    """All interpreters but the reference.

    A file is opened at every level of optimization, by turns with one thread and two, and with one of
    ``OTHERS``: programs of eight ``turn``s have had all of them.
    """
    for int8 in (False, True):
        yield Interpreter(
            "torch", "int8 products" if int8 else "float carriers", _simulation(program, int8), inside=True
        )
    for dialect in DIALECTS:
        exported = export(program, deployment, dialect)
        data = exported.to_bytes()
        for k, level in enumerate(LEVELS):
            threads = 1 + (turn + k) % 2
            run = _session(program, data, level=level, threads=threads)
            yield Interpreter(dialect, f"{level}, {threads} thread{'s' * (threads > 1)}", run)
        other = [*OTHERS][turn // 2 % len(OTHERS)]
        yield Interpreter(dialect, f"all, {other}", _session(program, data, **OTHERS[other]))
        opened, symbols = with_all_values(program, exported, dialect)
        for level, threads in (("disable", 1), ("all", 2)):
            run = _session(program, opened, level=level, threads=threads, symbols=symbols)
            yield Interpreter(dialect, f"{level}, {threads} thread{'s' * (threads > 1)}", run, inside=True)
    machine = this_machine()
    if machine.exact_at_full_range:
        target = "arm" if machine.architecture == "arm" else "x86-vnni"
        data = export(program, deployment, "fused", target).to_bytes()
        yield Interpreter("fused", f"all, for {target}", _session(program, data))


def _simulation(program: Program, int8: bool) -> Callable[[Array, Array], Values]:
    backend = _Torch(int8=int8)

    @torch.inference_mode()
    def run(features: Array, lengths: Array) -> Values:
        backend.kept.clear()
        results = program.run(backend, torch.from_numpy(features), torch.from_numpy(lengths))
        kept = {**backend.kept, **dict(zip(program.leaving, results, strict=True))}
        return {name: value.numpy() for name, value in kept.items()}

    return run


def with_all_values(program: Program, exported: Export, dialect: str) -> tuple[bytes, dict[str, Sym]]:
    """The file with every value of the program as an output "value K" more; the tensors, in that order."""
    backend = keeping(DIALECTS[dialect])()
    build(backend, program)
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    if list(model.graph.node[: len(backend.nodes)]) != list(backend.nodes):
        raise AssertionError("the nodes whose results are kept are not those of the file")
    for k, symbol in enumerate(backend.kept.values()):
        model.graph.node.append(helper.make_node("Identity", [symbol.name], [f"value {k}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"value {k}", type_of(symbol), None))
    return model.SerializeToString(), backend.kept


def _session(
    program: Program,
    data: bytes,
    *,
    level: str = "all",
    threads: int = 1,
    spin: bool = False,
    parallel: bool = False,
    bound: bool = False,
    strided: bool = False,
    symbols: dict[str, Sym] | None = None,
) -> Callable[[Array, Array], Values]:
    """Run a file: ``symbols`` are the tensors of its outputs "value K".

    ``parallel``: no arena and no plan of memory, and nodes that do not depend on each other side by side.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    if parallel:
        options.enable_mem_pattern = options.enable_cpu_mem_arena = options.enable_mem_reuse = False
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = 2
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in program.outputs]
    wanted = [*names, *(f"value {k}" for k in range(len(symbols or {})))]

    def run(features: Array, lengths: Array) -> Values:
        feed = {"audio_signal": features, "length": lengths}
        if strided:
            feed = {"audio_signal": np.asfortranarray(features), "length": np.repeat(lengths, 2)[::2]}
        if bound:
            binding = session.io_binding()
            for name, array in feed.items():
                binding.bind_cpu_input(name, array)
            for name in wanted:
                binding.bind_output(name)
            session.run_with_iobinding(binding)
            found = binding.copy_outputs_to_cpu()
        else:
            found = session.run(wanted, feed)
        values = {
            name: array.swapaxes(1, 2) if symbol.frames_first else array
            for (name, symbol), array in zip((symbols or {}).items(), found[len(names) :], strict=True)
        }
        return {**values, **dict(zip(program.leaving, found[: len(names)], strict=True))}

    return run
