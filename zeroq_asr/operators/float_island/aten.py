"""ATen operators that no handler covers, kept in float as they are: ``--allow-float``.

A call keeps the operator with its constant arguments, and the layouts in which the network was traced.  What
it may be is narrow enough to know what comes out of it: from activations [B, C, T] or [B, T, C] to one such,
of the same utterances and frames, that depends on no frame to come, and for every utterance on its own frames
alone.  Padded frames then reach no valid one, however the operator mixes channels and earlier frames.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from zeroq_asr.capture.tracer import Real, Tracer
from zeroq_asr.errors import ConfigError, UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatNode
from zeroq_asr.graph.onnx_writer import Writer
from zeroq_asr.graph.shapes import Shape
from zeroq_asr.integer.backends.onnxruntime_bodies import IR_VERSION, OPSET, encode, evaluate
from zeroq_asr.registry import Operator, Traits, register

#: largest difference allowed between an operator and its ONNX form, relative to the largest result
TOLERANCE = 1e-4
#: what is called: an operator of ATen
Target = Callable[..., Any]
#: its arguments, a place for every activation
Args = tuple[object, ...]
Kwargs = Mapping[str, object]
#: sizes that calls are tried at, (utterances, frames): unlike each other, and unlike any example's
_TRIED = (2, 12), (3, 7)


@dataclass(frozen=True)
class _Operand:
    """The place of an activation among the operands."""

    place: int


@dataclass(frozen=True, eq=False)
class AtenCall:
    """``target(*args, **kwargs)`` with activations [B, C, T] where ``args`` and ``kwargs`` hold places."""

    target: Target
    args: Args
    kwargs: Kwargs
    #: of every operand: whether it was traced as [B, T, C]
    frames_first: tuple[bool, ...]
    result_frames_first: bool
    #: its export, which takes the operands and gives the result as they were traced
    onnx: onnx.ModelProto

    def __call__(self, *xs: Tensor) -> Tensor:
        """Compute the result [B, C, T]."""
        traced = [x.transpose(1, 2) if first else x for x, first in zip(xs, self.frames_first, strict=True)]
        result = _called(self.target, self.args, self.kwargs, traced)
        return result.transpose(1, 2) if self.result_frames_first else result


def _called(target: Target, args: Args, kwargs: Kwargs, traced: list[Tensor]) -> Any:
    def filled(value: object) -> object:
        if isinstance(value, _Operand):
            return traced[value.place]
        if isinstance(value, Tensor) and traced:
            return value.to(traced[0].device)
        return type(value)(map(filled, value)) if isinstance(value, list | tuple) else value

    return target(*map(filled, args), **{name: filled(value) for name, value in kwargs.items()})


class _Calling(nn.Module):
    """A module that is one call."""

    def __init__(self, target: Target, args: Args, kwargs: Kwargs) -> None:
        super().__init__()
        self._call = target, args, kwargs

    def forward(self, *traced: Tensor) -> Any:
        """Call."""
        return _called(*self._call, [*traced])


def float_call(tracer: Tracer, node: fx.Node) -> Real:
    """Emit an ``aten`` node for the exported ``node`` and return its result.

    Raises UnsupportedOperatorError, saying why, for an operator that cannot be kept in float, and ConfigError
    where the ONNX exporter of PyTorch lacks the package that it needs.
    """

    def refuse(reason: str) -> UnsupportedOperatorError:
        layer = f" (in {tracer.kind})" if tracer.kind else ""
        return UnsupportedOperatorError(
            tracer.where or node.name,
            f"operator {node.target}{layer} has no integer lowering and cannot be kept in float: {reason}",
            "write it with supported operators, or leave it to what runs the network",
        )

    if not isinstance(node.target, torch._ops.OpOverload):
        raise refuse("it is no operator of ATen")
    operands: list[tuple[Real, Tensor]] = []

    def place(argument: fx.Node) -> Any:
        value = tracer.env.get(argument)
        if isinstance(value, Tensor | int | float):
            return value
        if type(value) is not Real:
            raise refuse("it takes more than activations, weights and numbers")
        operands.append((value, argument.meta["val"]))
        return _Operand(len(operands) - 1)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), place)
    result = node.meta.get("val")
    layout = _layout(operands, result)
    if layout is None:
        raise refuse("its result is no float32 activation of the utterances and frames of its operands")
    first, channels = layout
    frames_first = tuple(value.frames_first for value, _ in operands)
    examples = [_example(operands, size) for size in _TRIED]
    problem = _problem(node.target, args, kwargs, examples[0], frames_first, first)
    if problem:
        raise refuse(problem)
    model = _exported(node.target, args, kwargs, examples[0], frames_first)
    if isinstance(model, str):
        raise refuse(model)
    for example in examples:
        wanted = _called(node.target, args, kwargs, example).numpy()
        found = evaluate(encode(model), [x.contiguous().numpy() for x in example], [])
        largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
        close = found.shape == wanted.shape and np.allclose(
            found, wanted, rtol=TOLERANCE, atol=TOLERANCE * largest, equal_nan=True
        )
        if not close:
            raise refuse("its ONNX form computes something else")
    call = AtenCall(node.target, args, kwargs, frames_first, first, model)
    names, own = tuple(value.name for value, _ in operands), node.target.overloadpacket.__name__
    return tracer.emit("aten", names, first, name=own, call=call, channels=channels)


def _layout(operands: list[tuple[Real, Tensor]], result: object) -> tuple[bool, int] | None:
    """Whether the result is [B, T, C], and C; None if it is no activation alike the operands."""
    if not operands or not isinstance(result, Tensor):
        return None
    shapes = [value.shape for _, value in operands]
    alike = [result, *(value for _, value in operands)]
    if any(v.dim() != 3 for v in alike):
        return None
    if any(v.dtype != torch.float32 or not _same(v.shape[0], shapes[0][0]) for v in alike):
        return None
    for (value, _), shape in zip(operands, shapes, strict=True):
        frames, channels = (1, 2) if value.frames_first else (2, 1)
        extent = result.shape[channels]
        if _same(result.shape[frames], shape[frames]) and isinstance(extent, int):
            # the longest of the operands has the frames: a mean over them has one
            others = [s[1 if v.frames_first else 2] for (v, _), s in zip(operands, shapes, strict=True)]
            if not isinstance(shape[frames], int) or all(isinstance(o, int) for o in others):
                return value.frames_first, extent
    return None


def _same(a: object, b: object) -> bool:
    """Whether two extents are one expression: comparing symbols themselves would constrain them."""
    symbols = [getattr(getattr(s, "node", None), "expr", s) for s in (a, b)]
    return bool(symbols[0] == symbols[1])


def _example(operands: list[tuple[Real, Tensor]], size: tuple[int, int]) -> list[Tensor]:
    """Random operands as traced, of so many utterances and frames."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for value, traced in operands:
        frames = 1 if value.frames_first else 2
        extents = [size[0], *(e if isinstance(e, int) else 0 for e in traced.shape[1:])]
        extents[frames] = extents[frames] or size[1]
        made.append(torch.randn(extents, generator=generator))
    return made


