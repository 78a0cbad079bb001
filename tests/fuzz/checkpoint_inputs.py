"""NeMo archives and folders, and PyTorch files of weights."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import pickle
import random
import tarfile
from collections.abc import Callable
from typing import Any

import torch
import yaml

from fuzz import mutations as m
from fuzz.inputs import (
    MAY,
    MUST_REFUSE,
    NEUTRAL,
    NO_FILES,
    Case,
    kind,
    link,
    odd_name,
    reading,
    recordings,
)
from fuzz.oracle import Explain
from fuzz.seeds import Seeds
from zeroq_asr.speech.frontend import FrontendConfig

CONFIG, WEIGHTS = "./model_config.yaml", "./model_weights.ckpt"
#: options that mean nothing when a network runs, and sections that no network has
_IGNORED = {
    "dither",
    "dropout",
    "dropout_att",
    "optim",
    "train_ds",
    "target",
    "pos_emb_max_len",
    "dir",
    "type",
}


def of_nemo(
    rng: random.Random, seeds: Seeds, base: str, data: bytes, what: str, label: str, expected: str = "any"
) -> Case:
    """Return the case of a .nemo archive."""
    name = odd_name(rng, "model.nemo")
    argv, more = reading(rng, name)
    claim = None if label == MUST_REFUSE else Explain("checkpoint", (name,), base, expected)
    files = {name: data, **recordings(seeds)}
    return Case(what, label, argv, files, explain=claim, **more)


def _pick(rng: random.Random) -> str:
    return rng.choice(("conv.nemo", "conv.nemo", "conformer.nemo", "bpe.nemo"))


@kind("nemo archive", 1.6)
def nemo_archive(rng: random.Random, seeds: Seeds) -> Case:
    """Members, headers and the compression of a .nemo archive."""
    base = _pick(rng)
    whole = seeds[base]
    members = list(m.untar(whole).items())
    at = rng.randrange(len(members))
    name, data = members[at]
    others = members[:at] + members[at + 1 :]
    case = functools.partial(of_nemo, rng, seeds, base)
    links = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"S")
    end = 512 * sum(1 + -(-len(d) // 512) for _, d in members)

    def swapped() -> Case:
        odd = rng.choice((name.upper(), f"x/{name}", f"{name}.bak", "\x1b[31m" + name))
        return case(m.tar([*others, (odd, data)]), f"{name} called {odd!r}", MUST_REFUSE)

    def outside() -> Case:
        odd = rng.choice(
            (f"../{name}", f"/{name[2:]}", f"a/../../{name}", "..", "\\x", "/etc/passwd", "../x")
        )
        return case(m.tar([*members, (odd, b"x")]), f"a member {odd!r}", MUST_REFUSE)

    def linked() -> Case:
        target = rng.choice(("/etc/passwd", "model_config.yaml", "../x", "/dev/zero"))
        entry = m.header(rng.choice((name, "./x")), rng.choice(links), target)
        rest = others if entry.name == name else members
        return case(m.tar([(entry, b""), *rest]), f"{entry.name} of type {entry.type!r}", MUST_REFUSE)

    def surplus() -> Case:
        odd = rng.choice(("./README.md", "./x/y", "./\x1b[31m", "./[bold]", "./" + "x" * 300, "./vocab.txt"))
        size = rng.choice((0, 1, 100_000))
        return case(m.tar([*members, (odd, bytes(size))]), f"surplus {odd!r:.30}", NEUTRAL, "equal")

    def zipped() -> Case:
        packed = gzip.compress(whole, mtime=0)
        how = rng.randrange(5)
        if how == 0:
            return case(packed, "compressed", NEUTRAL, "equal")
        if how == 1:
            return case(packed[: rng.randrange(20, len(packed))], "compressed and cut", MUST_REFUSE)
        if how == 2:
            # behind the header of gzip, which has a name and times that nobody reads
            return case(m.flip(rng, packed, 10), "compressed and flipped", MUST_REFUSE)
        if how == 3:
            junk = rng.choice((b"\0" * 9, rng.randbytes(99), gzip.compress(b"x")))
            return case(packed + junk, "compressed, and more behind it", MAY)
        return case(gzip.compress(packed), "compressed twice", MUST_REFUSE)

    def formats() -> Case:
        form = rng.choice((tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT))
        prefix = rng.choice(("", "./"))
        named = [(prefix + n.removeprefix("./"), d) for n, d in members]
        return case(m.tar(named, form), f"format {form}, names begin {prefix!r}", NEUTRAL, "equal")

    ways: list[Callable[[], Case]] = [
        lambda: case(m.tar(others), f"{name} dropped", MUST_REFUSE),
        lambda: case(m.tar([*members, (name, data)]), f"{name} twice", MUST_REFUSE),
        lambda: case(
            m.tar([*members, (name[2:], m.flip(rng, data))]), f"{name} twice, once flipped", MUST_REFUSE
        ),
        swapped,
        outside,
        linked,
        surplus,
        zipped,
        zipped,
        formats,
        lambda: case(whole[: rng.randrange(end)], "cut", MUST_REFUSE),
        lambda: case(whole[:end], "without its end", MAY, "equal"),
        lambda: case(m.tar_header_changed(rng, whole, rng.randrange(len(members))), "a header", MAY),
        lambda: case(m.tar_header_changed(rng, whole, rng.randrange(len(members))), "a header", MAY),
        lambda: case(m.flip(rng, whole), "flipped", MAY),
        lambda: case(m.patch(rng, whole), "patched", MAY),
        lambda: case(whole + rng.randbytes(rng.choice((1, 512, 20_000))), "more behind it", MAY),
        lambda: case(
            m.tar([(f"./{i}", b"") for i in range(rng.choice((1001, 20_000)))]), "members", MUST_REFUSE
        ),
        lambda: case(seeds.once("bomb", m.bomb), "a gzip bomb", MUST_REFUSE),
        lambda: case(m.tar([]), "empty", MUST_REFUSE),
        lambda: case(m.tar([("./inner.nemo", whole)]), "an archive inside", MUST_REFUSE),
        lambda: case(m.tar([(n, b"") for n, _ in members]), "empty members", MUST_REFUSE),
        lambda: _no_file(rng, seeds),
    ]
    return rng.choice(ways)()


def _no_file(rng: random.Random, seeds: Seeds) -> Case:
    what, content = rng.choice(NO_FILES)
    name = rng.choice(("model.nemo", "model.pt", "model.onnx", "model.pt2", "model.bin", "model"))
    name = "loop" if what == "a link to itself" else name
    argv, more = reading(rng, name)
    return Case(f"{what} called {name}", MUST_REFUSE, argv, {name: content, **recordings(seeds)}, **more)


# -- configurations --------------------------------------------------------------------------------------


def meaningful(path: m.Path) -> bool:
    """Tell whether a place of a NeMo configuration says something of the network, its features or tokens."""
    if not path or any(key in _IGNORED for key in path):
        return False
    # the module of a class is not read, and rates of training sections are not
    return path[0] in ("encoder", "decoder", "preprocessor") and path[-1] != "_target_"


def _by_default(change: m.Change) -> bool:
    """Tell whether what was left away says what its absence says, too: NeMo's default, or what others say."""
    same = {
        "conv_mask": True,
        "self_attention_model": "rel_pos",
        "frame_splicing": 1,
        "subsampling": "striding",
        "att_context_size": [-1, -1],
    }
    key = change.path[-1]
    if key == "num_classes" and all(isinstance(n, int) and n <= 0 for n in (change.old, change.new)):
        return True  # as many as the vocabulary has
    if "kernel" in change.path and isinstance(change.old, int) and isinstance(change.new, int):
        return change.old | 1 == change.new | 1  # NeMo makes them odd
    # the tokens know the classes, the encoder the width of the decoder's input
    told = key == "num_classes" or (key == "feat_in" and "decoder" in change.path)
    return change.how == "dropped" and (told or (key in same and same[key] == change.old))


