"""nn.Module → float graph, by torch.export and one pass of abstract interpretation.

The exported graph is walked once.  Every traced value is either a real activation, a sequence
length, an index over time, a mask over time, a constant, or a size; each ATen operator maps kinds
to kinds.  So idioms are recognised by meaning and not by spelling: ``x * mask``,
``masked_fill`` and ``where`` all become ``mask_time``, and a masked sum divided by a length becomes
``mean_time``, however the mask was reshaped on its way.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import config

from zeroq_asr.capture import dispatch
from zeroq_asr.capture.dispatch import supported
from zeroq_asr.capture.rotary_positions import collect, of_time_index, settle
from zeroq_asr.capture.tracer import Lengths, Real, TimeMajor, Tracer
from zeroq_asr.errors import CaptureError, UnsupportedOperatorError
from zeroq_asr.graph.canonicalize import canonicalize
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.lines import shorten
from zeroq_asr.registry import OPERATORS, operator_of

#: largest difference allowed between the module and its captured graph, relative to the logits' spread
TOLERANCE = 1e-3


def capture(
    network: nn.Module,
    example: tuple[torch.Tensor, torch.Tensor],
    name: str = "network",
    *,
    allow_float: bool = False,
) -> FloatGraph:
    """Trace ``network(features [B, M, T], lengths [B])`` → (logits [B, S, V], lengths [B]).

    Returns the canonical graph, checked against the module on the example.  Raises CaptureError if
    torch.export refuses the module or the graph does not compute what the module computes, and
    UnsupportedOperatorError, with the layer's path, for an operator without a lowering.  ``allow_float``:
    such an operator becomes an ``aten`` node, to be kept in float, if it may be (``Operator.capture_call``).
    """
    _require_inference(network, name)
    with _uncollected():
        exported = _export(network, example, name)
        for node in exported.graph.nodes:
            if _is_training(node):
                raise CaptureError(
                    name, f"the network is in training mode ({node.target})", "call network.eval() first"
                )
        graph = canonicalize(_interpret(exported, name, allow_float))
        for node in graph.nodes:
            if operator_of(node).meaning is None:  # a padding that no convolution absorbed
                raise unsupported(node.where or node.out, node.op)
        _check(network, graph, example, name)
    return graph


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Let no garbage be collected: of the millions of objects of a trace, almost all are in use to its end.

    Looking for those that are not takes a quarter of a Conformer's capture.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _require_inference(network: nn.Module, name: str) -> None:
    """Raise CaptureError where a layer computes something else in training, and is in it."""
    for layer, module in network.named_modules():
        if module.training and _differs_in_training(module):
            kind = type(module).__name__
            raise CaptureError(
                name, f"the network is in training mode ({kind} {layer})", "call network.eval() first"
            )


def _differs_in_training(module: nn.Module) -> bool:
    """Tell whether a layer of torch drops values, or takes the statistics of its input."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm) and (
        module.track_running_stats
    )


def _export(network: nn.Module, example: tuple[torch.Tensor, torch.Tensor], name: str) -> Any:
    auto = torch.export.Dim.AUTO
    try:
        with _quiet(), _without_stacks(), torch.no_grad():
            exported = torch.export.export(
                network, example, dynamic_shapes=({0: auto, 2: auto}, {0: auto}), strict=False
            )
            # an operator that writes in place changes every other name of the same memory
            if any(_writes_in_place(node) for node in exported.graph.nodes):
                exported = exported.run_decompositions({})
            return exported
    except Exception as error:  # torch.export raises whatever the traced code raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            name,
            f"torch.export cannot trace the network ({reason})",
            "forward(features, lengths) must be free of data-dependent control flow",
        ) from error


@contextlib.contextmanager
def _without_stacks() -> Iterator[None]:
    """Let torch, where it can, not note the lines of code that a node came from, which nothing here reads."""
    name = "do_not_emit_stack_traces"
    before = getattr(config, name, None)  # None: a release that has no such choice
    if before is not None:
        setattr(config, name, True)
    try:
        yield
    finally:
        if before is not None:
            setattr(config, name, before)


def _is_training(node: Any) -> bool:
    """Tell whether a call of an operator says that it is one of training: functions of dropout, of norms."""
    schema = getattr(node.target, "_schema", None)
    for place, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.name in ("train", "training"):
            return bool((*node.args, *[None] * place)[place] or node.kwargs.get(argument.name))
    return False


