"""A Program and all that surrounds it, as one ONNX file; a bundle of several, as a folder of them.

A CTC network has the inputs ``audio_signal`` float32 [batch, mels, frames] and ``length`` int64 [batch]; and
the outputs ``logprobs`` float32 [batch, encoded, tokens], ``logits`` int32 (the integers) and
``encoded_lengths`` int64 [batch].  ``logprobs`` comes first because runtimes for NeMo CTC models take outputs
in order.  Where the frontend is in the file (``deployment.frontend_graph``), the inputs are ``audio`` float32
[batch, samples] and ``audio_length`` int64 [batch].  Any other program has an input and an output for each of
its ports, integers as they are; a state enters as NAME and leaves as next_NAME.  A transducer's files may
have the ports of another runtime in their place (``deployment.runtime_ports``).

The metadata carries the keys that those runtimes read and, under ``zeroq_asr``, one JSON object from
which the program, the frontend and the tokens are read back (``deployment.metadata``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from zeroq_asr._version import __version__
from zeroq_asr.config import DIALECTS
from zeroq_asr.deployment.frontend_graph import FEATURES, LENGTH, frontend_graph, frontend_inputs
from zeroq_asr.deployment.metadata import (
    BUNDLE_FILE,
    COMPACT_VERSION,
    METADATA_KEY,
    METADATA_VERSION,
    TARGET_BOUNDS,
    Deployment,
    metadata_digest,
    own_text,
)
from zeroq_asr.deployment.optimized import ENDING
from zeroq_asr.deployment.parts import check_transducer
from zeroq_asr.deployment.runtime_layout import file_of, texts
from zeroq_asr.deployment.runtime_ports import around
from zeroq_asr.deployment.runtimes import OPSETS, oldest_runtime, opset_of
from zeroq_asr.errors import ExportError
from zeroq_asr.files import atomic_write_bytes, atomic_write_folder
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import Sym, decode
from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.bundle import NETWORK, Bundle
from zeroq_asr.integer.extents import Extent
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Port, Program, StatePort, is_ctc
from zeroq_asr.integer.wellformed import Shapes, check
from zeroq_asr.lines import summary

__all__ = [
    "BUNDLE_FILE",
    "DIALECTS",
    "IR_VERSION",
    "METADATA_KEY",
    "METADATA_VERSION",
    "OPSET",
    "TARGET_BOUNDS",
    "Deployment",
    "Export",
    "bundle_files",
    "check_surroundings",
    "export",
    "export_bundle",
    "metadata_digest",
    "write_bundle",
]

#: those of files in which nothing needs a later one
OPSET, IR_VERSION = OPSETS[0].version, OPSETS[0].ir_version

#: least and largest distance of two logits that a softmax in float32 is of use for
_LEAST_SPREAD, _MOST_SPREAD = 2.0**-20, 2.0**40

#: ports that a frontend in the file gives
_FROM_FRONTEND = (FEATURES, LENGTH)

#: type of a port → ONNX's
_PORT_TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}


@dataclass(frozen=True)
class Export:
    """A finished model and what its builder found out on the way."""

    model: onnx.ModelProto
    backend: OnnxStrictBackend
    #: of the program
    program_sha256: str

    def __repr__(self) -> str:
        """Show the dialect and the size of the graph, on one line."""
        nodes = f"{len(self.model.graph.node)} nodes"
        return summary(self, self.backend.dialect, nodes, f"program {self.program_sha256[:8]}")

    def to_bytes(self) -> bytes:
        """Serialize; equal models give equal bytes."""
        return self.model.SerializeToString(deterministic=True)


def export(
    program: Program, deployment: Deployment, dialect: str, target: str = "x86-any", part: str = NETWORK
) -> Export:
    """Spell ``program`` in a dialect.  The interval proof runs on the way: ProofError if it fails.

    ``target`` decides how the fused kernels' weights are stored (see ``TARGET_BOUNDS``); strict and
    qdq do not depend on it.  ``part``: what the program is in its bundle.  Raises ExportError for an unknown
    dialect or target, and for a program that does not fit what is around it.
    """
    backend = _backend(program, dialect, target)
    backend.short = part != NETWORK
    results = build(backend, program)
    if backend.short:
        kept: list[Port | StatePort] = [*program.inputs, *program.outputs, *program.states]
        names = backend.shorten({str(dim) for port in kept for dim in port.dims})
        results = tuple(replace(result, name=names.get(result.name, result.name)) for result in results)
    ctc = is_ctc(program)
    check_surroundings(program, deployment, check(program))
    entering: list[Port | StatePort] = [*program.inputs, *program.states]
    nodes, outputs = _outputs(program, results)
    if ctc:
        more, scores = _log_probabilities(program, backend)
        nodes, outputs = [*nodes, *more], [scores, *outputs]
    inputs = [_tensor(port.name, port) for port in entering]
    constants, told = list(backend.initializers.values()), backend.value_infos()
    nodes = [*backend.nodes, *nodes]
    audio = deployment.with_frontend and program.features is not None
    if audio:
        before, more_constants = frontend_graph(deployment.frontend)
        nodes, constants = [*before, *nodes], [*more_constants, *constants]
        told = [*(one for one in inputs if one.name in _FROM_FRONTEND), *told]
        inputs = [*frontend_inputs(), *(one for one in inputs if one.name not in _FROM_FRONTEND)]
    if deployment.runtime_ports is not None:
        ports = around(program, [result.interval for result in results])
        nodes = [*ports.before, *nodes, *ports.after]
        constants = [*ports.constants, *constants]
        told = [*(one for one in (*inputs, *outputs) if one.name not in ports.names), *told]
        inputs, outputs = ports.inputs, ports.outputs
    graph = helper.make_graph(nodes, "zeroq_asr", inputs, outputs, value_info=told)
    opset = opset_of(backend.opset)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset.version), helper.make_opsetid("com.microsoft", 1)],
        ir_version=opset.ir_version,
        producer_name="zeroq-asr",
        producer_version=__version__,
    )
    # behind make_model, which copies its graph: weights are copied once
    model.graph.initializer.extend(constants)
    if dialect != "qdq":  # which folds multipliers into scales
        _require_read_back(program, backend)
    digest = program.digest()
    own: dict[str, Any] = {
        "format": COMPACT_VERSION if backend.compact else METADATA_VERSION,
        "version": __version__,
        "dialect": dialect,
        "target": target,
        "part": part,
        **deployment.to_dict(),
        "program": program.to_json(),
        "encodings": {k: list(v) for k, v in backend.encodings.items()},
        "program_sha256": digest,
    }
    if backend.compact:
        own["onnxruntime"] = oldest_runtime(model, program, dialect)
    own["metadata_sha256"] = metadata_digest(own)
    only = "not integer-only" if islands(program) else "integer-only"
    only += " behind a float frontend" if audio else ""
    only += f" between the ports of {deployment.runtime_ports.runtime}" if deployment.runtime_ports else ""
    metadata = {
        "comment": f"{only}, {dialect}; made by zeroq-asr without data",
        "model_author": "zeroq-asr",
        **(_ctc_metadata(deployment) if ctc else {}),
        **(_transducer_metadata(deployment) if deployment.runtime_ports and program.features else {}),
        "version": "1",
        METADATA_KEY: own_text(own),
    }
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    return Export(model, backend, digest)


def _require_read_back(program: Program, backend: OnnxStrictBackend) -> None:
    """Require that what is stored gives the constants of the program again, before anybody relies on it."""
    for name, (stored, encoding) in backend.encodings.items():
        tensor = backend.initializers[stored] if stored else None
        array = np.zeros(0) if tensor is None else numpy_helper.to_array(tensor)
        found, wanted = decode(array, encoding), program.constants[name]
        if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
            problem = f"its encoding, {encoding}, does not give it again"
            raise ExportError(name, problem, "please report the network; another --dialect may hold it")


def _outputs(program: Program, results: tuple[Sym, ...]) -> tuple[list[NodeProto], list[ValueInfoProto]]:
    """Nodes that give what leaves a program the names of its ports, and the declarations of these."""
    named: list[tuple[str, Port | StatePort]] = [(port.name, port) for port in program.outputs]
    named += [(f"next_{state.name}", state) for state in program.states]
    nodes = [
        helper.make_node("Identity", [result.name], [name], name=name)
        for (name, _), result in zip(named, results, strict=True)
    ]
    return nodes, [_tensor(name, port) for name, port in named]


def _log_probabilities(
    program: Program, backend: OnnxStrictBackend
) -> tuple[list[NodeProto], ValueInfoProto]:
    """What runtimes take of a CTC network: the logarithms of probabilities, in float, behind the integers."""
    logits = program.output("logits")
    backend.store("logits/scale", np.array(program.values[logits.value].scale, dtype=np.float32))
    nodes = [
        helper.make_node("Cast", ["logits"], ["logits/float"], name="logits/float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["logits/float", "logits/scale"], ["logits/real"], name="logits/real"),
        helper.make_node("LogSoftmax", ["logits/real"], ["logprobs"], name="logprobs", axis=-1),
    ]
    return nodes, helper.make_tensor_value_info("logprobs", TensorProto.FLOAT, list(logits.dims))


def _tensor(name: str, port: Port | StatePort) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, _PORT_TYPES[port.type], list(port.dims))


def check_surroundings(program: Program, deployment: Deployment, shapes: Shapes) -> None:
    """Require that a well-formed program, whose values are ``shapes``, fits what surrounds it.

    It takes what the frontend gives, of all the audio that is promised; the logits of a CTC network are
    [B, S, V], one for every token and the blank, of as many frames as is said, and mean what a softmax can
    use.  Raises ExportError.
    """
    if program.features is None:
        return
    taken = tuple(port.name for port in program.inputs)
    if deployment.with_frontend and taken != _FROM_FRONTEND:
        problem = f"takes {', '.join(taken)}; a frontend gives {' and '.join(_FROM_FRONTEND)}"
        raise ExportError(deployment.name, problem, "export it without its frontend")
    if deployment.frontend.features != program.channels:
        problem = (
            f"the frontend gives {deployment.frontend.features} mels, the program takes {program.channels}"
        )
        raise ExportError(deployment.name, problem)
    shortest = shapes.least.get(str(program.features.dims[-1]), 1)
    if not shortest <= deployment.max_frames <= program.max_frames:
        raise ExportError(
            deployment.name,
            f"promises {deployment.max_seconds} s of audio, {deployment.max_frames} frames; the program is "
            f"proven for {shortest} to {program.max_frames} frames",
        )
    if not is_ctc(program):
        return
    port, tokens = program.output("logits"), len(deployment.tokenizer.tokens) + 1
    _, frames, channels = shapes.values[port.value].dims
    if channels != tokens:
        raise ExportError(port.value, f"has {channels} channels for {tokens} tokens, the blank among them")
    steps = frames.by if isinstance(frames, Extent) else 0
    if steps != deployment.subsampling_factor:
        raise ExportError(
            deployment.name,
            f"says that {deployment.subsampling_factor} frames give one encoded, the program takes {steps}",
        )
    _check_logits(program, port)


def _check_logits(program: Program, port: Port) -> None:
    """The logits mean numbers that a softmax in float32 tells apart."""
    info = program.values.get(port.value)
    if info is None:
        raise ExportError(port.value, "nothing is said of what the logits mean")
    spread = (info.hi - info.lo) * info.scale
    if not _LEAST_SPREAD <= spread <= _MOST_SPREAD:
        raise ExportError(
            port.value,
            f"the logits' scale is {info.scale:g}, so that they spread over {spread:g}; "
            f"a softmax needs {_LEAST_SPREAD:g} to {_MOST_SPREAD:g}",
        )


def _backend(program: Program, dialect: str, target: str) -> OnnxStrictBackend:
    if target not in TARGET_BOUNDS:
        raise ExportError(target, "unknown target", f"choose one of {', '.join(TARGET_BOUNDS)}")
    if dialect in ("strict", "qdq") and (floats := islands(program)):
        raise ExportError(
            ", ".join(island.name for island in floats),
            f"{dialect} cannot hold what is kept in float",
            "export fused, or quantize without --keep-float and --allow-float",
        )
    if dialect == "strict":
        return OnnxStrictBackend(target)
    if dialect == "qdq":
        return OnnxQdqBackend(program, target)
    if dialect != "fused":
        raise ExportError(dialect, "unknown dialect", f"choose one of {', '.join(DIALECTS)}")
    return OnnxFusedBackend(target)


def _nemo_metadata(deployment: Deployment) -> dict[str, str]:
    """The keys that runtimes read of any model of NeMo's."""
    normalize = deployment.frontend.normalize
    return {
        "normalize_type": normalize if isinstance(normalize, str) else "",
        "subsampling_factor": str(deployment.subsampling_factor),
        "vocab_size": str(len(deployment.tokenizer.tokens)),
    }