def configuration(rng: random.Random, text: bytes) -> tuple[bytes, str, str, str]:
    """Return another configuration, what was done, the label and what the result must do."""
    chance = rng.random()
    if chance < 0.72:
        tree = yaml.safe_load(text)
        change = m.changed(rng, tree, only=lambda path: path[0] != "optim" or rng.random() < 0.2)
        says = meaningful(change.path) and not m.same_meaning(change.old, change.new)
        says = says and not _by_default(change)
        if change.how == "added":
            says = False  # surplus keys: those of the preprocessor are refused, others belong to newer NeMo
        out = m.to_yaml(change.tree, allow_unicode=rng.random() < 0.5)
        return out, str(change), MAY, "differ" if says else "any"
    if chance < 0.84:
        out, what = m.odd_text(rng, text)
        return out, what, MAY, "any"
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    bombs = b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9))
    ways: list[tuple[str, str, Callable[[], bytes]]] = [
        (
            "a tag that calls",
            MUST_REFUSE,
            lambda: b"x: !!python/object/apply:os.system ['touch ../canary/ran']\n" + text,
        ),
        (
            "a tag that makes",
            MUST_REFUSE,
            lambda: text + b"y: !!python/object/new:os.mkdir ['../canary/ran']\n",
        ),
        ("an unknown tag", MUST_REFUSE, lambda: text + b"y: !foo 1\n"),
        ("aliases", MAY, lambda: b"a0: &a0 [1,1]\n" + bombs + b"labels: *a8\n" + text),
        ("an alias to itself", MAY, lambda: text.replace(b"encoder:\n", b"encoder: &e\n  self: *e\n", 1)),
        ("a merge", MAY, lambda: text + b"more: &m {a: 1}\nagain: {<<: *m}\n"),
        ("a tab", MAY, lambda: b"".join([*lines[:at], b"\t" + lines[at], *lines[at + 1 :]])),
        ("a line twice", MAY, lambda: b"".join([*lines[:at], lines[at], *lines[at:]])),
        ("two documents", MUST_REFUSE, lambda: text + b"---\n" + text),
        (
            "a reference in a circle",
            MAY,
            lambda: text.replace(b"feat_in: 12", b"feat_in: ${encoder.feat_in}", 1),
        ),
        (
            "a reference to a number",
            NEUTRAL,
            lambda: text.replace(b"feat_in: 12", b"feat_in: ${preprocessor.features}", 1),
        ),
        ("1e-4 without a point", NEUTRAL, lambda: text.replace(b"0.0001", b"1e-4", 1)),
        (
            "3e-2 without a point",
            NEUTRAL,
            lambda: text.replace(b"window_size: 0.03", b"window_size: 3e-2", 1),
        ),
        ("below model", NEUTRAL, lambda: b"model:\n" + b"".join(b"  " + line for line in lines)),
        ("a date", MAY, lambda: text.replace(b"hamming", b"2001-01-01", 1)),
        ("a sexagesimal", MAY, lambda: text.replace(b"16000", b"4:26:40", 1)),
        ("an octal", MAY, lambda: text.replace(b"features: 12", b"features: 014", 1)),
        ("binary", MAY, lambda: text.replace(b"hamming", b"!!binary aGk=", 1)),
        ("a set", MAY, lambda: text.replace(b"activation: relu", b"activation: !!set {relu}", 1)),
    ]
    what, label, way = rng.choice(ways)
    return way(), what, label, "equal" if label == NEUTRAL else "any"


