"""ONNX files: ours, with bytes and messages changed and with consistent forgeries, and those of others."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzz import mutations as m
from fuzz.inputs import MAY, MUST_REFUSE, NEUTRAL, NO_FILES, Case, kind, odd_name
from fuzz.oracle import Explain
from fuzz.seeds import OURS, Seeds

#: the key of our metadata
KEY = "zeroq_asr"


def _reading(
    rng: random.Random, seeds: Seeds, name: str, base: str
) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Return a command that reads one of our files but does not prove it."""
    conv = base.startswith("conv") or not base.startswith("program")
    chance = rng.random()
    if chance < 0.5 or not conv:
        return ("inspect", name, *rng.choice(((), ("--json",)))), {}
    if chance < 0.9:
        return ("transcribe", name, "a.wav", *rng.choice(((), ("--json",)))), {"a.wav": seeds["a.wav"]}
    small = ("--iterations", "0", "--batch", "1", "--frames", "16", "-q")
    return ("report", "conv.nemo", name, *small), {"conv.nemo": seeds["conv.nemo"]}


def _verifying(seeds: Seeds, base: str, name: str, data: bytes, what: str, label: str) -> Case:
    claim = None if label == MUST_REFUSE else Explain("program", (name,))
    return Case(what, label, ("verify", name, "--json"), {name: data}, explain=claim)


@kind("our onnx, bytes", 1.2)
def our_bytes(rng: random.Random, seeds: Seeds) -> Case:
    """Bytes of our files."""
    base = rng.choice(OURS)
    name = odd_name(rng, "model.onnx")
    data = seeds[base]
    changed = m.damaged(rng, data)
    if rng.random() < 0.1:
        what, content = rng.choice(NO_FILES)
        name = "loop" if "itself" in what else name
        command = rng.choice(("verify", "inspect", "transcribe"))
        audio = ("a.wav",) if command == "transcribe" else ()
        files = {name: content, "a.wav": seeds["a.wav"]}
        return Case(f"{what} for {command}", MUST_REFUSE, (command, name, *audio), files)
    if rng.random() < 0.6:
        return _verifying(
            seeds, base, name, changed, f"{base} damaged", NEUTRAL if changed == data else MUST_REFUSE
        )
    argv, files = _reading(rng, seeds, name, base)
    return Case(f"{base} damaged", MAY, argv, {name: changed, **files})


# -- messages --------------------------------------------------------------------------------------------


