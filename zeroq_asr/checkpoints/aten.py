"""Operators that a graph from a file may call, and what its calls would cost, told without running one.

A kernel of ATen trusts some of its arguments: given sizes and strides of a stranger's choosing it reads and
writes anywhere.  So a graph may call what is listed here and nothing else: pure functions of tensors whose
kernels check every index against the extents of their operands.  What they leave to callers is checked here.
Then the graph is walked on tensors without memory, which gives the shapes of all that it would make.
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from zeroq_asr.errors import CheckpointError, UnsupportedModelError
from zeroq_asr.lines import shorten, shown

_POINTWISE = """
abs absolute acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or
bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh div divide elu eq erf erfc erfinv exp
exp2 expm1 floor floor_divide fmod frac ge gelu gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot
isfinite isinf isnan le leaky_relu lerp log log10 log1p log2 log_sigmoid logaddexp logical_and logical_not
logical_or logical_xor logit lt masked_fill maximum minimum mish mul multiply nan_to_num ne neg negative
positive pow reciprocal relu relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh
softplus softshrink sqrt square sub subtract tan tanh threshold true_divide trunc xlogy __and__ __or__ __xor__
"""
_OTHERS = """
where glu prelu dropout feature_dropout
sum mean amax amin max min argmax argmin any all prod var std var_mean std_mean linalg_vector_norm logsumexp
cumsum cumprod softmax log_softmax _softmax _log_softmax
matmul mm bmm mv dot outer addmm addmv baddbmm linear einsum conv1d conv2d convolution
scaled_dot_product_attention embedding
batch_norm _native_batch_norm_legit_no_training instance_norm group_norm layer_norm native_layer_norm rms_norm
avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
view reshape _unsafe_view flatten unflatten view_as reshape_as transpose permute t movedim swapaxes squeeze
unsqueeze expand expand_as repeat tile cat concat concatenate stack slice select narrow chunk split
split_with_sizes unbind index_select gather index index_put slice_scatter select_scatter flip roll pad
constant_pad_nd reflection_pad1d replication_pad1d tril triu diagonal
contiguous clone alias detach lift_fresh lift_fresh_copy to _to_copy type_as
arange zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full scalar_tensor
_assert_tensor_metadata _assert_scalar sym_constrain_range_for_size sym_size sym_numel
"""
#: operators of ATen that a graph may call, in every overload that takes plain arguments and writes nothing
PURE = frozenset((_POINTWISE + _OTHERS).split())
#: those that write every entry of their first operand and no other, which itself must be no weight or input
IN_PLACE = frozenset(
    f"{name}_" for name in [*_POINTWISE.split(), "copy", "fill", "zero", "index_put", "dropout"]
)
#: overloads that read bytes as something else
_REINTERPRETING = frozenset({"view.dtype"})

#: types of arguments that an overload may have, as schemas write them, and those that hold a tensor
_TENSORS = frozenset({"Tensor", "List[Tensor]"})
_PLAIN = ("int", "float", "bool", "number", "str", "Device", "AnyEnumType", "List[int]", "List[bool]")
_TYPES = _TENSORS | {"List[Optional[Tensor]]", "Optional[Tensor]", "List[float]"}
_TYPES |= {*_PLAIN, *(f"Optional[{name}]" for name in _PLAIN)}
#: operators of no tensor; others have overloads for plain numbers, strings and lists, of no use in a graph
_OF_NUMBERS = frozenset(
    {"arange", "zeros", "ones", "full", "scalar_tensor", "_assert_scalar", "sym_constrain_range_for_size"}
)
#: what part of an argument a schema calls so; the first that fits
_LEAVES: dict[str, Any] = {
    "Tensor": (torch.Tensor, int, float),  # a number stands for a tensor of it
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "MemoryFormat": torch.memory_format,
    "Device": torch.device,
    "SymInt": int,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "number": (int, float),
    "Scalar": (int, float),
    "str": str,
}
_DTYPES = frozenset(
    {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8}
    | {torch.int8, torch.int16, torch.int32, torch.int64}
)
_WORDS = frozenset({"floor", "trunc", "none", "tanh", "same", "valid"})
_WORDS |= {"constant", "reflect", "replicate", "circular"}
_EQUATION = re.compile(r"[A-Za-z., >-]{1,100}")
#: most of a whole number among the arguments, but for the end of a slice, where the largest means all
_LARGEST = 2**31
_SLICES = frozenset({"slice", "slice_scatter"})
#: arguments that kernels divide by, and those that must not be negative
_POSITIVE = frozenset({"kernel_size", "stride", "dilation", "groups", "num_groups", "output_size"})
_NOT_NEGATIVE = frozenset({"padding", "output_padding"})
_WINDOW = 2**20
_AXES, _MAX_AXES = re.compile(r"(start_|end_)?dims?[01]?|axis[01]?|source|destination"), 64
#: integer division traps where the divisor is 0, or −1 and the dividend the lowest integer
_DIVISIONS = ("floor_divide", "remainder", "fmod", "div", "divide")

#: most nodes, pieces of one tensor, bytes of one value, bytes at one time, bytes and operations in all
MAX_NODES, MAX_PIECES = 100_000, 4096
MAX_VALUE, MAX_LIVE, MAX_BYTES, MAX_FLOPS = 2**30, 2**31, 2**36, 2**42
_OPERATOR_REMEDY = "write it with other operators, or build the network yourself: --loader MODULE:FUNCTION"
_COST_REMEDY = "export a network for speech, in inference mode and on the CPU"

#: kinds of nodes that a traced graph is made of
_CALL = "call_function"
_ENDS = _INPUT, _OUTPUT = "placeholder", "output"
#: arithmetic on sizes: plain functions of numbers
_NUMBERS = (int, float, bool)


def check_calls(path: str | os.PathLike[str], graph: torch.fx.Graph) -> None:
    """Raise unless every call of ``graph`` is of an operator that a file may call, with plain arguments.

    UnsupportedModelError for an operator that is not listed; CheckpointError for what no exporter writes.
    """
    if len(graph.nodes) > MAX_NODES:
        raise CheckpointError(path, f"calls {len(graph.nodes)} operators, more than {MAX_NODES}")
    for node in graph.nodes:
        if node.op in _ENDS:
            continue
        if node.op != _CALL:
            raise CheckpointError(path, f"its graph holds {shown(node.op)}, no call of an operator")
        if isinstance(node.target, torch._ops.OpOverload):
            require_allowed(path, node.target, node.name)


def allowed(target: torch._ops.OpOverload) -> bool:
    """Whether a file may call an overload of an operator of ATen."""
    schema = target._schema
    name, types = schema.name.removeprefix("aten::"), [str(a.type) for a in schema.arguments]
    if target.namespace != "aten" or f"{name}.{target._overloadname}" in _REINTERPRETING:
        return False
    if not _TYPES.issuperset(types) or not (_TENSORS.intersection(types) or name in _OF_NUMBERS):
        return False
    written = [
        i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    ]
    return name in IN_PLACE if written == [0] else not written and name in PURE


def require_allowed(path: str | os.PathLike[str], target: torch._ops.OpOverload, name: str) -> None:
    """Raise UnsupportedModelError, naming the call ``name``, for an overload that a file may not call."""
    if not allowed(target):
        raise UnsupportedModelError(
            path, f"calls the operator {target} ({shown(name)}), which a file may not call", _OPERATOR_REMEDY
        )


def _arguments(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the arguments of a call, each with its place in the schema."""
    places = target._schema.arguments
    yield from zip(places, args, strict=False)
    yield from ((place, kwargs[place.name]) for place in places if place.name in kwargs)