@kind("nemo configuration", 2.0)
def nemo_configuration(rng: random.Random, seeds: Seeds) -> Case:
    """The YAML of a .nemo archive, or of weights that come without one."""
    if rng.random() < 0.3:
        text, what, label, expected = configuration(rng, seeds["model_config.yaml"])
        argv, more = reading(rng, "state.ckpt", "--config", "conf.yaml")
        files = {"state.ckpt": seeds["state.ckpt"], "conf.yaml": text, **recordings(seeds)}
        claim = Explain("checkpoint", ("state.ckpt", "conf.yaml"), "state.ckpt", expected)
        return Case(what, label, argv, files, explain=claim, **more)
    base = _pick(rng)
    members = m.untar(seeds[base])
    members[CONFIG], what, label, expected = configuration(rng, members[CONFIG])
    return of_nemo(rng, seeds, base, m.tar(members.items()), what, label, expected)


@kind("nemo folder", 0.6)
def nemo_folder(rng: random.Random, seeds: Seeds) -> Case:
    """A .nemo archive that somebody unpacked."""
    base = _pick(rng)
    members = m.untar(seeds[base])
    files: dict[str, Any] = {f"model/{name[2:]}": data for name, data in members.items()}
    chance, label, expected, what = rng.random(), MAY, "any", "whole"
    if chance < 0.4:
        text, what, label, expected = configuration(rng, members[CONFIG])
        files["model/model_config.yaml"] = text
    elif chance < 0.5:
        name = rng.choice([*files])
        what, files[name] = rng.choice(NO_FILES)
        what, label = f"{name} is {what}", MUST_REFUSE
    elif chance < 0.6:
        name = rng.choice([*files])
        del files[name]
        what, label = f"{name} is gone", MUST_REFUSE
    elif chance < 0.7:
        files[f"model/{odd_name(rng, 'more.txt', 1)}"] = b"x"
        what = "surplus files"
    elif chance < 0.85:
        files["model/model_weights.ckpt"], what = m.evil(rng)
        label = MUST_REFUSE
    elif chance < 0.9:
        files["model/tokenizer.model"] = link("/dev/zero")
        what = "tokenizer.model is /dev/zero"
    argv, more = reading(rng, "model")
    claim = None if label == MUST_REFUSE else Explain("checkpoint", ("model",), f"folder {base}", expected)
    return Case(f"{base}: {what}", label, argv, {**files, **recordings(seeds)}, explain=claim, **more)