def _odd_message(rng: random.Random, model: onnx.ModelProto) -> str:
    """Change one thing of a model's message; return what."""
    graph = model.graph
    node = rng.choice(graph.node)
    constants = list(graph.initializer)
    tensor = rng.choice(constants) if constants else graph.initializer.add(name="more")
    text = rng.choice([t for t in m.ODD_TEXTS if "\ud800" not in t])

    def attribute() -> str:
        owners = [n for n in graph.node if n.attribute]
        owner = rng.choice(owners or [node])
        if not owner.attribute:
            owner.attribute.append(helper.make_attribute("axis", 5))
            return f"{owner.op_type}: an axis"
        a = rng.choice(owner.attribute)
        value: Any = rng.choice((0, -1, 7, 2**40, -(2**63), 1.5, "x", [1, 2, 3], [], [2**40] * 4))
        if value == []:
            owner.attribute.remove(a)
            return f"{owner.op_type}.{a.name} gone"
        a.CopyFrom(helper.make_attribute(a.name, value))
        return f"{owner.op_type}.{a.name} = {value!r}"

    def edge() -> str:
        names = [o for n in graph.node for o in n.output] + [i.name for i in constants] + ["nothing", ""]
        where = rng.choice([n for n in graph.node if n.input] or [node])
        at = rng.randrange(len(where.input))
        where.input[at] = rng.choice(names)
        return f"input {at} of {where.op_type} is {where.input[at]}"

    def array() -> str:
        how = rng.randrange(8)
        if how == 0 and tensor.raw_data:
            tensor.raw_data = m.flip(rng, tensor.raw_data)
        elif how == 1:
            tensor.raw_data = tensor.raw_data[:-1]
        elif how == 2:
            del tensor.dims[:]
            tensor.dims.extend(rng.choice(([2**40], [-1], [0], [2**31, 2**31, 2**31], [1] * 70)))
        elif how == 3:
            tensor.data_type = rng.choice((0, 1, 2, 3, 5, 6, 7, 8, 9, 14, 16, 17, 22, 99))
        elif how == 4:
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = (
                "location",
                rng.choice(("../x", "/etc/passwd", "/dev/zero", "a.wav", text)),
            )
        elif how == 5:
            tensor.name = rng.choice((text, "", constants[0].name if constants else ""))
        elif how == 6:
            graph.initializer.append(tensor)
        else:
            graph.initializer.remove(tensor)
        return f"initializer {tensor.name!r:.30}: {how}"

    def shape() -> str:
        value = rng.choice([*graph.input, *graph.output])
        kind_ = value.type.tensor_type
        how = rng.randrange(4)
        if how == 0:
            kind_.elem_type = rng.choice((1, 6, 7, 10, 8, 0, 99))
        elif how == 1 and kind_.shape.dim:
            rng.choice(kind_.shape.dim).dim_value = rng.choice((0, -1, 1, 5, 2**62))
        elif how == 2:
            value.name = text
        else:
            kind_.shape.dim.add(dim_value=3)
        return f"{value.name!r:.30}: {how}"

    def metadata() -> str:
        if not model.metadata_props or rng.random() < 0.3:
            model.metadata_props.add(
                key=rng.choice((KEY, "subsampling_factor", "vocab_size", text)), value=text
            )
            return f"metadata {text!r:.30}"
        entry = rng.choice(model.metadata_props)
        entry.value = rng.choice((text, "", "0", "-1", "1e9", "9" * 5000, "{}", "[]", "null", "[" * 9000))
        return f"metadata {entry.key!r} = {entry.value!r:.30}"

    def structure() -> str:
        how = rng.randrange(11)
        if how == 0:
            graph.node.remove(node)
        elif how == 1:
            graph.node.append(node)
        elif how == 2:
            node.op_type = rng.choice(
                ("Identity", "Loop", "If", "Relu", "Nothing", text, "EyeLike", "RandomNormal")
            )
        elif how == 3:
            node.domain = rng.choice(("com.microsoft", "x", text, "ai.onnx.ml"))
        elif how == 4:
            model.ir_version = rng.choice((0, 1, 3, 99, 2**62))
        elif how == 5:
            model.opset_import[0].version = rng.choice((0, 1, 7, 99, -1, 2**62))
        elif how == 6:
            del model.opset_import[:]
        elif how == 7:
            graph.name = model.producer_name = model.doc_string = text
        elif how == 8:
            function = model.functions.add()
            function.name, function.domain = "Relu", ""
            function.node.append(helper.make_node("Relu", ["x"], ["y"]))
        elif how == 9:
            node.name = node.doc_string = text
        else:
            node.input.append(node.output[0])
        return f"structure {how} at {node.op_type!r:.20}"

    def deep() -> str:
        inner = graph
        for _ in range(rng.choice((3, 20, 45))):  # protobuf reads 100 messages within each other
            loop = inner.node.add(op_type="Loop", input=["", ""], output=["deep"])
            body = loop.attribute.add(name="body", type=onnx.AttributeProto.GRAPH)
            inner = body.g
            inner.name = "g"
        return "deep graphs"

    return rng.choice(
        (attribute, attribute, edge, array, array, shape, metadata, metadata, structure, structure, deep)
    )()


