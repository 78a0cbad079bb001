"""The ports of a program, from those of the float graph that it is lowered from."""

from __future__ import annotations

from collections.abc import Mapping

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.program import Port, StatePort, ValueInfo, ctc_ports

#: port of the scores of a CTC network
LOGITS = "logits"

Ports = tuple[Port, ...]


def ports_of(
    graph: FloatGraph,
    shapes: Mapping[str, Shape],
    values: Mapping[str, ValueInfo],
) -> tuple[Ports, Ports]:
    """Return the inputs and outputs of the program of a graph.

    ``values``: value → its integer format; a real input that has none enters as features.  A graph of
    features and lengths that gives logits and lengths has the ports of a CTC network; another has those that
    it names.
    """
    lengths = [shapes[name].lengths for name in (*graph.inputs, *graph.outputs)]
    if lengths == [False, True, False, True] and graph.output_ports[0] == LOGITS and not graph.states:
        features, count = graph.inputs
        logits, encoded = graph.outputs
        mels, tokens = (shapes[name].channels or 0 for name in (features, logits))
        return ctc_ports(mels, tokens, features=features, lengths=count, logits=logits, encoded=encoded)
    frames: dict[object, str] = {}

    def port(name: str, value: str, type: str, lo: int, hi: int) -> Port:
        shape = shapes[value]
        if shape.lengths:
            return Port(name, value, "int64", ("batch",))
        # values of equally many frames share the name of that extent
        extent: int | str = 1
        if shape.history is not None or not graph.single:
            extent = frames.setdefault(shape.history, f"frames{len(frames) + 1}" if frames else "frames")
        channels = "channels" if shape.channels is None else shape.channels
        dims = ("batch", channels, extent, "bins") if shape.image else ("batch", channels, extent)
        return Port(name, value, type, dims, lo, hi)

    def entering(name: str) -> Port:
        info = values.get(name)
        return port(name, name, *(("float32", 0, 0) if info is None else (info.type, info.lo, info.hi)))

    inputs = tuple(map(entering, graph.inputs))
    outputs = []
    for name, value in zip(graph.output_ports, graph.outputs, strict=True):
        info = values.get(value)
        if info is None and not shapes[value].lengths:
            raise UnsupportedOperatorError(value, "leaves as it entered", "let a node make what leaves")
        outputs.append(
            port(name, value, *(("int64", 0, 0) if info is None else (info.type, info.lo, info.hi)))
        )
    return inputs, tuple(outputs)


def states_of(graph: FloatGraph, values: Mapping[str, ValueInfo]) -> tuple[StatePort, ...]:
    """Return the state ports of the program of a graph, each of the format of what leaves.

    Raises UnsupportedOperatorError where an operator chose another format for it than what enters has.
    """
    found = []
    for state in graph.states:
        info, entered = values[state.leaves], values[state.enters]
        if info != entered:
            problem = f"state {state.name} leaves as {info}, and enters as {entered}"
            raise UnsupportedOperatorError(
                state.leaves, problem, "let an addition or a product make what leaves"
            )
        initial = min(max(round(state.initial / info.scale) + info.zero_point, info.lo), info.hi)
        leaves, enters = state.leaves, state.enters
        found.append(StatePort(state.name, enters, leaves, info.type, state.dims, info.lo, info.hi, initial))
    return tuple(found)