@kind("nemo tokenizer", 0.4)
def nemo_tokenizer(rng: random.Random, seeds: Seeds) -> Case:
    """The SentencePiece model of a .nemo archive."""
    members = m.untar(seeds["bpe.nemo"])
    data = members["./tokenizer.model"]
    if rng.random() < 0.5:
        members["./tokenizer.model"], what = m.damaged(rng, data), "damaged"
    else:
        from sentencepiece import sentencepiece_model_pb2 as schema

        model = schema.ModelProto.FromString(data)
        odd = rng.choice([text for text in m.ODD_TEXTS if "\ud800" not in text])
        model.pieces[rng.randrange(len(model.pieces))].piece = odd
        if rng.random() < 0.3:
            model.pieces.add(piece=odd, score=0.0)
        members["./tokenizer.model"], what = model.SerializeToString(), f"a piece {odd!r:.30}"
    return of_nemo(rng, seeds, "bpe.nemo", m.tar(members.items()), what, MAY)


# -- weights ---------------------------------------------------------------------------------------------


def _state(rng: random.Random, data: bytes) -> tuple[Any, str, str, str]:
    """Return another state dict, what was done, the label and what the result must do."""
    state: Any = torch.load(io.BytesIO(data), weights_only=True)
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    name = rng.choice(names)
    chance = rng.random()
    if chance < 0.6:
        state[name], how, same = m.odd_tensor(rng, state[name])
        refused = {"NaN", "infinity", "sparse", "meta", "complex", "bool", "quantized", "empty"}
        label = MUST_REFUSE if how in refused else MAY
        return state, f"{name}: {how}", label, "equal" if same else "differ"
    if chance < 0.68:
        del state[name]
        return state, f"{name} is gone", MUST_REFUSE, "any"
    if chance < 0.76:
        key: Any = rng.choice((*m.ODD_TEXTS[:-1], "more.weight", f"{name}_", 5, None, ("a",), "_metadata"))
        state[key] = torch.ones(2)
        return state, f"surplus {key!r:.40}", MUST_REFUSE, "any"
    if chance < 0.84:
        state[name] = rng.choice((None, 1.5, "x", [1.0], {"a": state[name]}, torch.Size([1]), torch.float32))
        return state, f"{name}: {type(state[name]).__name__}", MUST_REFUSE, "any"
    if chance < 0.9:
        return (
            {"state_dict": state, "epoch": 3, "hyper_parameters": {"a": [1]}},
            "in a checkpoint",
            MAY,
            "any",
        )
    if chance < 0.95:
        wrapped = rng.choice(([state], {"a": state}, {"state_dict": {"state_dict": state}}, {}, [], None, 5))
        return wrapped, f"in a {type(wrapped).__name__}", MUST_REFUSE, "any"
    other = rng.choice(names)
    state[name], state[other] = state[other], state[name]
    return state, f"{name} and {other} swapped", MAY, "any" if name == other else "differ"