@kind("our onnx, messages", 1.2)
def our_messages(rng: random.Random, seeds: Seeds) -> Case:
    """Nodes, attributes, initializers and metadata of our files."""
    base = rng.choice(OURS)
    model = onnx.load_model_from_string(seeds[base])
    what = f"{base}: {_odd_message(rng, model)}"
    try:
        data = model.SerializeToString()
    except Exception:  # no message can hold some text
        data = b"\x08\x08"
    name = "model.onnx"
    if rng.random() < 0.6:
        return _verifying(seeds, base, name, data, what, NEUTRAL if data == seeds[base] else MUST_REFUSE)
    argv, files = _reading(rng, seeds, name, base)
    return Case(what, MAY, argv, {name: data, **files})


@kind("our onnx, metadata", 0.8)
def our_metadata(rng: random.Random, seeds: Seeds) -> Case:
    """Our JSON object, its hash made anew: what the file says of itself."""
    from zeroq_asr.deployment.metadata import metadata_digest

    base = rng.choice(OURS)
    model = onnx.load_model_from_string(seeds[base])
    entry = next(p for p in model.metadata_props if p.key == KEY)
    change = m.changed(rng, json.loads(entry.value))
    own = change.tree
    try:
        if rng.random() < 0.9 and isinstance(own, dict):
            own["metadata_sha256"] = metadata_digest(own)
        entry.value = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        data = model.SerializeToString()
    except Exception:  # no file can hold some values
        entry.value = "[" * 10_000
        data = model.SerializeToString()
    what = f"{base}: {change}"
    if rng.random() < 0.65:
        # what names it or says how it was made is believed
        return _verifying(seeds, base, "model.onnx", data, what, MAY)
    argv, files = _reading(rng, seeds, "model.onnx", base)
    return Case(what, MAY, argv, {"model.onnx": data, **files})


# -- consistent forgeries --------------------------------------------------------------------------------


