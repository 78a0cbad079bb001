"""Sound files, lists of them, saved features and plans."""

from __future__ import annotations

import io
import json
import os
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from fuzz import mutations as m
from fuzz.inputs import MAY, MUST_REFUSE, MUST_TELL, NEUTRAL, NO_FILES, Case, kind, odd_name
from fuzz.oracle import Explain
from fuzz.seeds import RATE, Seeds, encoded, sound, wav

#: a recogniser for every fourth case or so
_MODELS = ("conv.fused.onnx", "conv.fused.onnx", "conv.nemo")


def _listening(
    rng: random.Random, seeds: Seeds, files: dict[str, Any], what: str, label: str, **more: Any
) -> Case:
    model = rng.choice(_MODELS)
    names = [*files]
    options = rng.choice(((), ("--json",), ("-q",), ("--batch-size", "2")))
    if "explain" in more:
        options, model = ("--json",), "conv.nemo"
    argv = ("transcribe", model, *names, *options)
    return Case(what, label, argv, {**files, model: seeds[model]}, **more)


@kind("sound", 1.6)
def sounds(rng: random.Random, seeds: Seeds) -> Case:
    """Headers, samples and bytes of sound files."""
    base = rng.choice(("a.wav", "a.wav", "float.wav", "stereo.wav", "a.flac", "a.ogg", "a.aiff"))
    name = odd_name(rng, base)
    data = seeds[base]

    def one(content: Any, what: str, label: str, **more: Any) -> Case:
        files = {name: content}
        if rng.random() < 0.15:
            files["b.wav"] = seeds["b.wav"]
        return _listening(rng, seeds, files, f"{base}: {what}", label, **more)

    def field() -> Case:
        plain = seeds["a.wav"]
        places = {4: 4, 16: 4, 20: 2, 22: 2, 24: 4, 28: 4, 32: 2, 34: 2, 40: 4}
        at = rng.choice([*places])
        return one(m.whole_number_in_place(rng, plain, (at,), places[at]), f"a field at {at}", MAY)

    def rate() -> Case:
        value = rng.choice((1, 2, 10, 100, 999, 7999, 384_000, 10**6, 2**31 - 1, 2**32 - 1, 0))
        plain = seeds["a.wav"]
        return one(plain[:24] + struct.pack("<I", value) + plain[28:], f"{value} Hz", MAY)

    def channels() -> Case:
        count = rng.choice((0, 2, 3, 255, 1024, 1025, 65535))
        plain = seeds["a.wav"]
        block = struct.pack("<H", count) + plain[24:32] + struct.pack("<H", count * 2 & 0xFFFF)
        return one(plain[:22] + block + plain[34:], f"{count} channels", MAY)

    def bad_numbers() -> Case:
        samples = sound(0.3)
        value = rng.choice((np.nan, np.inf, -np.inf))
        samples[rng.randrange(len(samples))] = value
        return one(encoded(samples, "WAV", subtype=rng.choice(("FLOAT", "DOUBLE"))), f"{value}", MUST_REFUSE)

    def loud() -> Case:
        value = rng.choice((3e38, 1e30, 1e-40, 0.0, 1e10))
        return one(
            encoded(np.full((6000, 1), value, np.float32), "WAV", subtype="FLOAT"), f"all {value}", MAY
        )

    def cut() -> Case:
        end = rng.randrange(60 if base != "a.ogg" else 4000, len(data) - 40)
        return one(data[:end], f"cut to {end} bytes", MUST_TELL)

    def short() -> Case:
        count = rng.choice((0, 1, 2, 100, 300, 600))
        return one(wav(sound(1)[:count]), f"{count} samples", MUST_REFUSE if count < 3 else MAY)

    def chunks() -> Case:
        plain = seeds["a.wav"]
        size = rng.choice((0, 1, 4, 2**31 - 1, 2**32 - 1, 100))
        tag = rng.choice((b"LIST", b"junk", b"data", b"fmt ", b"\x1b[31", b"fact", b"cue "))
        extra = tag + struct.pack("<I", size) + bytes(rng.choice((0, 4, 100)))
        at = rng.choice((12, 36, len(plain)))
        return one(plain[:at] + extra + plain[at:], f"a chunk {tag!r} of {size} at {at}", MAY)

    def header_only() -> Case:
        return one(data[: rng.choice((1, 4, 12, 40, 44))], "a header alone", MUST_REFUSE)

    def no_file() -> Case:
        what, content = rng.choice(NO_FILES)
        files = {"loop" if "itself" in what else name: content}
        return _listening(rng, seeds, files, what, MUST_REFUSE)

    def long() -> Case:
        seconds = rng.choice((5, 30))
        many = wav(np.tile(sound(1.0), (seconds, 1)))
        return one(many, f"{seconds} s", MAY)

    def other() -> Case:
        form = rng.choice(
            (("RF64", "PCM_16"), ("W64", "PCM_24"), ("CAF", "PCM_16"), ("AU", "ULAW"), ("WAV", "MS_ADPCM"))
        )
        return one(encoded(sound(0.3), form[0], subtype=form[1]), f"{form}", MAY)

    ways: list[Callable[[], Case]] = [
        field,
        field,
        field,
        rate,
        channels,
        bad_numbers,
        loud,
        cut,
        cut,
        short,
        chunks,
        chunks,
        header_only,
        no_file,
        no_file,
        long,
        other,
        lambda: one(m.flip(rng, data, 0, 100), "header flipped", MAY),
        lambda: one(m.flip(rng, data), "flipped", MAY),
        lambda: one(m.patch(rng, data), "patched", MAY),
        lambda: one(b"fLaC" + rng.randbytes(80), "a random FLAC", MUST_REFUSE),
        lambda: one(b"OggS" + rng.randbytes(80), "a random OGG", MUST_REFUSE),
        lambda: one(b"RIFF" + rng.randbytes(80), "a random RIFF", MUST_REFUSE),
        lambda: one(b"\xff\xfb" + rng.randbytes(2000), "a random MP3", MAY),
        lambda: one(b"not sound\n" * 50, "text", MUST_REFUSE),
        lambda: one(seeds["conv.nemo"], "a model", MUST_REFUSE),
    ]
    return rng.choice(ways)()