@kind("weights", 1.3)
def torch_weights(rng: random.Random, seeds: Seeds) -> Case:
    """State dicts, in an archive and beside a configuration."""
    base = _pick(rng)
    alone = rng.random() < 0.4
    data = seeds["state.ckpt"] if alone else m.untar(seeds[base])[WEIGHTS]
    legacy = rng.random() < 0.2
    chance = rng.random()
    if chance < 0.6:
        value, what, label, expected = _state(rng, data)
        try:
            data = m.saved(value, legacy=legacy)
        except Exception:  # no file can hold some tensors
            data, what, label, expected = m.odd_pickle(rng), "an odd pickle", MUST_REFUSE, "any"
    elif chance < 0.75:
        data, what, label, expected = m.damaged(rng, data), "damaged", MAY, "any"
    elif chance < 0.85:
        data, what, label, expected = m.odd_pickle(rng), "an odd pickle", MUST_REFUSE, "any"
    else:
        records = m.unzip(data)
        name = rng.choice([*records])
        how = rng.randrange(6)
        what, label, expected = f"{name} of the zip", MAY, "any"
        if how == 0:
            records[name] = m.damaged(rng, records[name])
        elif how == 1:
            del records[name]
        elif how == 2:
            records[rng.choice(("archive/constants.pkl", "../x", "archive/code/a.py", "x"))] = b"x"
        elif how == 3:
            records["archive/data.pkl"], what = m.evil(rng, records["archive/data.pkl"])
            label = MUST_REFUSE
        items = list(records.items())
        if how == 4:
            items.append(rng.choice(items))
            what = "a record twice"
        if how == 5:
            data = m.zip_bomb(items, "archive/data/99")
            what = "a large record"
        else:
            data = m.to_zip(items, compressed=rng.random() < 0.2)
    if alone:
        argv, more = reading(rng, "model.ckpt", "--config", "conf.yaml")
        files = {"model.ckpt": data, "conf.yaml": seeds["model_config.yaml"], **recordings(seeds)}
        claim = Explain("checkpoint", ("model.ckpt", "conf.yaml"), "state.ckpt", expected)
        return Case(what, label, argv, files, explain=None if label == MUST_REFUSE else claim, **more)
    members = {**m.untar(seeds[base]), WEIGHTS: data}
    return of_nemo(rng, seeds, base, m.tar(members.items()), what, label, expected)