def _problem(
    target: Target,
    args: Args,
    kwargs: Kwargs,
    example: list[Tensor],
    frames_first: tuple[bool, ...],
    first: bool,
) -> str:
    """What of a call lets it depend on more than it may; "" if nothing does."""
    generator = torch.Generator().manual_seed(1)
    half = _TRIED[0][1] // 2

    def cut(x: Tensor, by_frames: bool) -> Tensor:
        return x.narrow(1 if by_frames else 2, 0, half) if x.shape[1 if by_frames else 2] > half else x

    changed_frames, changed_first, changed_others = [], [], []
    for x, by_frames in zip(example, frames_first, strict=True):
        noise = 10 * torch.randn(x.shape, generator=generator)
        later = x + noise
        cut(later, by_frames).copy_(cut(x, by_frames))
        changed_frames.append(later)
        changed_first.append(torch.cat([x[:1] + noise[:1], x[1:]]))
        changed_others.append(torch.cat([x[:1], x[1:] + noise[1:]]))
    try:
        wanted = _called(target, args, kwargs, example)
        again = _called(target, args, kwargs, example)
        later = _called(target, args, kwargs, changed_frames)
        after = _called(target, args, kwargs, changed_first)
        before = _called(target, args, kwargs, changed_others)
    except Exception as error:  # whatever an operator raises
        return f"it fails on other sizes than the example's ({type(error).__name__})"
    if not _close(wanted, again):
        return "it is random"
    if not _close(cut(wanted, first), cut(later, first)):
        return "it looks at frames to come, so that padding would reach valid frames"
    if not (_close(wanted[:1], before[:1]) and _close(wanted[1:], after[1:])):
        return "it mixes utterances"
    return ""


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)