# -- lists -----------------------------------------------------------------------------------------------

#: keys that say what is heard, and what was said
_HEARD = {"audio_filepath", "offset", "duration", "text", "channel_selector"}


def _evaluating(
    rng: random.Random, seeds: Seeds, manifest: str, files: dict[str, Any], what: str, label: str, **more: Any
) -> Case:
    model = "conv.nemo"
    argv: tuple[str, ...] = ("evaluate", model, "-m", manifest, "--json")
    if "explain" in more:
        argv = (*argv, "-o", "out.jsonl")
    else:
        argv = rng.choice(
            (
                argv,
                argv[:-1],
                (*argv, "-o", "out.jsonl"),
                (*argv, "--batch-size", "3"),
                # what is behind the limit may be wrong
                argv if label == MUST_REFUSE else (*argv, "--limit", "1"),
            )
        )
    outputs = ("work/out.jsonl",) if "out.jsonl" in argv else ()
    sounds_ = {name: seeds[name] for name in ("a.wav", "b.wav", "stereo.wav")}
    return Case(what, label, argv, {model: seeds[model], **sounds_, **files}, outputs=outputs, **more)


@kind("manifest", 1.6)
def manifest(rng: random.Random, seeds: Seeds) -> Case:
    """JSON lines of NeMo."""
    rows: list[dict[str, Any]] = [
        {"audio_filepath": "a.wav", "text": "a b", "duration": 0.25, "offset": 0.1},
        {"audio_filepath": "b.wav", "text": "c'd", "duration": 0.3, "offset": 0.15, "speaker": 5},
    ]
    name = odd_name(rng, "list.jsonl")
    text = b"".join(m.to_json(row) + b"\n" for row in rows)
    chance = rng.random()
    label, expected = MAY, "any"
    files: dict[str, Any] = {}
    if chance < 0.55:
        change = m.changed(rng, rows, only=lambda path: len(path) > 1)
        rows, what = change.tree, str(change)
        says = (
            change.path[1] in _HEARD and change.how != "added" and not m.same_meaning(change.old, change.new)
        )
        if isinstance(change.old, str) and isinstance(change.new, str):
            # error rates know no capitals
            says = says and change.old.lower().split() != change.new.lower().split()
        expected = "differ" if says else "any"
        text = b"".join(m.to_json(row) + b"\n" for row in rows if isinstance(row, dict))
    elif chance < 0.67:
        text, what = m.odd_text(rng, text)
    elif chance < 0.85:
        row = rows[0]
        key, value = rng.choice(
            (
                ("offset", 0.39),
                ("offset", 99.0),
                ("offset", -0.1),
                ("offset", 1e400),
                ("offset", 10**400),
                ("duration", 0),
                ("duration", 0.001),
                ("duration", 50.0),
                ("duration", 10**400),
                ("offset", "0.1"),
                ("duration", "0.2"),
                ("channel_selector", 0),
                ("channel_selector", 1),
                ("channel_selector", "average"),
                ("channel_selector", -1),
                ("channel_selector", [0, 1]),
                ("audio_filepath", "stereo.wav"),
                ("audio_filepath", os.path.join("..", "work", "a.wav")),
                ("audio_filepath", "/dev/zero"),
                ("audio_filepath", "~/a.wav"),
                ("audio_filepath", "http://127.0.0.1:9/a.wav"),
                ("audio_filepath", "a.tar:a.wav"),
                ("audio_filepath", "pipe"),
                ("audio_filepath", "."),
                ("audio_filepath", "sox a.wav -t wav - |"),
                ("text", "\u0041\u030a"),
                ("text", "ＡＢ"),
                ("text", "\x1b[31m"),
                ("text", "\ud800"),
                ("text", ""),
                ("text", "x" * 3000),
                ("text", ["a"]),
                ("end", 0.2),
                ("begin", 0.1),
                ("channel", 1),
                ("text", None),
            )
        )
        row[key], what = (
            value,
            f"{key} = {ascii(value)[:40] if not isinstance(value, int) or abs(value) < 10**20 else 'huge'}",
        )
        if value == "pipe":
            files["pipe"] = NO_FILES[0][1]
        if value in ("/dev/zero", "pipe", ".") or (key in ("end", "begin", "channel")):
            label = MUST_TELL
        if key == "offset" and value == 99.0:
            label = MUST_REFUSE
        text = b"".join(m.to_json(row) + b"\n" for row in rows)
    else:
        what, content = rng.choice(NO_FILES)
        name = "loop" if "itself" in what else name
        return _evaluating(rng, seeds, name, {name: content}, what, MUST_REFUSE)
    claim = Explain("printed", (), "manifest", expected)
    return _evaluating(rng, seeds, name, {**files, name: text}, what, label, explain=claim)


