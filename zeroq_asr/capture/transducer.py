"""The parts of a transducer as float graphs, whose ports fit each other.

The encoder is traced as any network is.  Predictor and joiner are few layers of known kinds, which are
written down: one step of the predictor, with its LSTM's states as ports, and one pair of encoding and
prediction.

Shapes: B batch, M mels, T input frames, S encoded frames, J joint width, H units of the LSTM, P labels that
are read at once, V tokens without the blank, K durations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zeroq_asr.architectures.transducer import (
    Joiner,
    LstmPredictor,
    Predictor,
    StatelessPredictor,
    Transducer,
)
from zeroq_asr.capture.capture import TOLERANCE, capture
from zeroq_asr.decoding.ports import CELL, ENCODED, ENCODED_LENGTHS, HIDDEN, LABELS, LOGITS, PREDICTED
from zeroq_asr.errors import CaptureError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode, FloatState

#: modules of a joiner's activation → the operator they are
_ACTIVATIONS = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
#: pairs that joiners are compared on, and steps that predictors are
_PAIRS, _STEPS = 3, 4


@dataclass(frozen=True)
class TransducerGraphs:
    """The float graphs of a transducer.

    The encoder takes features [B, M, T] and lengths [B], and gives ``encoded`` [B, J, S] and
    ``encoded_lengths`` [B].  The predictor takes ``labels`` [B, P, 1], and gives ``predicted`` [B, J, 1].
    The joiner takes these two, of one frame, and gives ``logits`` [B, V + 1 + K, 1].
    """

    encoder: FloatGraph
    predictor: FloatGraph
    joiner: FloatGraph
    #: P
    context: int


def capture_transducer(
    network: Transducer, example: tuple[Tensor, Tensor], name: str = "transducer"
) -> TransducerGraphs:
    """Return the parts of a transducer as float graphs, each checked against its module.

    ``example``: features [B, M, T] and lengths [B].  Raises CaptureError, or UnsupportedOperatorError, where
    a part cannot be captured.
    """
    encoder = _encoder(capture(network.encoder, example, f"{name}.encoder"))
    predictor, joiner = _predictor(network.predictor, name), _joiner(network.joiner, name)
    graphs = TransducerGraphs(encoder, predictor, joiner, _context(network.predictor))
    _check_predictor(network.predictor, graphs, name)
    _check_joiner(network.joiner, graphs.joiner, name)
    return graphs


def _encoder(graph: FloatGraph) -> FloatGraph:
    """The graph without its last node, which turns the encoding to [B, S, J]."""
    *nodes, turn = graph.nodes
    encoded, lengths = graph.outputs
    if (turn.op, turn.out) != ("transpose", encoded):
        raise CaptureError(encoded, f"ends in {turn.op}, the turn of its axes was expected")
    return replace(
        graph, nodes=nodes, outputs=(turn.ins[0], lengths), output_ports=(ENCODED, ENCODED_LENGTHS)
    )


def _linear(out: str, source: str, layer: nn.Linear) -> FloatNode:
    """A linear layer of every frame."""
    weight = layer.weight.detach().float()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()
    layout = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": 1}
    return FloatNode("conv1d", out, (source,), {"weight": weight[:, :, None], "bias": bias, **layout}, out)


def _context(predictor: Predictor) -> int:
    return len(predictor.embeddings) if isinstance(predictor, StatelessPredictor) else 1


def _blank(predictor: Predictor) -> int:
    """The last label that a predictor has a row for."""
    if isinstance(predictor, StatelessPredictor):
        return predictor.blank
    assert isinstance(predictor, LstmPredictor)
    return predictor.embedding.num_embeddings - 1


def _predictor(predictor: Predictor, name: str) -> FloatGraph:
    states: list[FloatState] = []
    if isinstance(predictor, LstmPredictor):
        nodes = _embeddings([predictor.embedding])
        nodes += _steps(predictor.lstm, nodes[-1].out, states, name)
    elif isinstance(predictor, StatelessPredictor):
        tables = [one for one in predictor.embeddings if isinstance(one, nn.Embedding)]
        nodes = _embeddings(tables)
        if isinstance(predictor.norm, nn.LayerNorm):
            width = predictor.projection.in_features
            attrs = {"weight": torch.ones(width), "bias": torch.zeros(width), "epsilon": predictor.norm.eps}
            nodes.append(FloatNode("layer_norm", "norm", (nodes[-1].out,), attrs, "norm"))
    else:
        problem = f"{type(predictor).__name__} has no integer form"
        raise CaptureError(name, problem, "an LSTM and a predictor without memory have")
    nodes.append(_linear("projection", nodes[-1].out, predictor.projection))
    return FloatGraph((LABELS,), ("projection",), nodes, (PREDICTED,), tuple(states), single=(LABELS,))


def _embeddings(tables: list[nn.Embedding]) -> list[FloatNode]:
    """Tables of the labels that stand beside each other, and what joins them."""
    weights = [table.weight.detach().float() for table in tables]
    reach = min(float(w.min()) for w in weights), max(float(w.max()) for w in weights)
    names = [f"embedding.{place}" if len(tables) > 1 else "embedding" for place in range(len(tables))]
    nodes = [
        FloatNode("embedding", name, (LABELS,), {"weight": weight, "place": place, "reach": reach}, name)
        for place, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]
    joined = names[0]
    for place, name in enumerate(names[1:], start=1):
        nodes.append(FloatNode("join", f"embeddings.{place}", (joined, name), {}, "embeddings"))
        joined = nodes[-1].out
    return nodes


def _steps(lstm: nn.LSTM, x: str, states: list[FloatState], name: str) -> list[FloatNode]:
    """A step of every layer of an LSTM; their states are appended."""
    if lstm.proj_size or lstm.bidirectional:
        problem = "an LSTM with a projection (proj_size), or of both directions, makes no step"
        raise CaptureError(name, problem, "leave that out")
    nodes = []
    for layer in range(lstm.num_layers):
        weights = dict(lstm.named_parameters())
        weight, recurrent = (weights[f"weight_{kind}_l{layer}"].detach().float() for kind in ("ih", "hh"))
        biases = [weights[f"bias_{kind}_l{layer}"].detach().float() for kind in ("ih", "hh") if lstm.bias]
        attrs = {"weight": weight, "recurrent": recurrent, "bias": sum(biases, torch.zeros(len(weight)))}
        out, where = f"lstm.{layer}", f"lstm.{layer}"
        ins, outs = (x, HIDDEN.format(layer), CELL.format(layer)), (out, f"{out}:cell")
        nodes.append(FloatNode("lstm_step", out, ins, attrs, where, others=outs[1:]))
        states += [
            FloatState(enters, enters, leaves, ("batch", lstm.hidden_size, 1))
            for enters, leaves in zip(ins[1:], outs, strict=True)
        ]
        x = out
    return nodes


def _joiner(joiner: Joiner, name: str) -> FloatGraph:
    activation = joiner.activation
    rectifies = isinstance(activation, nn.ReLU)
    total = FloatNode("add", "sum", (ENCODED, PREDICTED), {"clamp": (0.0, None)} if rectifies else {}, "sum")
    nodes = [total]
    if not rectifies:
        op = _ACTIVATIONS.get(type(activation))
        if op is None:
            known = ", ".join(("ReLU", *(kind.__name__ for kind in _ACTIVATIONS)))
            problem = f"the activation of its joiner, {type(activation).__name__}, is not supported"
            raise CaptureError(name, problem, f"supported: {known}")
        nodes.append(FloatNode(op, "activation", (total.out,), {}, "activation"))
    nodes.append(_linear("output", nodes[-1].out, joiner.output))
    both = (ENCODED, PREDICTED)
    return FloatGraph(both, ("output",), nodes, (LOGITS,), single=both)


# -- checks ----------------------------------------------------------------------------------------


def _check_predictor(predictor: Predictor, graphs: TransducerGraphs, name: str) -> None:
    """Require the steps of a graph to give what the module gives, label by label."""
    graph, blank = graphs.predictor, _blank(predictor)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, blank + 1, (_STEPS, 2), generator=generator)
    seen = torch.full((graphs.context, 2), blank, dtype=torch.int64)
    states = [torch.zeros(2, *state.dims[1:]) for state in graph.states]  # type: ignore[arg-type]
    with torch.inference_mode():
        state = predictor.start(2)
        for row in labels:
            expected, state = predictor(row, state)
            # the latest first
            seen = torch.cat((row[None], seen[:-1]))
            found, *states = graph.run(seen.T[:, :, None], *states)
            _require_alike(expected[:, :, None], found, f"{name}.predictor")


def _check_joiner(joiner: Joiner, graph: FloatGraph, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    width = joiner.output.in_features
    encoded, predicted = (torch.randn(_PAIRS, width, generator=generator) for _ in range(2))
    with torch.inference_mode():
        expected = joiner(encoded, predicted)
        (found,) = graph.run(encoded[:, :, None], predicted[:, :, None])
    _require_alike(expected[:, :, None], found, f"{name}.joiner")


def _require_alike(expected: Tensor, found: Tensor, where: str) -> None:
    if not bool(torch.isfinite(expected).all()):
        raise CaptureError(where, "gives what is not finite", "check its weights")
    spread = max(float(expected.abs().max()), 1e-6)
    distance = float((expected - found).abs().max()) if expected.shape == found.shape else float("inf")
    if not distance <= TOLERANCE * spread:
        problem = f"the captured graph differs from the network by {distance:.3g} (it reaches {spread:.3g})"
        raise CaptureError(where, problem, "the capture misread it; please report its layers")