def _ctc_metadata(deployment: Deployment) -> dict[str, str]:
    """The keys that runtimes for NeMo's CTC models read."""
    characters = deployment.tokenizer.kind == "characters"
    model = "EncDecCTCModel" if characters else "EncDecCTCModelBPE"
    return {"model_type": model, **_nemo_metadata(deployment)}


def _transducer_metadata(deployment: Deployment) -> dict[str, str]:
    """The keys that sherpa-onnx reads of the encoder of one of NeMo's transducers."""
    ports, decoding = deployment.runtime_ports, deployment.decoding
    assert ports is not None
    assert decoding is not None
    return {
        **_nemo_metadata(deployment),
        # it makes no difference of what tokens are, and knows no other
        "model_type": "EncDecRNNTBPEModel",
        "pred_rnn_layers": str(ports.layers),
        "pred_hidden": str(ports.units),
        "feat_dim": str(deployment.frontend.features),
        # that it has durations, it finds out by whether the address of the model has "tdt" in it
        "url": "tdt" if decoding.durations else "",
    }


# -- bundles ---------------------------------------------------------------------------------------


def export_bundle(
    bundle: Bundle, deployment: Deployment, dialect: str, target: str = "x86-any"
) -> dict[str, Export]:
    """Spell every program of a bundle in a dialect, as ``export`` does; returns the parts' files.

    Raises ExportError for a transducer's whose programs are not what decoding takes, too.
    """
    check_transducer(bundle, deployment)
    return {part: export(one, deployment, dialect, target, part) for part, one in bundle.programs.items()}