@kind("folder of sound", 0.7)
def tree(rng: random.Random, seeds: Seeds) -> Case:
    """LibriSpeech trees, and folders of recordings."""
    flac = seeds["a.flac"]
    lines = b"1-2-0000 A B\n1-2-0001 C D\n"
    files: dict[str, Any] = {
        "d/1/2/1-2.trans.txt": lines,
        "d/1/2/1-2-0000.flac": flac,
        "d/1/2/1-2-0001.flac": flac,
    }
    label, what = MAY, ""
    how = rng.randrange(9)
    transcript = "d/1/2/1-2.trans.txt"
    if how == 0:
        files[transcript], what = m.odd_text(rng, lines)
    elif how == 1:
        files[transcript], what = m.damaged(rng, lines), "damaged"
    elif how == 2:
        odd = rng.choice(("../../../a", "/etc/passwd", "1-2-0000\x00", "\x1b[31m", "", "x" * 300, "."))
        files[transcript], what, label = f"{odd} A B\n".encode() + lines, f"a name {odd!r:.20}", MAY
    elif how == 3:
        del files["d/1/2/1-2-0001.flac"]
        what, label = "a recording is gone", MUST_REFUSE
    elif how == 4:
        name = rng.choice([*files])
        what, files[name] = rng.choice(NO_FILES)
        what, label = f"{name} is {what}", MUST_REFUSE
    elif how == 5:
        files["d/manifest.jsonl"], what = m.odd_text(
            rng, b'{"audio_filepath": "1/2/1-2-0000.flac", "text": "a"}\n'
        )
    elif how == 6:
        files["d/loop"] = NO_FILES[2][1]
        files["d/1/up"] = lambda path: path.symlink_to("..")
        what = "links in a circle"
    elif how == 7:
        files = {
            f"d/{odd_name(rng, 'a.wav', 0.8)}": seeds["a.wav"],
            "d/x.flac": NO_FILES[rng.randrange(3)][1],
        }
        what = "recordings without text"
    else:
        files[f"d/3/{odd_name(rng, '3.trans.txt', 1)}"] = b"3-1-0 A\n"
        what = "another transcript"
    if rng.random() < 0.1:
        argv = ("quantize", "conv.nemo", "--calibration", "d", "-o", "out.onnx", "-q")
        return Case(what, label, argv, {"conv.nemo": seeds["conv.nemo"], **files}, outputs=("work/out.onnx",))
    return _evaluating(rng, seeds, "d", files, f"tree: {what}", label)