def _writes_in_place(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs and warns about matters of its own; errors still arrive as exceptions."""
    root = logging.getLogger("torch")
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)


def prepared_graph(graph: FloatGraph) -> FloatGraph:
    """Return a graph of the same function that can be calibrated: every operator's ``rewrite`` is applied."""
    for operator in [*OPERATORS.values()]:
        if operator.rewrite is not None:
            graph = operator.rewrite(graph)
    return graph


def _interpret(exported: Any, name: str, allow_float: bool) -> FloatGraph:
    tracer = Tracer(exported)
    outputs: list[Any] = []

    def output(node: Any) -> None:
        settle(tracer, node)
        outputs.extend(tracer.env.get(n) for n in node.args[0])

    def call(node: Any) -> None:
        tracer.enter(node)
        result = _meaning(tracer, node)
        if result is NotImplemented:
            keep = next((o.capture_call for o in OPERATORS.values() if o.capture_call), None)
            if not allow_float or keep is None:
                turned = any(isinstance(one, TimeMajor) for one in tracer.arguments(node))
                raise unsupported(tracer.where or node.name, str(node.target), tracer.kind, time_major=turned)
            result = keep(tracer, node)
        tracer.env[node] = result

    #: what becomes of the nodes of an exported graph, by their kind
    steps = {"placeholder": tracer.placeholder, "output": output, "call_function": call}
    for node in exported.graph.nodes:
        if (step := steps.get(node.op)) is None:
            raise unsupported(node.name, node.op)
        step(node)
    if len(outputs) != 2:
        raise CaptureError(
            name,
            f"the network returns {len(outputs)} values, expected (logits [B, S, V], lengths [B])",
            "wrap it so that forward(features, lengths) returns both",
        )
    logits, lengths = outputs
    if not isinstance(logits, Real) or not logits.frames_first:
        raise CaptureError(name, "the first result must be logits [B, S, V], frames before tokens")
    if not isinstance(lengths, Lengths):
        raise CaptureError(
            name,
            "the second result must be the lengths [B] of the logits, computed from the input lengths",
            "return them as whole numbers, divided by // where the network strides",
        )
    return tracer.finish(logits, lengths)


def _meaning(tracer: Tracer, node: Any) -> Any:
    """The kind of what ``node`` makes; NotImplemented if it has no meaning here."""
    if tracer.is_constant(node):
        try:
            return tracer.evaluate(node)
        except MemoryError:
            raise
        except Exception as error:  # whatever an operator raises of the weights' values
            reason = shorten((str(error).splitlines() or [type(error).__name__])[0], 200)
            raise CaptureError(
                node.name, f"{node.target} of constants fails ({reason})", "repair it"
            ) from error
    if tracer.is_of_frames(node):
        return tracer.of_frames(node)
    result = collect(tracer, node, begun=True)
    if result is NotImplemented:
        settle(tracer, node)
        target = getattr(node.target, "overloadpacket", node.target)
        name = getattr(target, "__name__", str(target))
        result = NotImplemented
        if dispatch.known(name):
            result = dispatch.meaning(tracer, name, tracer.arguments(node))
    if result is NotImplemented:
        result = of_time_index(tracer, node)
    return collect(tracer, node) if result is NotImplemented else result


def unsupported(
    where: str, operator: str, layer: str = "", *, time_major: bool = False
) -> UnsupportedOperatorError:
    """Error for an operator that no handler covers, or not as it is used here, listing those covered.

    ``time_major``: it reads activations [T, B, C].
    """
    name = operator.removeprefix("aten.").partition(".")[0]
    reason = "has no integer lowering"
    if dispatch.known(name):
        reason = "is used in a way that has no integer lowering (its operands, axes or options)"
    remedy = "--allow-float keeps others in float"
    if time_major:
        reason = "reads activations with time in front of the batch, which an LSTM alone may"
        remedy = "write it over [B, T, C] or [B, C, T]"
    return UnsupportedOperatorError(
        where,
        f"operator {operator}{f' (in {layer})' if layer else ''} {reason}",
        f"{supported()}; {remedy}",
    )


def _check(
    network: nn.Module, graph: FloatGraph, example: tuple[torch.Tensor, torch.Tensor], name: str
) -> None:
    with torch.inference_mode():
        try:
            results = network(*example)
        except MemoryError:
            raise
        except Exception as problem:  # whatever the network raises
            reason = shorten((str(problem).splitlines() or [type(problem).__name__])[0], 200)
            raise CaptureError(
                name, f"the network fails on an example ({reason})", "try it by itself"
            ) from problem
        if not isinstance(results, (tuple, list)) or not all(isinstance(r, torch.Tensor) for r in results):
            raise CaptureError(name, "the network must return the tensors (logits [B, S, V], lengths [B])")
        expected, expected_lengths = results[0].float(), results[1]
        found, lengths = graph.run(example[0].float(), example[1])
    if found.shape != expected.shape or not torch.equal(lengths, expected_lengths.to(lengths.dtype)):
        raise CaptureError(
            name,
            f"captured shape {tuple(found.shape)} differs from {tuple(expected.shape)} or lengths differ",
        )
    # frames beyond an utterance's length mean nothing and may differ
    valid = torch.arange(expected.shape[1])[None, :] < lengths[:, None]
    # a trailing log-softmax was left out: compare up to a constant a frame
    expected, found = expected - expected.mean(-1, keepdim=True), found - found.mean(-1, keepdim=True)
    if not bool(torch.isfinite(expected[valid]).all()):
        raise CaptureError(
            name, "the network's own logits are not finite", "check its weights, and the frontend"
        )
    distance = float((expected - found).abs()[valid].max())
    spread = float(expected.abs()[valid].max())
    if not distance <= TOLERANCE * max(spread, 1e-6):
        raise CaptureError(
            name,
            f"the captured graph differs from the network by {distance:.3g} (logits reach {spread:.3g})",
            "the network does something that the capture misread; please report its layers",
        )
