"""Folders of Hugging Face models: their JSON, safetensors, lists of shards, and pickles."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import torch

from fuzz import mutations as m
from fuzz.inputs import MAY, MUST_REFUSE, NEUTRAL, NO_FILES, Case, kind, odd_name, reading, recordings
from fuzz.oracle import Explain
from fuzz.seeds import Seeds

#: of these, the keys within encoder_config
_ENCODER = {
    "conv_kernel_size",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_mel_bins",
    "scale_input",
    "subsampling_conv_channels",
    "subsampling_factor",
}
#: keys that say something of the network, of its input or of its tokens
_MEANING = {
    "config.json": {
        "conv_dim",
        "conv_kernel",
        "conv_stride",
        "conv_bias",
        "do_stable_layer_norm",
        "feat_extract_activation",
        "feat_extract_norm",
        "hidden_act",
        "hidden_size",
        "intermediate_size",
        "model_type",
        "num_attention_heads",
        "num_conv_pos_embedding_groups",
        "num_conv_pos_embeddings",
        "num_hidden_layers",
        "pad_token_id",
        "vocab_size",
        "layer_norm_eps",
        "num_feat_extract_layers",
    },
    "preprocessor_config.json": {"sampling_rate", "do_normalize", "feature_size", "hop_length", "win_length"},
    "vocab.json": None,
    # not word_delimiter_token: transformers takes the delimiter from added_tokens_decoder, too
    "tokenizer_config.json": {"pad_token", "do_lower_case"},
}


def _case(
    rng: random.Random, seeds: Seeds, base: str, files: dict[str, Any], what: str, label: str, expected: str
) -> Case:
    name = odd_name(rng, "model", 0.05)
    argv, more = reading(rng, name, dear=0.004)
    laid = {f"{name}/{file}": data for file, data in files.items()}
    claim = None if label == MUST_REFUSE else Explain("checkpoint", (name,), base, expected)
    return Case(f"{base}: {what}", label, argv, {**laid, **recordings(seeds)}, explain=claim, **more)


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _safetensors(header: bytes, body: bytes, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header + body


@kind("hugging face", 1.6)
def folder(rng: random.Random, seeds: Seeds) -> Case:
    """Each file of a folder."""
    base = rng.choice(("hf", "hf", "parakeet"))
    files: dict[str, Any] = dict(seeds.folder(base))
    text_files = [name for name in files if name.endswith(".json") and name != "generation_config.json"]
    chance = rng.random()
    if chance < 0.5:
        name = rng.choice([*text_files, "config.json"])
        change = m.changed(rng, json.loads(files[name]))
        files[name] = m.to_json(change.tree)
        known = _MEANING.get(name, set())
        inside = change.path[0] == "encoder_config" and len(change.path) > 1 and change.path[1] in _ENCODER
        says = known is None or change.path[0] in known or inside
        # what is left away has transformers' default, which may be the same
        says = says and change.how not in ("added", "dropped")
        if name == "tokenizer_config.json":
            says = says and change.how == "replaced"  # transformers settles who is who among special tokens
        # of the tokenizer's files and of vocabularies, keys that are swapped or numbers may say the same
        expected = "differ" if says and not m.same_meaning(change.old, change.new) else "any"
        return _case(rng, seeds, base, files, f"{name}: {change}", MAY, expected)
    if chance < 0.6:
        name = rng.choice(text_files)
        files[name], what = m.odd_text(rng, files[name])
        return _case(rng, seeds, base, files, f"{name}: {what}", MAY, "any")
    if chance < 0.68:
        name = rng.choice([*files])
        if rng.random() < 0.5:
            what, files[name] = rng.choice(NO_FILES)
        else:
            del files[name]
            what = "gone"
        needed = name in ("config.json", "model.safetensors", "vocab.json", "tokenizer.json")
        return _case(rng, seeds, base, files, f"{name} {what}", MUST_REFUSE if needed else MAY, "any")
    return rng.choice((_tensors, _tensors, _shards, _binary, _code))(rng, seeds, base, files)


def _tensors(rng: random.Random, seeds: Seeds, base: str, files: dict[str, Any]) -> Case:
    header, body = _header(files["model.safetensors"])
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    label, expected, what = MAY, "any", ""
    how = rng.randrange(9)
    raw: bytes | None = None
    if how == 0:
        change = m.changed(rng, header)
        header, what = change.tree, str(change)
    elif how == 1:
        start, end = entry["data_offsets"]
        value = rng.choice(
            ([0, end - start], [start - 4, end - 4], [start, end + 4], [end, start], [0, 2**63])
        )
        entry["data_offsets"], what, label = value, f"{name} at {value}", MUST_REFUSE
    elif how == 2:
        entry["dtype"] = rng.choice(("F16", "I32", "F64", "F8_E4M3", "BOOL", "x", None, 5))
        what, label = f"{name} of {entry['dtype']}", MUST_REFUSE
    elif how == 3:
        value = rng.choice(
            ([], [-1], [2**63], [*entry["shape"], 1], entry["shape"][::-1], [0], [10**30], "x")
        )
        what, entry["shape"] = f"{name}: {entry['shape']} → {value}", value
    elif how == 4:
        start, _ = entry["data_offsets"]
        bad = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"))
        body = body[:start] + bad + body[start + 4 :]
        what, label = f"{name} not finite", MUST_REFUSE
        if name.endswith("masked_spec_embed"):
            label = MAY
    elif how == 5:
        del header[name]
        what = f"{name} dropped"
        label = MAY if name.endswith("masked_spec_embed") else MUST_REFUSE
    elif how == 6:
        size = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001, len(body)))
        raw, what, label = _safetensors(m.to_json(header), body, size), f"a header of {size}", MUST_REFUSE
    elif how == 7:
        raw, what, label = files["model.safetensors"][: rng.randrange(len(body))], "cut", MUST_REFUSE
    else:
        start, end = entry["data_offsets"]
        # so much that no rounding hides it: a flipped last bit often changes no result
        at = rng.randrange(start, end - 3, 4)
        (value,) = struct.unpack_from("<f", body, at)
        body = body[:at] + struct.pack("<f", value + 1) + body[at + 4 :]
        what = f"{name} moved by 1"
        # a softmax does not see what is added to all its scores
        unseen = name.endswith(("masked_spec_embed", "k_proj.bias"))
        expected = "any" if unseen else "differ"
    files["model.safetensors"] = _safetensors(m.to_json(header), body) if raw is None else raw
    return _case(rng, seeds, base, files, f"safetensors: {what}", label, expected)


def _shards(rng: random.Random, seeds: Seeds, base: str, files: dict[str, Any]) -> Case:
    data = files.pop("model.safetensors")
    names = [name for name in _header(data)[0] if name != "__metadata__"]
    index: dict[str, Any] = {
        "metadata": {"total_size": 1},
        "weight_map": dict.fromkeys(names, "a.safetensors"),
    }
    files["a.safetensors"] = data
    ways: list[tuple[str, str, str]] = [
        ("whole", NEUTRAL, "a.safetensors"),
        ("outside", MUST_REFUSE, "../outside.safetensors"),
        ("outside, by a folder", MUST_REFUSE, "x/../../outside.safetensors"),
        ("absolute", MUST_REFUSE, "/etc/passwd"),
        ("missing", MUST_REFUSE, "b.safetensors"),
        ("empty", MUST_REFUSE, ""),
        ("a folder", MUST_REFUSE, "."),
        ("a device", MUST_REFUSE, "/dev/zero"),
        ("a NUL", MUST_REFUSE, "a\x00b"),
        ("control characters", MUST_REFUSE, "\x1b[31m\nerror: no"),
        ("a URL", MUST_REFUSE, "http://127.0.0.1:9/x.safetensors"),
    ]
    what, label, target = rng.choice(ways)
    some = names if rng.random() < 0.5 else [rng.choice(names)]
    for name in some:
        index["weight_map"][name] = target
    case = None
    if rng.random() < 0.35:
        change = m.changed(rng, {**index, "weight_map": dict(list(index["weight_map"].items())[:5])})
        index, what, label = change.tree, str(change), MAY
    files["model.safetensors.index.json"] = m.to_json(index)
    expected = "equal" if label == NEUTRAL else "any"
    case = _case(rng, seeds, base, files, f"shards: {what}", label, expected)
    if "outside" in target:
        inside = case.argv[1].rpartition("/")[0]
        case.files[f"{inside}/outside.safetensors" if inside else "outside.safetensors"] = data
    return case


def _binary(rng: random.Random, seeds: Seeds, base: str, files: dict[str, Any]) -> Case:
    import safetensors.torch

    state = safetensors.torch.load(files.pop("model.safetensors"))
    label, expected = MAY, "any"
    how = rng.randrange(5)
    if how == 0:
        data, what, label, expected = m.saved(dict(state)), "whole", NEUTRAL, "equal"
    elif how == 1:
        name = rng.choice([*state])
        changed, what, same = m.odd_tensor(rng, state[name])
        expected = "equal" if same else "any"
        if what in ("NaN", "infinity") and not name.endswith("masked_spec_embed"):
            label = MUST_REFUSE
        try:
            data = m.saved({**state, name: changed})
        except Exception:  # no file can hold some tensors
            data, what, label = m.odd_pickle(rng), "odd", MUST_REFUSE
        what = f"{name}: {what}"
    elif how == 2:
        data, what, label = m.odd_pickle(rng), "odd", MUST_REFUSE
    elif how == 3:
        data, what = m.damaged(rng, m.saved(dict(state))), "damaged"
    else:
        (data, what), label = m.evil(rng), MUST_REFUSE
    files["pytorch_model.bin"] = data
    return _case(rng, seeds, base, files, f"pytorch_model.bin: {what}", label, expected)


def _code(rng: random.Random, seeds: Seeds, base: str, files: dict[str, Any]) -> Case:
    """Code that a repository brings and asks to be run."""
    config = json.loads(files["config.json"])
    ways: list[Callable[[], Any]] = [
        lambda: config.update(auto_map={"AutoConfig": "own.Own", "AutoModelForCTC": "own.Own"}),
        lambda: config.update(model_type="own", auto_map={"AutoConfig": "own.Own"}),
        lambda: config.update(auto_map={"AutoConfig": "other/repo--own.Own"}, model_type="x"),
        lambda: config.update(attn_implementation="own/kernel", _attn_implementation="own/kernel"),
        lambda: config.update(attn_implementation="flash_attention_2"),
        lambda: config.update(
            quantization_config={"quant_method": rng.choice(("bitsandbytes", "gptq", "x"))}
        ),
        lambda: config.update(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        lambda: config.update(base_model_name_or_path="../x", _name_or_path="other/repo"),
        lambda: config.update(torch_dtype=rng.choice(("float16", "x", "os.system"))),
        lambda: config.update(dtype=rng.choice(("float16", "x", "__class__", None))),
        lambda: config.update(use_kernels=True),
        lambda: config.update(tp_plan="auto", device_map="auto"),
        lambda: config.update(adapter_attn_dim=4),
        lambda: config.update(architectures=rng.choice((["Own"], "Wav2Vec2ForCTC", [None], [[]], {}))),
    ]
    number = rng.randrange(len(ways))
    ways[number]()
    files["config.json"] = m.to_json(config)
    files["own.py"] = b"open('../../canary/ran', 'w').close()\nopen('../canary/ran', 'w').close()\n"
    if rng.random() < 0.3:
        where = rng.choice(("tokenizer_config.json", "preprocessor_config.json"))
        tree = json.loads(files[where])
        tree["auto_map"] = {"AutoTokenizer": ["own.Own", "own.Own"], "AutoFeatureExtractor": "own.Own"}
        tree[rng.choice(("tokenizer_class", "feature_extractor_type", "x"))] = "Own"
        files[where] = m.to_json(tree)
    if rng.random() < 0.2:
        files["adapter_config.json"] = b'{"base_model_name_or_path": "other/repo", "peft_type": "LORA"}'
    if rng.random() < 0.2:
        files["chat_template.jinja"] = b"{{ cycler.__init__.__globals__.os.system('touch ../canary/ran') }}"
    torch.manual_seed(0)
    return _case(rng, seeds, base, files, f"code {number}", MAY, "any")