# -- saved features --------------------------------------------------------------------------------------


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npy_claim(descr: str, shape: str, data: bytes) -> bytes:
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = head.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@kind("saved features", 0.6)
def features(rng: random.Random, seeds: Seeds) -> Case:
    """The .npz that ``synthesize`` writes."""
    data = seeds["features.npz"]
    records = m.unzip(data)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    label, what = MAY, ""
    how = rng.randrange(9)
    out: bytes | None = None
    name = rng.choice([*found])
    if how == 0:
        claim = rng.choice(
            (
                ("'<f4'", "(1000000, 1000000, 12)"),
                ("'<f4'", "(-1,)"),
                ("'<f4'", "(2**40,)"),
                ("'|O'", "(1,)"),
                ("'<f4'", "(99999999999999999999,)"),
                ("__import__('os')", "()"),
                ("'<U99999999'", "(1,)"),
                ("[('a', '<f4')]", "(2,)"),
                ("'<f4'", "(" * 300),
            )
        )
        records[f"{name}.npy"], what, label = (
            _npy_claim(*claim, b"\0" * 64),
            f"{name} claims {claim}",
            MUST_REFUSE,
        )
    elif how == 1:
        del records[f"{name}.npy"]
        what, label = f"{name} gone", MUST_REFUSE
    elif how == 2:
        out, what = m.damaged(rng, data), "damaged"
    elif how == 3:
        array = found["features"].copy()
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf))
        records["features.npy"], what, label = _npy(array), "not finite", MUST_REFUSE
    elif how == 4:
        array = found["features"]
        odd = rng.choice(
            (
                array[:, :-1],
                array[0],
                array[:0],
                array[..., :0],
                array.astype(np.complex64),
                array > 0,
                array.astype(np.float64),
                array.astype("U"),
                array * 1e30,
                array[..., :1],
            )
        )
        records["features.npy"], what = _npy(odd), f"features {odd.dtype} {odd.shape}"
    elif how == 5:
        odd = rng.choice(
            (
                found["lengths"] * 0,
                found["lengths"] * 99,
                -found["lengths"],
                found["lengths"][:1],
                found["lengths"] * 1.5,
                found["lengths"].astype(np.uint8),
                np.array(5),
            )
        )
        records["lengths.npy"], what = _npy(odd), f"lengths {odd.tolist()}"
    elif how == 6:
        note = json.loads(str(found["note"]))
        change = m.changed(rng, note)
        text = m.to_json(change.tree).decode()
        records["note.npy"], what = _npy(np.asarray(text)), f"note {change}"
    elif how == 7:
        out, what, label = m.zip_bomb(records.items(), "more.npy", 2**26), "a large record", MAY
        if rng.random() < 0.3:
            # zeros are no array, and 2 GiB of them must not be unpacked to see that
            rest = [item for item in records.items() if item[0] != "features.npy"]
            out = seeds.once("npz bomb", lambda: m.zip_bomb(rest, "features.npy", 2**31))
            what, label = "a bomb", MUST_REFUSE
    else:
        what, content = rng.choice(NO_FILES)
        return _calibrating(rng, seeds, content, what, MUST_REFUSE)
    return _calibrating(rng, seeds, m.to_zip(records.items()) if out is None else out, what, label)