def _near(rng: random.Random, value: Any) -> Any:
    """Return another value of the same type, so that only its meaning can be wrong."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        choices = (
            value + 1,
            value - 1,
            -value,
            value * 2,
            value // 2,
            0,
            1,
            255,
            2**15,
            2**31 - 1,
            value + 7,
        )
        return rng.choice(choices)
    if isinstance(value, float):
        return rng.choice((value * 2, value / 2, -value, 0.0, value * 1.01, 1e-30, 1e30))
    if isinstance(value, str):
        return rng.choice(("uint8", "int32", "odd", "even", "none", "sigmoid", f"{value}x"))
    if isinstance(value, tuple) and value:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:-1]
        return (*value[:at], _near(rng, value[at]), *value[at + 1 :])
    return value


def _forged(rng: random.Random, program: Any, deployment: Any) -> tuple[Any, Any, str]:
    """Return another program, or other surroundings, and what was changed."""
    code = list(program.code)
    at = rng.randrange(len(code))
    one = code[at]

    def attribute() -> str:
        with_attrs = [k for k, i in enumerate(code) if i.attrs]
        k = rng.choice(with_attrs)
        name = rng.choice([*code[k].attrs])
        attrs = {**code[k].attrs, name: _near(rng, code[k].attrs[name])}
        code[k] = dataclasses.replace(code[k], attrs=attrs)
        return f"{code[k].op}.{name} = {attrs[name]!r:.60}"

    def operand() -> str:
        k = rng.choice([k for k, i in enumerate(code) if i.ins])
        earlier = [i.out for i in code[:k]] + [p.value for p in program.inputs] + [*program.constants]
        ins = list(code[k].ins)
        place = rng.randrange(len(ins))
        ins[place] = rng.choice(earlier)
        code[k] = dataclasses.replace(code[k], ins=tuple(ins))
        return f"operand {place} of {code[k].op} is {ins[place]}"

    def constant() -> str:
        if not program.constants:
            return attribute()
        name = rng.choice([*program.constants])
        array = program.constants[name].copy()
        how = rng.randrange(6)
        if how == 0 and array.size:
            array.reshape(-1)[rng.randrange(array.size)] ^= 1
        elif how == 1 and array.size:
            info = np.iinfo(array.dtype)
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice((info.min, info.max, 0, 1))
        elif how == 2:
            array = array[..., :-1]
        elif how == 3:
            array = array.astype(rng.choice((np.int32, np.int8, np.uint8, np.int16, np.int64)))
        elif how == 4:
            array = array.T
        else:
            array = array[::-1]
        program.constants[name] = np.ascontiguousarray(array)
        return f"constant {name}: {how}"

    def value() -> str:
        name = rng.choice([*program.values])
        field = rng.choice([f.name for f in dataclasses.fields(program.values[name])])
        new = _near(rng, getattr(program.values[name], field))
        program.values[name] = dataclasses.replace(program.values[name], **{field: new})
        return f"value {name}.{field} = {new!r}"

    def instruction() -> str:
        how = rng.randrange(4)
        if how == 0 and len(code) > 1:
            del code[at]
            return f"{one.op} gone"
        if how == 1:
            code.insert(at, one)
            return f"{one.op} twice"
        if how == 2:
            other = rng.choice(code).op
            code[at] = dataclasses.replace(one, op=other)
            return f"{one.op} is {other}"
        code[at] = dataclasses.replace(one, where=rng.choice(m.ODD_TEXTS[:8]))
        return f"{one.op}: another layer"

    changes: dict[str, Any] = {}

    def lengths() -> str:
        steps = [k for k, i in enumerate(code) if i.op == "length_step"]
        if not steps:
            return attribute()
        k = rng.choice(steps)
        name = rng.choice([*code[k].attrs])
        attrs = {**code[k].attrs, name: code[k].attrs[name] + rng.choice((-2, -1, 1, 2))}
        code[k] = dataclasses.replace(code[k], attrs=attrs)
        return f"length_step.{name} = {attrs[name]}"

    def port() -> str:
        which = rng.choice(("inputs", "outputs"))
        ports = list(getattr(program, which))
        k = rng.randrange(len(ports))
        field = rng.choice(("name", "value", "type", "dims", "lo", "hi"))
        new = _near(rng, getattr(ports[k], field))
        if field == "value":
            new = rng.choice([i.out for i in code])
        ports[k] = dataclasses.replace(ports[k], **{field: new})
        changes[which] = tuple(ports)
        return f"{which} {k}.{field} = {new!r}"

    def frames() -> str:
        changes["max_frames"] = _near(rng, program.max_frames)
        return f"max_frames = {changes['max_frames']}"

    around = deployment

    def surroundings() -> str:
        nonlocal around
        field = rng.choice(
            ("max_seconds", "subsampling_factor", "subsampling_factor", "name", "frontend", "tokenizer")
        )
        new = _near(rng, getattr(deployment, field))
        if field == "frontend":
            inner = rng.choice(("window_stride", "window_size", "features", "sample_rate", "normalize"))
            new = dataclasses.replace(
                deployment.frontend, **{inner: _near(rng, getattr(deployment.frontend, inner))}
            )
        if field == "tokenizer":
            tokens = deployment.tokenizer.tokens
            new = dataclasses.replace(
                deployment.tokenizer, tokens=rng.choice((tokens[:-1], tokens[::-1], (*tokens, "x")))
            )
        around = dataclasses.replace(deployment, **{field: new})
        return f"{field} = {new!r:.60}"

    ways: list[Callable[[], str]] = (
        [attribute] * 5 + [operand] * 3 + [constant] * 3 + [value] * 2 + [instruction] * 2
    )
    ways += [lengths, lengths, port, frames, surroundings, surroundings]
    what = rng.choice(ways)()
    return dataclasses.replace(program, code=code, **changes), around, what


@kind("our onnx, forged", 2.0)
def our_forgeries(rng: random.Random, seeds: Seeds) -> Case:
    """A program of which something was changed, written by the package itself: every hash is right."""
    base = rng.choice(OURS)
    number = rng.getrandbits(32)

    def prepare(folder: Path) -> None:
        from zeroq_asr.deployment.export import export
        from zeroq_asr.deployment.verify import read_program

        inner = random.Random(number)
        program, deployment, own = read_program(onnx.load_model_from_string(seeds[base]))
        program, deployment, what = _forged(inner, program, deployment)
        (folder / "what.txt").write_text(what, encoding="utf-8", errors="backslashreplace")
        made = export(program, deployment, own["dialect"], own["target"])
        (folder / "model.onnx").write_bytes(made.to_bytes())

    claim = Explain("program", ("model.onnx",))
    argv = ("verify", "model.onnx", "--json")
    return Case(f"{base} forged", MAY, argv, prepare=prepare, explain=claim)


# -- files of others -------------------------------------------------------------------------------------


@kind("foreign onnx", 1.0)
def foreign(rng: random.Random, seeds: Seeds) -> Case:
    """Float files, with and without a word about what surrounds the network."""
    base = rng.choice(("foreign.onnx", "float.onnx"))
    label = MAY
    if rng.random() < 0.4:
        data, what = m.damaged(rng, seeds[base]), "damaged"
    else:
        model = onnx.load_model_from_string(seeds[base])
        what = _odd_message(rng, model)
        if rng.random() < 0.15:
            bad = numpy_helper.from_array(np.full((2,), np.nan, np.float32), "bad")
            model.graph.initializer.append(bad)
        try:
            data = model.SerializeToString()
        except Exception:  # no message can hold some text
            data = b"\x08\x08"
    name = odd_name(rng, "model.onnx")
    files = {name: data, "a.wav": seeds["a.wav"], "conv.nemo": seeds["conv.nemo"]}
    chance = rng.random()
    if chance < 0.45:
        argv: tuple[str, ...] = ("inspect", name, *rng.choice(((), ("--json",))))
    elif chance < 0.6:
        argv, label = ("verify", name), MUST_REFUSE
    else:
        lent = ("--checkpoint", "conv.nemo") if base == "foreign.onnx" else ()
        argv = ("transcribe", name, "a.wav", *lent)
    return Case(f"{base}: {what}", label, argv, files)


@kind("bundle", 0.6)
def bundle(rng: random.Random, seeds: Seeds) -> Case:
    """A folder of several programs and its list."""
    files: dict[str, Any] = {f"bundle/{name}": data for name, data in seeds.folder("bundle").items()}
    names = [*files]
    name = rng.choice(names)
    how = rng.randrange(8)
    label, what = MUST_REFUSE, ""
    if how == 0:
        tree = json.loads(files["bundle/bundle.json"])
        change = m.changed(rng, tree)
        files["bundle/bundle.json"], what = m.to_json(change.tree), str(change)
    elif how == 1:
        files["bundle/bundle.json"], what = m.odd_text(rng, files["bundle/bundle.json"])
        label = MAY
    elif how == 2:
        files[name], what = m.damaged(rng, files[name]), f"{name} damaged"
        label = MAY  # a cut may leave all of it
    elif how == 3:
        del files[name]
        what = f"{name} gone"
    elif how == 4:
        what, files[name] = rng.choice(NO_FILES)
        what = f"{name} is {what}"
    elif how == 5:
        odd = f"bundle/{odd_name(rng, 'more.onnx', 0.7)}"
        files[odd], what = rng.choice((b"", files[name], seeds["conv.strict.onnx"])), f"surplus {odd!r}"
    elif how == 6:
        what, files["bundle/more"] = rng.choice(NO_FILES)
        what = f"surplus {what}"
    else:
        a, b = "bundle/memory.onnx", "bundle/network.onnx"
        files[a], files[b] = files[b], files[a]
        what = "swapped"
    command = rng.choice(("verify", "verify", "verify", "inspect", "transcribe"))
    audio = ("a.wav",) if command == "transcribe" else ()
    files["a.wav"] = seeds["a.wav"]
    json_ = ("--json",) if command == "verify" else ()
    claim = Explain("program", ("bundle",)) if command == "verify" and label == MAY else None
    label = label if command == "verify" else MAY
    return Case(what, label, (command, "bundle", *audio, *json_), files, explain=claim)