class RefusedCallError(Exception):
    """What a call may not be: the message says what."""


def _check_arguments(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise RefusedCallError for arguments that a kernel does not check itself."""
    name = target._schema.name.removeprefix("aten::")
    bare = name if name.startswith("__") else name.removesuffix("_")
    given = {place.name: value for place, value in _arguments(target, args, kwargs)}
    for place, value in _arguments(target, args, kwargs):
        # not ``type``, which calls the number of a type a whole number: a kernel would look it up unchecked
        kind = next(k for k in _LEAVES if k in str(place.real_type))
        for leaf in tree_leaves(value):
            if leaf is None:
                continue
            if not isinstance(leaf, _LEAVES[kind]) or (isinstance(leaf, bool) and "nt" in kind):
                raise RefusedCallError(f"{place.name} = {shown(leaf)} is no {kind}")
            problem = _leaf_problem(bare, place.name, kind, leaf)
            if problem:
                raise RefusedCallError(f"{place.name} = {shown(leaf)} {problem}")
    if given.get("pin_memory"):
        raise RefusedCallError("it pins memory")
    if given.get("train") or given.get("training"):
        raise RefusedCallError("it is in training mode")
    check = _CHECKS.get(bare)
    if check is not None:
        check(given)


def _leaf_problem(operator_name: str, name: str, kind: str, leaf: Any) -> str:
    """What is wrong with one part of an argument; "" if nothing is."""
    if isinstance(leaf, int) and "nt" in kind:
        end = operator_name in _SLICES and name in ("start", "end")
        low = 1 if name in _POSITIVE else 0 if name in _NOT_NEGATIVE else None
        if abs(leaf) > (2**63 - 1 if end else _LARGEST) or (low is not None and not low <= leaf <= _WINDOW):
            return "is out of range"
        if _AXES.fullmatch(name) and abs(leaf) > _MAX_AXES:
            return "is no axis"
    elif isinstance(leaf, str):
        known = leaf in _WORDS or operator_name.startswith("_assert")
        if not known and not (operator_name == "einsum" and _EQUATION.fullmatch(leaf)):
            return "is not known"
    elif (
        (isinstance(leaf, torch.dtype) and leaf not in _DTYPES)
        or (isinstance(leaf, torch.layout) and leaf != torch.strided)
        or (isinstance(leaf, torch.device) and leaf.type != "cpu")
    ):
        return "is not supported"
    return ""


# -- what kernels leave to their callers ---------------------------------------------------------------


def _check_division(given: dict[str, Any]) -> None:
    if "rounding_mode" in given and given["rounding_mode"] is None:
        return
    numbers = [given.get("self"), given.get("other")]
    if any(isinstance(x, float) or (isinstance(x, torch.Tensor) and x.is_floating_point()) for x in numbers):
        return
    if not isinstance(numbers[1], int) or numbers[1] < 1:
        raise RefusedCallError("it divides integers by what may be zero or negative")


def _check_batch_norm(given: dict[str, Any]) -> None:
    x = given.get("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = given.get(name)
        if value is not None and (x is None or x.dim() < 2 or list(value.shape) != [x.shape[1]]):
            raise RefusedCallError(f"its {name} has the wrong shape")


def _check_attention(given: dict[str, Any]) -> None:
    q, k, v, mask = (given.get(name) for name in ("query", "key", "value", "attn_mask"))
    if q is None or k is None or v is None:
        raise RefusedCallError("it lacks an operand")
    alike = q.dim() in (3, 4) and q.dim() == k.dim() and k.shape == v.shape
    if not alike or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-1]:
        raise RefusedCallError("its query, key and value do not fit each other")
    if given.get("dropout_p"):
        raise RefusedCallError("it is in training mode")
    if given.get("enable_gqa"):
        raise RefusedCallError("its heads are grouped")
    if mask is not None:
        full = (*q.shape[:-1], k.shape[-2])
        if mask.dim() > len(full) or torch.broadcast_shapes(mask.shape, full) != torch.Size(full):
            raise RefusedCallError("its mask has the wrong shape")
        if mask.dtype not in (torch.bool, q.dtype):
            raise RefusedCallError("its mask has the wrong type")


def _check_pieces(given: dict[str, Any]) -> None:
    x, dim = given["self"], given.get("dim", 0)
    extent = x.shape[dim] if x.dim() else 0
    size = next((n for n in (given.get("split_size"),) if isinstance(n, int)), 1)
    pieces = given["chunks"] if isinstance(given.get("chunks"), int) else math.ceil(extent / max(size, 1))
    if pieces > MAX_PIECES:
        raise RefusedCallError(f"it makes {pieces} pieces of one tensor")


_CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    **dict.fromkeys(_DIVISIONS, _check_division),
    **dict.fromkeys(
        ("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm"), _check_batch_norm
    ),
    "scaled_dot_product_attention": _check_attention,
    **dict.fromkeys(("chunk", "split", "unbind", "split_with_sizes"), _check_pieces),
}


# -- the walk ------------------------------------------------------------------------------------------


class _Costs(TorchDispatchMode):
    """Counts what kernels would allocate and compute, those inside of other operators included."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                size = value.numel() * value.element_size()
                if size > MAX_VALUE:
                    raise RefusedCallError(f"it makes {size} bytes, more than {MAX_VALUE}")
                self.bytes += size
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        if packet is torch.ops.aten.convolution:
            # some kernels unfold what every window sees
            weight = args[1]
            windows = result.numel() // max(result.shape[1], 1)
            if windows * weight[0].numel() * weight.element_size() > MAX_LIVE:
                raise RefusedCallError("its windows are too many")
        if self.bytes > MAX_BYTES or self.flops > MAX_FLOPS:
            raise RefusedCallError("the graph computes more than a network for speech would")
        return result


def shapes_of(
    path: str | os.PathLike[str], program: torch.export.ExportedProgram, mels: int, sizes: tuple[int, int]
) -> list[Any]:
    """Return the results for features [B, M, T] with ``sizes`` = (B, T), as tensors without memory.

    Nothing is computed.  Raises CheckpointError naming the call that fails, and where kernels would be given
    what they do not check themselves, or take more memory or time than a network does.
    """
    batch, frames = sizes
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    stored.update(signature.inputs_to_lifted_tensor_constants)
    stores = (program.state_dict, program.constants)
    with torch.no_grad(), mode:
        inputs = [torch.empty(batch, mels, frames), torch.empty(batch, dtype=torch.int64)]
    values: dict[torch.fx.Node, Any] = {}
    last = {operand: node for node in program.graph.nodes for operand in node.all_input_nodes}
    kept: set[int] = set()
    made: dict[torch.fx.Node, Any] = {}
    costs = _Costs()
    for node in program.graph.nodes:
        if node.op == _INPUT:
            source = next((s[stored[node.name]] for s in stores if stored.get(node.name) in s), None)
            if source is None:
                if not inputs or node.name in stored:
                    raise CheckpointError(
                        path, f"its input {shown(node.name)} has no value", "export it again"
                    )
                values[node] = inputs.pop(0)
            else:
                values[node] = mode.from_tensor(source.detach())
            kept.add(_storage(values[node]))
            continue
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == _OUTPUT:
            return [*args[0]] if isinstance(args[0], (tuple, list)) else [args[0]]
        try:
            with _silent(), torch.no_grad(), mode, costs:
                values[node] = made[node] = _call(node, args, kwargs, kept)
        except RefusedCallError as error:
            raise CheckpointError(
                path, f"{node.name} ({node.target}) cannot run: {error}", _COST_REMEDY
            ) from None
        # a stranger's arguments: an operator raises whatever it likes, and the file is at fault
        except Exception as error:
            reason = shorten((str(error).splitlines() or [type(error).__name__])[0], 200)
            problem = f"{node.name} ({node.target}) does not run on {batch} × {frames} frames ({reason})"
            raise CheckpointError(path, problem, "export it again for any batch and time") from None
        for operand in node.all_input_nodes:
            if last[operand] is node:
                made.pop(operand, None)
        _check_live(path, node, made, kept)
    raise CheckpointError(path, "its graph returns nothing", "export it again")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep torch from logging a traceback of what it raises as well."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


def _check_live(
    path: str | os.PathLike[str], node: torch.fx.Node, made: dict[torch.fx.Node, Any], kept: set[int]
) -> None:
    """Raise CheckpointError where what is alive behind ``node`` takes too much memory."""
    live = {
        _storage(value): value.untyped_storage().nbytes()
        for value in tree_leaves([*made.values()])
        if isinstance(value, torch.Tensor)
    }
    total = sum(size for key, size in live.items() if key not in kept)
    if total > MAX_LIVE:
        problem = f"needs {total} bytes at {node.name} ({node.target}), more than {MAX_LIVE}"
        raise CheckpointError(path, problem, _COST_REMEDY)


def _storage(value: torch.Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def _call(node: torch.fx.Node, args: Any, kwargs: Any, kept: set[int]) -> Any:
    """What a node makes of its operands."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        _check_arguments(target, args, kwargs)
        if target._schema.is_mutable and _storage(args[0]) in kept:
            raise RefusedCallError("it writes into an input or a weight")
        return target(*args, **kwargs)
    if target is operator.getitem:
        if kwargs or len(args) != 2 or not isinstance(args[0], (tuple, list)) or type(args[1]) is not int:
            raise RefusedCallError("it takes an entry of what is no list")
    elif kwargs or not all(isinstance(a, _NUMBERS) for a in args):
        raise RefusedCallError("it computes with something else than numbers")
    result = target(*args)
    if isinstance(result, int) and abs(result) >= 2**62:
        raise RefusedCallError("a size is out of range")
    return result