def _exported(
    target: Target, args: Args, kwargs: Kwargs, example: list[Tensor], frames_first: tuple[bool, ...]
) -> onnx.ModelProto | str:
    """The ONNX form of a call with free batch and time axes, or why there is none."""
    try:
        import onnxscript  # type: ignore[import-not-found,unused-ignore] # noqa: F401
    except ImportError:
        raise ConfigError(
            "--allow-float",
            "PyTorch's ONNX exporter needs the package onnxscript, which is not installed",
            "pip install 'zeroq-asr[float]'",
        ) from None
    auto = torch.export.Dim.AUTO
    axes = tuple(
        {axis: auto for axis in (0, 1 if by_frames else 2) if x.shape[axis] > 1}
        for x, by_frames in zip(example, frames_first, strict=True)
    )
    try:
        with _quiet(), torch.no_grad():
            module = _Calling(target, args, kwargs).eval()
            program = torch.onnx.export(
                module,
                tuple(example),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(axes,),
                verbose=False,
            )
        if program is None:
            return "PyTorch exports nothing"
        model = onnx.inliner.inline_local_functions(program.model_proto)
        opsets = {o.domain: o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
        if any(node.domain for node in model.graph.node) or [*opsets.values()] != [OPSET]:
            return f"its ONNX form is not of standard ONNX {OPSET}"
        graph = onnx.helper.make_graph(
            list(model.graph.node),
            "body",
            list(model.graph.input),
            list(model.graph.output),
            list(model.graph.initializer),
        )
        opset = onnx.helper.make_opsetid("", OPSET)
        made = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        onnx.checker.check_model(made)
        return made
    except Exception as error:  # the exporter raises whatever it meets
        return f"PyTorch has no ONNX form of it ({type(error).__name__})"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs and warns about matters of its own; errors still arrive as exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# -- the operator ----------------------------------------------------------------------------------


def _meaning(*xs: Tensor, call: AtenCall, channels: int) -> Tensor:
    # a call takes and gives [B, C, T]
    return call(*xs)


def _shape(node: FloatNode, operands: list[Shape]) -> Shape:
    histories = [shape.history for shape in operands if shape.history is not None]
    return Shape(node.attrs["channels"], histories[0] if histories else None)


def _spelling(w: Writer, node: FloatNode) -> None:
    """The nodes of the operator's own export, in the layout that it was traced in."""
    call = node.attrs["call"]
    graph = call.onnx.graph
    takes = [
        w.frames(name) if first else w.channels(name)
        for name, first in zip(node.ins, call.frames_first, strict=True)
    ]
    names = {"": "", **{value.name: name for value, name in zip(graph.input, takes, strict=True)}}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        names[tensor.name] = w.store(array, array.dtype)
    for inner in graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in inner.attribute}
        names.update((name, w.unique(inner.op_type)) for name in inner.output if name)
        ins, outs = ([names[name] for name in side] for side in (inner.input, inner.output))
        w.nodes.append(helper.make_node(inner.op_type, ins, outs, **attrs))
    w.done(node, names[graph.output[0].name], call.result_frames_first)


ATEN = register(
    Operator(
        "aten",
        _meaning,
        shape=_shape,
        traits=Traits(float_only=True),
        spelling=_spelling,
        capture_call=float_call,
    )
)
