"""Programs that `torch.export.save` wrote, read without trusting them.

`torch.export.load` unpickles objects, evaluates expression strings, executes guard code and
looks operators up by any dotted name below `torch`.  So the archive is not handed to it as it
came: what the graph needs is checked and copied to a new archive, in memory, and only that is
loaded.  Kept are tensors as raw bytes, listed operators of aten, arithmetic on sizes, tuples and lists.  The
graph is then walked on tensors without memory (``checkpoints.aten``); nothing of it is run.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from zeroq_asr.checkpoints.aten import check_calls, require_allowed, shapes_of
from zeroq_asr.checkpoints.pickles import CODE_REMEDY, check_zip, load_pickle
from zeroq_asr.checkpoints.weights import freeze, require_finite
from zeroq_asr.errors import CheckpointError
from zeroq_asr.lines import printable, shorten, shown

_MODEL = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_WEIGHTS, _WEIGHTS_CONFIG = "data/weights/", "data/weights/model_weights_config.json"
_CONSTANTS, _CONSTANTS_CONFIG = "data/constants/", "data/constants/model_constants_config.json"
_FIXED = ("archive_format", "archive_version", "byteorder", ".data/version", "version")

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_SIZE_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(max|min|int|float|not|ite)|math\.(ceil|floor|trunc)"
)
#: A size as torch writes it: constructors of sums, products, powers of a symbol, torch's size
#: functions and comparisons.  No dots, no operators, no other names, quotes around symbols only.
_SIZE_SYMBOL = r"Symbol\('[su]\d+'(?:, \w+=(?:True|False))*\)"
_EXPRESSION = re.compile(
    rf"(?:{_SIZE_SYMBOL}"
    r"|(?:Add|Mul|Pow|Integer|Rational|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing"
    r"|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not"
    r"|IntTrueDiv|ToFloat|TruncToInt|FloorToInt|CeilToInt|Identity|true|false)(?!\w)"
    r"|\d{1,19}(?!\w)|[-(), ])*"
)
#: the end of a power, up to the ninth
_POWER_END = re.compile(r", Integer\(-?\d\)$")
_SYMBOL = re.compile(r"[su]\d+")
#: kinds of arguments: tensors, numbers, sizes and the names of types
_ARGUMENTS = re.compile(
    r"as_(none|name|expr|expr_str|hint|tensor|tensors|optional_tensors?|ints?|floats?|bools?|sym_(int|float|bool)s?"
    r"|string|scalar_type|memory_format|layout|device)"
)
_INPUTS, _OUTPUTS = {"user_input", "parameter", "buffer", "tensor_constant"}, {"user_output"}
#: torch's number of a type → bytes of an element
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
_STRIDED = 7
#: sizes that the graph is walked at, (utterances, frames): one long, and one like no other
_SIZES = (2, 512), (3, 77)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_EXPORT_REMEDY = (
    "export with torch.export.export(module.eval(), (features, lengths), "
    "dynamic_shapes=({0: Dim.AUTO, 2: Dim.AUTO}, {0: Dim.AUTO}), strict=False) and a batch of 2"
)


def load_program(path: str | os.PathLike[str], data: bytes, mels: int, classes: int) -> tuple[nn.Module, int]:
    """Return the network of an exported program and its subsampling factor.

    The program must take features [B, M, T] with M = ``mels`` and lengths [B], and return
    logits [B, S, V] with V = ``classes`` and encoded lengths [B], for any B and T.

    Raises CheckpointError when it does not, or when the archive holds more than a graph of aten
    operators and its tensors.
    """
    safe = _rebuild(path, data)
    # It logs a traceback before it raises, which the error below replaces.
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        program = torch.export.load(io.BytesIO(safe))
    # the loader raises whatever its parsers meet in a damaged graph: no narrower class covers it
    except Exception as error:
        raise CheckpointError(
            path, f"is no readable exported program ({_reason(error)})", "export it again"
        ) from None
    finally:
        log.setLevel(level)
    check_calls(path, program.graph)
    _check_inputs(path, program, mels)
    _check_inference(path, program)
    require_finite(path, {**program.state_dict, **program.constants})
    factor = _check_outputs(path, program, mels, classes)
    try:
        return freeze(program.module()), factor
    # it writes code that checks the sizes of inputs, from what the file says of them
    except Exception as error:
        raise CheckpointError(
            path, f"is no readable exported program ({_reason(error)})", "export it again"
        ) from None


def _reason(error: Exception) -> str:
    return shorten((str(error).splitlines() or [type(error).__name__])[0], 200)


def _rebuild(path: str | os.PathLike[str], data: bytes) -> bytes:
    """Return a new archive with the checked parts of ``data``, or raise CheckpointError."""
    check_zip(path, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(path, f"is not a whole zip archive ({error})", "download it again") from None
    missing = [n for n in (_MODEL, _SAMPLES, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG) if n not in records]
    if missing or records.get("archive_format") != b"pt2":
        raise CheckpointError(
            path,
            "is no exported program of one model in the current format",
            "save it again with torch.export.save of torch 2.9 or later",
        )
    kept = {name: records[name] for name in _FIXED if name in records}
    # It is read with weights_only first, which this shows to succeed: no other way is then tried.
    load_pickle(path, records[_SAMPLES], shells=False)
    kept[_SAMPLES] = b""  # nobody looks at them
    kept[_MODEL] = json.dumps(_checked_graph(path, _json(path, records[_MODEL]))).encode()
    for folder, config in ((_WEIGHTS, _WEIGHTS_CONFIG), (_CONSTANTS, _CONSTANTS_CONFIG)):
        for record in _checked_payloads(path, records, folder, config):
            kept[record] = records[record]
        kept[config] = records[config]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in kept.items():
            archive.writestr(f"program/{name}", content)
    return out.getvalue()


def _json(path: str | os.PathLike[str], data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise CheckpointError(path, "holds damaged JSON", "export it again") from None


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every dictionary in ``value``."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _checked_graph(path: str | os.PathLike[str], model: Any) -> dict[str, Any]:
    """Return the serialized graph without guard code and source positions, or raise CheckpointError."""

    def require(holds: bool, problem: str, remedy: str = CODE_REMEDY) -> None:
        if not holds:
            raise CheckpointError(path, problem, remedy)

    require(isinstance(model, dict) and isinstance(model.get("graph_module"), dict), "holds no graph")
    model["guards_code"] = []
    constraints = model.get("range_constraints") or {}
    require(isinstance(constraints, dict), "holds no range constraints")
    for symbol in constraints:
        require(bool(_SYMBOL.fullmatch(symbol)), f"constrains {shown(symbol)}, which is no symbol")
    graph_module = model["graph_module"]
    graph_module["metadata"] = {}
    graph_module["treespec_namedtuple_fields"] = {}
    for side, kinds in (("input_specs", _INPUTS), ("output_specs", _OUTPUTS)):
        signature = graph_module.get("signature")
        specs = signature.get(side) if isinstance(signature, dict) else None
        require(isinstance(specs, list), "holds no signature")
        for spec in specs or ():
            strange = {*spec} - kinds if isinstance(spec, dict) else {type(spec).__name__}
            require(
                not strange,
                f"its {side} hold {shown(', '.join(sorted(map(str, strange))))}",
                "a network takes tensors, returns tensors and writes into nothing of its own",
            )
    calls = graph_module.get("module_call_graph")
    require(isinstance(calls, list) and bool(calls), "holds no call signature")
    graph_module["module_call_graph"] = calls[:1]
    for item in _walk(calls[:1]):
        for key in ("in_spec", "out_spec"):
            if item.get(key):
                _check_treespec(path, _json(path, item[key]))
    for item in _walk(model):
        if "target" in item:
            _check_target(path, str(item["target"]), item.get("name"))
            item["metadata"] = {}
        for key in item:
            if key.startswith("as_"):
                require(
                    bool(_ARGUMENTS.fullmatch(key)), f"holds an argument {shown(key)}, no tensor or number"
                )
        if "expr_str" in item:
            text = str(item["expr_str"])
            require(_is_size(text), f"holds the expression {shown(text)}")
        device = item.get("device")
        if isinstance(device, dict) and "type" in device:
            kind = device["type"]
            require(
                kind == "cpu",
                f"was exported on {shown(kind)}",
                "move the module to the CPU and export it again",
            )
    return model


def _is_size(text: str) -> bool:
    """Whether a text is an expression of sizes that costs nothing to read: a power has no power in it."""
    if len(text) >= 10_000 or not _EXPRESSION.fullmatch(text):
        return False
    for start in (found.end() for found in re.finditer(r"Pow\(", text)):
        depth, end = 1, start
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inside = text[start : end - 1]
        if depth or "Pow(" in inside or not _POWER_END.search(inside):
            return False
    return True


def _check_target(path: str | os.PathLike[str], target: str, name: object) -> None:
    """Raise unless ``target`` names an operator of tensors that a file may call, or arithmetic on sizes."""
    if _SIZE_ARITHMETIC.fullmatch(target):
        return
    match = _ATEN.fullmatch(target)
    if match is None:
        raise CheckpointError(
            path, f"calls {printable(shorten(target, 80))}, which is no tensor operator", CODE_REMEDY
        )
    overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(overload, torch._ops.OpOverload):
        raise CheckpointError(path, f"calls {target}, which this version of torch lacks", CODE_REMEDY)
    require_allowed(path, overload, str(name))


def _check_treespec(path: str | os.PathLike[str], spec: Any) -> None:
    """Raise CheckpointError unless inputs and outputs are plain tuples, lists and dictionaries."""
    for item in _walk(spec):
        plain = item.get("type") in _CONTAINERS
        keys = _json(path, item.get("context") or "null")
        if not plain or not (
            keys is None or (isinstance(keys, list) and all(isinstance(k, str) for k in keys))
        ):
            raise CheckpointError(
                path, f"takes or returns {shown(item.get('type'))}", "use tensors, tuples and lists only"
            )


def _checked_payloads(
    path: str | os.PathLike[str], records: dict[str, bytes], folder: str, config: str
) -> Iterator[str]:
    """Yield the records of raw tensor bytes that a payload configuration names."""
    content = _json(path, records[config])
    entries = content.get("config") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise CheckpointError(path, f"{config} is malformed", "export it again")
    types: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        record = folder + str(entry.get("path_name")) if isinstance(entry, dict) else ""
        tensor = isinstance(entry, dict) and entry.get("use_pickle") is False
        prefix = "weight_" if folder == _WEIGHTS else "tensor_"
        if not tensor or not str(entry.get("path_name")).startswith(prefix):
            raise CheckpointError(
                path, f"{printable(shorten(name, 80))} is a pickled object, not a plain tensor", CODE_REMEDY
            )
        if record not in records:
            raise CheckpointError(path, f"the bytes of {name} are missing", "download it again")
        problem = _payload_problem(
            entry.get("tensor_meta"), len(records[record]), types.setdefault(record, entry)
        )
        if problem:
            raise CheckpointError(path, f"{name} {problem}", "download it again, or export it again")
        yield record


def _payload_problem(meta: Any, held: int, first: dict[str, Any]) -> str:
    """What is wrong with the account of a tensor of which ``held`` bytes are stored; "" if nothing is.

    ``first``: the first entry of the same bytes, whose type stands for all.
    """
    if not isinstance(meta, dict):
        return "has no sizes"
    sizes, strides = (_whole(meta.get(side)) for side in ("sizes", "strides"))
    offset = _whole([meta.get("storage_offset")])
    if sizes is None or strides is None or offset is None or len(sizes) != len(strides):
        return "has malformed sizes"
    dtype = meta.get("dtype")
    width = _ITEM_BYTES.get(dtype) if type(dtype) is int else None
    if width is None or meta.get("layout") != _STRIDED or first["tensor_meta"].get("dtype") != dtype:
        return "has no supported type"
    if 0 in sizes:
        return "" if math.prod(max(n, 1) for n in sizes) < 2**31 and held == 0 else "is empty"
    reach = sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if held % width or (offset[0] + reach + 1) * width > held:
        return f"reaches beyond its {held} bytes"
    if math.prod(sizes) * width > held:
        return f"is larger than its {held} bytes"
    return ""


def _whole(values: Any) -> list[int] | None:
    """The numbers of a list of ``{"as_int": n}``; None unless all are whole and none is negative."""
    if not isinstance(values, list):
        return None
    found = [v.get("as_int") if isinstance(v, dict) and len(v) == 1 else None for v in values]
    whole = [n for n in found if type(n) is int and n >= 0]
    return whole if len(whole) == len(found) else None


def _check_inputs(path: str | os.PathLike[str], program: torch.export.ExportedProgram, mels: int) -> None:
    """Raise CheckpointError unless the program takes features and lengths of any batch and time."""
    users = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.name in users]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len(users) != 2 or [t.dim() for t in tensors] != [3, 1]:
        raise CheckpointError(
            path,
            f"takes {len(users)} inputs, expected features [B, M, T] and lengths [B]",
            _EXPORT_REMEDY,
        )
    features, lengths = tensors
    if features.shape[1] != mels:
        raise CheckpointError(path, f"takes {features.shape[1]} mels, the configuration makes {mels}")
    if features.dtype != torch.float32 or lengths.dtype != torch.int64:
        raise CheckpointError(
            path, f"takes {features.dtype} and {lengths.dtype}, expected float32 and int64", _EXPORT_REMEDY
        )
    for axis, size in (
        ("batch", features.shape[0]),
        ("time", features.shape[2]),
        ("batch", lengths.shape[0]),
    ):
        if not isinstance(size, torch.SymInt):
            raise CheckpointError(path, f"its {axis} axis is fixed at {size}", _EXPORT_REMEDY)


def _check_inference(path: str | os.PathLike[str], program: torch.export.ExportedProgram) -> None:
    """Raise CheckpointError when the program was exported in training mode."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for argument, value in zip(schema.arguments if schema else (), node.args, strict=False):
            if argument.name in ("train", "training") and value is True:
                raise CheckpointError(path, f"was exported in training mode ({node.name})", _EXPORT_REMEDY)


def _check_outputs(
    path: str | os.PathLike[str], program: torch.export.ExportedProgram, mels: int, classes: int
) -> int:
    """Return the program's input frames per encoded frame, or raise CheckpointError; nothing is run."""
    factors = []
    for batch, frames in _SIZES:
        outputs = shapes_of(path, program, mels, (batch, frames))
        shapes = [list(o.shape) if isinstance(o, torch.Tensor) else [] for o in outputs]
        plain = [o.dtype for o in outputs if isinstance(o, torch.Tensor)] == [torch.float32, torch.int64]
        if (
            not plain
            or len(shapes[0]) != 3
            or shapes[0][0] != batch
            or shapes[1] != [batch]
            or not 0 < shapes[0][1] <= frames
        ):
            raise CheckpointError(
                path,
                "does not return logits [B, S, V] and encoded lengths [B]",
                "wrap the module so that it does",
            )
        if shapes[0][2] != classes:
            raise CheckpointError(
                path, f"returns {shapes[0][2]} classes, the configuration has {classes} with the blank"
            )
        factors.append(round(frames / shapes[0][1]))
    return factors[0]