def _calibrating(rng: random.Random, seeds: Seeds, content: Any, what: str, label: str) -> Case:
    files = {"conv.nemo": seeds["conv.nemo"], "features.npz": content}
    if rng.random() < 0.3:
        argv: tuple[str, ...] = (
            "inspect",
            "conv.nemo",
            "--sensitivity",
            "--calibration",
            "features.npz",
            "-q",
        )
        return Case(what, label, argv, files)
    argv = ("quantize", "conv.nemo", "--calibration", "features.npz", "-o", "out.onnx", "-q")
    return Case(what, label, argv, files, outputs=("work/out.onnx",))


# -- plans -----------------------------------------------------------------------------------------------


@kind("plan", 0.9)
def plan(rng: random.Random, seeds: Seeds) -> Case:
    """The YAML of a plan."""
    tree_: dict[str, Any] = {
        "weights": [{"*": "int8"}, {"encoder.*": "int4"}],
        "values": [{"*": 8}, {"encoder.encoder.1.*": 16}],
        "logit_bits": 12,
    }
    text = yaml.safe_dump(tree_, sort_keys=False).encode()
    label = MAY
    chance = rng.random()
    if chance < 0.6:
        change = m.changed(rng, tree_)
        text = m.to_yaml(change.tree)
        what = str(change)
    elif chance < 0.8:
        text, what = m.odd_text(rng, text)
    elif chance < 0.93:
        bombs = b"".join(
            b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
        )
        what, label, text = rng.choice(
            (
                (
                    "a tag that calls",
                    MUST_REFUSE,
                    b"weights: !!python/object/apply:os.system ['touch ../canary/ran']\n",
                ),
                ("aliases", MUST_REFUSE, b"a0: &a0 [1,1]\n" + bombs + b"weights: *a8\n"),
                ("an alias to itself", MUST_REFUSE, b"weights: &w\n- *w\n"),
                ("a key twice", MUST_REFUSE, text + b"logit_bits: 8\n"),
                ("two documents", MUST_REFUSE, text + b"---\n" + text),
                ("a key that is a list", MUST_REFUSE, b"? [a, b]\n: 1\n"),
                ("a key that is no text", MAY, b"values: [{5: 8}]\n"),
                ("a key that is null", MAY, b"values: [{null: 8}]\n"),
                ("a pattern that matches nothing", MUST_TELL, b"weights: [{nothing.at.all: int4}]\n"),
                ("a broken pattern", MAY, b"weights: [{'[': int4}]\n"),
                ("an unknown grid", MUST_REFUSE, b"weights: [{'*': int99}]\n"),
                ("17 bits", MUST_REFUSE, b"values: [{'*': 17}]\n"),
                ("whole", NEUTRAL, text),
            )
        )
    else:
        what, content = rng.choice(NO_FILES)
        name = "loop.yaml" if "itself" in what else "plan.yaml"
        argv = ("quantize", "conv.nemo", "-o", "out.onnx", "--bits", name)
        return Case(what, MUST_REFUSE, argv, {"conv.nemo": seeds["conv.nemo"], name: content})
    name = odd_name(rng, "plan.yaml", 0.06)
    small = ("--calibration", "noise", "--batch", "1", "--frames", "32", "--max-seconds", "2")
    argv = ("quantize", "conv.nemo", "-o", "out.onnx", "--bits", name, *small, *rng.choice(((), ("-q",))))
    files = {"conv.nemo": seeds["conv.nemo"], name: text}
    return Case(what, label, argv, files, outputs=("work/out.onnx",))


assert RATE == 16000  # what the recordings above are written at
