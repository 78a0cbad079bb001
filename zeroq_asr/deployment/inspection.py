"""What is inside a file: a checkpoint, an ONNX file of ours, or any other ONNX file.

Nothing is run, and nothing is proven: see ``zeroq_asr.deployment.verify`` for that.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from zeroq_asr.checkpoints import load_model
from zeroq_asr.deployment.bundle_recognizer import is_bundle
from zeroq_asr.deployment.certificate import packed_together
from zeroq_asr.deployment.metadata import METADATA_KEY
from zeroq_asr.deployment.optimized import ENDING
from zeroq_asr.deployment.reading import load_onnx, read_program
from zeroq_asr.deployment.recognizer import is_onnx
from zeroq_asr.deployment.runtimes import oldest_runtime, packings_of, release
from zeroq_asr.errors import CheckpointError, VerificationError
from zeroq_asr.integer.backends.onnx_loops import every_node
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Port, Program, StatePort, ValueInfo
from zeroq_asr.model import Model
from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.synthesis.statistics import DEAD_SHARE

#: metadata longer than this is cut: it is a file inside the file
_MAX_METADATA = 200
#: of a bundle, what its files say alike
_OF_ALL = (
    "name",
    "dialect",
    "target",
    "version",
    "format",
    "max_seconds",
    "subsampling_factor",
    "frontend",
    "with_frontend",
    "runtime",
    "tokenizer",
    "decoding",
    "recipe",
)
#: of an output channel in an int8 file: an int32 bias and an int32 multiplier
_CHANNEL_BYTES = 8


def inspect_file(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Return what ``path`` holds as JSON values; ``kind`` says which of four it is.

    - ``"checkpoint"``: the float network, layer by layer, and what surrounds it.
    - ``"quantized"``: a file that ``quantize`` wrote: its program, formats and recipe, as the file
      tells them: ``verified`` is always False here.
    - ``"bundle"``: a folder that ``quantize`` wrote: what is of all of its files, and each under ``parts``.
    - ``"onnx"``: any other ONNX file: its interface, operators and size.

    ``config``, ``loader`` and ``language`` are as in ``load_model``.  Raises CheckpointError for a file
    that is none of them, VerificationError for one of ours whose account of itself is damaged.
    """
    if loader is None and language is None and is_bundle(path):
        return _bundle(path)
    if loader is not None or language is not None or not is_onnx(path):
        return _checkpoint(path, load_model(path, config=config, loader=loader, language=language))
    if config is not None:
        problem = f"{os.fspath(config)} was given as the configuration of an ONNX file, which needs none"
        raise CheckpointError(path, problem, "leave --config out")
    try:
        model = load_onnx(path)
    except VerificationError as error:
        raise CheckpointError(error.where, error.problem, error.remedy or "check the path") from None
    if any(p.key == METADATA_KEY for p in model.metadata_props):
        return _quantized(path, model)
    return _onnx(path, model)


def _checkpoint(path: str | os.PathLike[str], model: Model) -> dict[str, Any]:
    network = model.network
    parameters = dict(network.named_parameters())
    variances = [b for name, b in network.named_buffers() if name.endswith("running_var")]
    return {
        "kind": "checkpoint",
        "file": os.fspath(path),
        "bytes": _size(path),
        "name": model.name,
        "architecture": model.architecture or type(network).__name__,
        "parameters": sum(p.numel() for p in parameters.values()),
        "float_bytes": _bytes(parameters.values()) + _bytes(network.buffers()),
        "estimated_int8_bytes": sum(_int8_bytes(p) for p in parameters.values()),
        "batch_norms": len(variances),
        "batch_norm_channels": sum(v.numel() for v in variances),
        "zero_variance_channels": sum(_dead_channels(v) for v in variances),
        "subsampling_factor": model.subsampling_factor,
        "frontend": model.frontend.to_dict(),
        "tokenizer": _tokenizer(model.tokenizer),
        "layers": [_layer(name, m) for name, m in network.named_modules() if _has_tensors(m)],
    }


def _quantized(path: str | os.PathLike[str], model: onnx.ModelProto) -> dict[str, Any]:
    program, deployment, own = read_program(model, os.fspath(path))
    quantization = deployment.recipe.get("quantization", {})
    kept = islands(program)
    return {
        "kind": "quantized",
        "file": os.fspath(path),
        "bytes": _size(path),
        "verified": False,
        "name": deployment.name,
        "dialect": own.get("dialect"),
        "target": own.get("target"),
        "version": own.get("version"),
        "format": own.get("format"),
        **_versions(model),
        "part": own.get("part"),
        "ports": {
            "inputs": [_port(port) for port in program.inputs],
            "outputs": [_port(port) for port in program.outputs],
            "states": [_port(state) for state in program.states],
        },
        "integer_only": not kept,
        "islands": [asdict(island) for island in kept],
        "program_sha256": own.get("program_sha256"),
        "max_seconds": deployment.max_seconds,
        "max_frames": program.max_frames,
        "weight_bits": quantization.get("weight_bits"),
        "activation_bits": quantization.get("activation_bits"),
        "logit_bits": quantization.get("logit_bits"),
        "onnxruntime": oldest_runtime(model, program, own["dialect"]),
        "packings": {name: list(stored) for name, stored in packings_of(program).items()},
        "stored_bytes": sum(len(tensor.raw_data) for tensor in model.graph.initializer),
        "constant_bytes": sum(array.nbytes for array in program.constants.values()),
        "instructions": _counts(i.op for i in program.code),
        "operators": _counts(node.op_type for node in every_node(model.graph)),
        "subsampling_factor": deployment.subsampling_factor,
        "frontend": deployment.frontend.to_dict(),
        "with_frontend": deployment.with_frontend,
        "runtime": deployment.runtime_ports.runtime if deployment.runtime_ports else "",
        "tokenizer": _tokenizer(deployment.tokenizer),
        "decoding": None if deployment.decoding is None else deployment.decoding.to_dict(),
        "recipe": deployment.recipe,
        "values": _values(program),
    }