def bundle_files(
    exports: Mapping[str, Export], deployment: Deployment, optimized: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """Return the files of a bundle's folder by name: PART.onnx each, and ``bundle.json``, which lists them.

    What ``bundle.json`` holds follows from the others: tokens, frontend and recipe, and of every part the
    hashes of its program and of its file.  With the ports of a runtime the folder has that runtime's names,
    and the texts that it reads.

    ``optimized``: part → what ONNX Runtime made of it, which is PART.ort in its place.
    """
    ports = deployment.runtime_ports
    names = {part: file_of(part, ports) for part in sorted(exports)}
    if optimized is not None:
        names = {part: f"{part}{ENDING}" for part in names}
    files = {
        names[part]: exports[part].to_bytes() if optimized is None else optimized[part] for part in names
    }
    listed = {
        part: {
            "file": name,
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "program_sha256": exports[part].program_sha256,
        }
        for part, name in names.items()
    }
    if ports is not None:
        files |= texts(ports.runtime, deployment)
    own = {
        "format": METADATA_VERSION,
        "version": __version__,
        **deployment.to_dict(),
        "parts": listed,
    }
    text = json.dumps(own, indent=1, sort_keys=True, ensure_ascii=False)
    return {**files, BUNDLE_FILE: f"{text}\n".encode()}


def write_bundle(path: str | os.PathLike[str], exports: Mapping[str, Export], deployment: Deployment) -> None:
    """Write a bundle whole or not at all: one file of one part, else the folder of ``bundle_files``.

    A folder that is a bundle already is replaced; ConfigError for one that holds anything else.
    """
    if len(exports) == 1:
        atomic_write_bytes(path, next(iter(exports.values())).to_bytes())
    else:
        atomic_write_folder(path, bundle_files(exports, deployment), BUNDLE_FILE)