@kind("crafted pickle", 1.2)
def crafted_pickle(rng: random.Random, seeds: Seeds) -> Case:
    """Pickles that run code when they are read as pickles, wherever a pickle may lie."""
    state = torch.load(io.BytesIO(seeds["state.ckpt"]), weights_only=True)
    plain = pickle.dumps(dict.fromkeys(state), 2)
    data, what = m.evil(rng, plain)
    extra = {"evil.pt": m.evil(rng)[0], **recordings(seeds)}
    where = rng.randrange(7)
    config = ("--config", "conf.yaml")
    extra["conf.yaml"] = seeds["model_config.yaml"]

    def zipped() -> bytes:
        records = m.unzip(seeds["own.pt"])
        folder = next(iter(records)).partition("/")[0]
        inner, _ = m.evil(rng, records[f"{folder}/data.pkl"])
        return m.to_zip([*{**records, f"{folder}/data.pkl": inner}.items()])

    if where == 0:
        argv, more = reading(rng, "model.pt", *config)
        return Case(f"alone: {what}", MUST_REFUSE, argv, {"model.pt": data, **extra}, **more)
    if where == 1:
        argv, more = reading(rng, "model.pt")
        return Case("in a zip", MUST_REFUSE, argv, {"model.pt": zipped(), **extra}, **more)
    if where == 2:
        members = {**m.untar(seeds["conv.nemo"]), WEIGHTS: rng.choice((data, zipped()))}
        return of_nemo(rng, seeds, "conv.nemo", m.tar(members.items()), f"weights: {what}", MUST_REFUSE)
    if where == 3:
        legacy = m.saved(state, legacy=True)
        cut = legacy.index(b"\x80", 2) if b"\x80" in legacy[2:] else 2
        argv, more = reading(rng, "model.pt", *config)
        both = rng.choice((legacy[:cut] + data + legacy[cut:], data + legacy))
        return Case(f"in the old format: {what}", MUST_REFUSE, argv, {"model.pt": both, **extra}, **more)
    if where == 4:
        records = m.unzip(seeds["program.pt2"])
        name = rng.choice([n for n in records if "sample_inputs" in n] or [*records])
        records[name] = rng.choice((data, zipped()))
        argv, more = reading(rng, "model.pt2", *config)
        files = {"model.pt2": m.to_zip(records.items()), **extra}
        return Case(f"sample inputs of a program: {what}", MUST_REFUSE, argv, files, **more)
    if where == 5:
        files = {f"hf/{n}": d for n, d in seeds.folder("hf").items() if not n.endswith("safetensors")}
        files["hf/pytorch_model.bin"] = rng.choice((data, zipped()))
        argv, more = reading(rng, "hf")
        return Case(f"pytorch_model.bin: {what}", MUST_REFUSE, argv, {**files, **extra}, **more)
    files = {"features.npz": m.to_zip([(f"{n}.npy", _object_array(data)) for n in ("features", "lengths")])}
    files["conv.nemo"] = seeds["conv.nemo"]
    argv = ("quantize", "conv.nemo", "-o", "out.onnx", "--calibration", "features.npz", "-q")
    return Case(f"an array of objects: {what}", MUST_REFUSE, argv, files)


def _object_array(data: bytes) -> bytes:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


@kind("own checkpoint", 1.0)
def own_checkpoint(rng: random.Random, seeds: Seeds) -> Case:
    """The file that ``save_checkpoint`` writes."""
    data = seeds["own.pt"]
    content = torch.load(io.BytesIO(data), weights_only=True)
    chance = rng.random()
    label, expected = MAY, "any"
    if chance < 0.55:
        tree = {key: value for key, value in content.items() if key != "state_dict"}
        change = m.changed(rng, tree)
        says = change.path[0] in ("config", "tokenizer", "frontend", "architecture", "format", "version")
        # its own tokens stand beside the configuration, which is read for the network alone
        ignored = any(key in _IGNORED or key in ("_target_", "vocabulary") for key in change.path)
        says = says and not ignored and change.how != "added" and not _by_default(change)
        if change.how == "dropped" and change.path[0] == "frontend":
            defaults = {f.name: f.default for f in dataclasses.fields(FrontendConfig)}
            says = says and defaults.get(change.path[-1], m.MISSING) != change.old
        expected = "differ" if says and not m.same_meaning(change.old, change.new) else "any"
        what = str(change)
        content = {**change.tree, "state_dict": content["state_dict"]}
        if isinstance(change.new, str) and "\ud800" in change.new:
            expected = "any"
    elif chance < 0.8:
        inner = m.saved(content["state_dict"])
        content["state_dict"], what, label, expected = _state(rng, inner)
        if what.startswith(("in a checkpoint",)):
            label, expected = MUST_REFUSE, "any"
    else:
        damaged = m.damaged(rng, data)
        argv, more = reading(rng, "model.pt")
        return Case("damaged", MAY, argv, {"model.pt": damaged, **recordings(seeds)}, **more)
    try:
        saved = m.saved(content)
    except Exception:  # no file can hold some values
        saved, what, label = m.odd_pickle(rng), "an odd pickle", MUST_REFUSE
    name = odd_name(rng, "model.pt")
    argv, more = reading(rng, name)
    claim = None if label == MUST_REFUSE else Explain("checkpoint", (name,), "own.pt", expected)
    return Case(what, label, argv, {name: saved, **recordings(seeds)}, explain=claim, **more)