def _bundle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The account of a folder's files, each as of a file of its own, and of what is of all."""
    files = sorted(file for file in Path(path).iterdir() if file.suffix in (".onnx", ENDING))
    if not files:
        raise CheckpointError(path, "is a bundle without a file", "is it whole?")
    parts = {part["part"]: part for part in (_quantized(file, load_onnx(file)) for file in files)}
    first = next(iter(parts.values()))
    runtimes = (part["onnxruntime"] for part in parts.values())
    return {
        "kind": "bundle",
        "file": os.fspath(path),
        "bytes": sum(map(_size, Path(path).iterdir())),
        "verified": False,
        **{name: first[name] for name in _OF_ALL},
        "integer_only": all(part["integer_only"] for part in parts.values()),
        "islands": [island for part in parts.values() for island in part["islands"]],
        "onnxruntime": max(runtimes, key=release),
        "packings": packed_together(*(part["packings"] for part in parts.values())),
        "parts": parts,
    }


def _onnx(path: str | os.PathLike[str], model: onnx.ModelProto) -> dict[str, Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [attribute.t for attribute in node.attribute if attribute.name == "value"]
    return {
        "kind": "onnx",
        "file": os.fspath(path),
        "bytes": _size(path),
        **_versions(model),
        "inputs": [_tensor(value) for value in model.graph.input if value.name not in constants],
        "outputs": [_tensor(value) for value in model.graph.output],
        "operators": _counts(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in model.graph.node
        ),
        "parameter_bytes": sum(_tensor_bytes(tensor) for tensor in tensors),
        "metadata": {p.key: _cut(p.value) for p in model.metadata_props},
    }


def _versions(model: onnx.ModelProto) -> dict[str, Any]:
    return {
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }


def _port(port: Port | StatePort) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "shape": list(port.dims)}


def _values(program: Program) -> list[dict[str, Any]]:
    """Return the format of every value, in the order in which the program makes them."""
    rows = []
    for instruction in program.code:
        info = program.values.get(instruction.out)
        if info is None:  # masks and lengths have no format to choose
            continue
        rows.append(
            {
                "name": instruction.out,
                "type": info.type,
                "scale": info.scale,
                "zero_point": info.zero_point,
                "integers": [info.lo, info.hi],
                "range": _real_range(info),
                "op": instruction.op,
                "layer": instruction.where,
            }
        )
    return rows


def _real_range(info: ValueInfo) -> list[float]:
    """Return the smallest and largest real number that the integers stand for."""
    return [info.scale * (bound - info.zero_point) for bound in (info.lo, info.hi)]


def _layer(name: str, module: nn.Module) -> dict[str, Any]:
    tensors = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
    weight = tensors.get("weight", next(iter(tensors.values())))
    layer: dict[str, Any] = {
        "path": name,
        "type": type(module).__name__,
        "shape": list(weight.shape),
        "parameters": sum(p.numel() for p in module.parameters(recurse=False)),
    }
    for key in ("stride", "dilation", "groups"):
        value = getattr(module, key, None)
        value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
        if isinstance(value, int | tuple):
            layer[key] = list(value) if isinstance(value, tuple) else value
    return layer


def _has_tensors(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False)]
    return bool(own) or any(name == "running_var" for name, _ in module.named_buffers(recurse=False))


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    return {"kind": tokenizer.kind, "size": len(tokenizer.tokens), "tokens": list(tokenizer.tokens)}


def _dead_channels(variance: torch.Tensor) -> int:
    """Count channels whose variance is nothing beside their layer's median, as synthesis does."""
    live = torch.isfinite(variance) & (variance > DEAD_SHARE * variance.median())
    return int(variance.numel() - live.sum())


def _int8_bytes(parameter: torch.Tensor) -> int:
    """Return the bytes of a parameter in an int8 file: vectors end in the biases of their weights."""
    return parameter.numel() + _CHANNEL_BYTES * parameter.shape[0] if parameter.dim() > 1 else 0


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _size(path: str | os.PathLike[str]) -> int:
    # a loader may take a name that is no file
    return Path(path).stat().st_size if Path(path).is_file() else 0


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape: list[int | str] = [
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else dim.dim_param or "?"
        for dim in kind.shape.dim
    ]
    known = kind.elem_type in TensorProto.DataType.values()
    # a type younger than the onnx package, or a damaged one
    name = TensorProto.DataType.Name(kind.elem_type).lower() if known else f"unknown ({kind.elem_type})"
    return {"name": value.name, "type": name, "shape": shape}


def _tensor_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a tensor from its shape: its data may lie in another file."""
    if tensor.data_type == TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    try:
        width = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:  # a type younger than the onnx package
        return len(tensor.raw_data)
    return math.prod(tensor.dims) * width


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_METADATA else f"{text[:_MAX_METADATA]}… ({len(text)} characters)"
