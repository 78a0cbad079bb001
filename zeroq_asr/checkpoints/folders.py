"""The folder of a Hugging Face model, looked over before transformers opens what is in it.

transformers trusts a folder: it waits for a pipe, follows an index to any file, builds whatever sizes a
configuration asks for.  So what kind of files there are, that configurations are plain JSON, and where shards
lie is checked here.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from zeroq_asr.errors import CheckpointError, UnsupportedModelError
from zeroq_asr.files import open_file, read_file
from zeroq_asr.lines import shown

#: most bytes of a JSON file, and files of a folder
_MAX_JSON, _MAX_FILES = 64 * 2**20, 10_000
_INDEX = (".safetensors.index.json", ".bin.index.json")
#: types of weights in safetensors files
_FLOATS = ("F16", "BF16", "F32", "F64")
#: files that hold one object; vocabularies and tokenizers have checks of their own
_OBJECTS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "tokenizer.json",
    "generation_config.json",
)
#: files whose ``auto_map`` names code of the folder's own
_CODE = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
#: options that count modules, and the most that they may say; no other size may be larger than the last
_COUNTS = {"num_hidden_layers": 1000, "num_feat_extract_layers": 100, "num_adapter_layers": 100}
_MAX_EXTENT = 2**24


def check_folder(folder: str) -> None:
    """Raise CheckpointError unless all that a folder holds can be read without harm.

    UnsupportedModelError where it says that code of its own belongs to it, which is never run.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise CheckpointError(folder, f"cannot be read ({error.strerror})", "check the path") from None
    if len(entries) > _MAX_FILES:
        raise CheckpointError(folder, f"holds {len(entries)} files", "name the folder of one model")
    for entry in entries:
        try:
            mode = entry.stat().st_mode  # of what a link points to: the hub's cache is made of links
        except OSError:
            continue  # a link to nothing is as good as no file
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CheckpointError(folder, f"{shown(entry.name)} is no regular file", "remove it")
        if stat.S_ISREG(mode) and entry.name.endswith(_INDEX):
            _check_index(folder, entry.name)
        if stat.S_ISREG(mode) and entry.name.endswith(".safetensors"):
            _check_types(Path(folder, entry.name))
    for name in _OBJECTS:
        path = Path(folder, name)
        if not path.exists():
            continue
        content = read_object(path)
        if name in _CODE and content.get("auto_map"):
            problem = f"{name} says that code of its own belongs to it (auto_map), which is never run"
            raise UnsupportedModelError(folder, problem, "build the network yourself: --loader")
    _check_extents(folder, read_object(Path(folder, "config.json")))


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON object in a file, or raise CheckpointError."""

    def constant(name: str) -> None:
        raise ValueError(f"it holds {name}")

    data = read_file(path, CheckpointError, _MAX_JSON)
    try:
        content = json.loads(data, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) if str(error).startswith("it holds") else "it is damaged"
        raise CheckpointError(path, f"is not valid JSON ({reason})", "download it again") from None
    if not isinstance(content, dict):
        found = type(content).__name__
        raise CheckpointError(path, f"holds a {found}, an object was expected", "is it the right file?")
    return content


def _check_types(path: Path) -> None:
    """Raise CheckpointError where a safetensors file holds weights that are no floats.

    Their bits would be taken for numbers.  What else is wrong with the file its own reader says.
    """
    with open_file(path, CheckpointError) as stream:
        size = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(size, _MAX_JSON))
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        counter = str(name).endswith("num_batches_tracked")
        if name != "__metadata__" and kind not in _FLOATS and not (counter and kind == "I64"):
            problem = f"{shown(name)} is of type {shown(kind)}, weights are {', '.join(_FLOATS)}"
            raise CheckpointError(path, problem, "save it as floats")


def _check_index(folder: str, name: str) -> None:
    """Raise CheckpointError unless every shard is a file in the folder itself."""
    shards = read_object(Path(folder, name)).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(Path(folder, name), "has no weight_map", "download it again")
    for shard in {str(s) for s in shards.values()}:
        if os.path.basename(shard) != shard or "\\" in shard or shard in ("", ".", ".."):
            raise CheckpointError(
                Path(folder, name), f"names the shard {shown(shard)}, outside of the folder", "do not use it"
            )
        if not Path(folder, shard).is_file():
            raise CheckpointError(folder, f"lacks the shard {shown(shard)}", "is the folder whole?")


def _check_extents(folder: str, config: dict[str, Any]) -> None:
    """Raise CheckpointError where a configuration asks for sizes that no network has."""
    sections = [config, *(v for v in config.values() if isinstance(v, dict))]
    for section in sections:
        for option, value in section.items():
            for one in value if isinstance(value, list) else [value]:
                limit = _COUNTS.get(option, _MAX_EXTENT)
                if isinstance(one, int) and not -limit <= one <= limit:
                    raise CheckpointError(folder, f"its {option} is {shown(one)}", "is config.json damaged?")
        for option in ("conv_kernel", "conv_stride", "conv_dim"):
            value = section.get(option, [1])
            sizes = isinstance(value, list) and 0 < len(value) <= _COUNTS["num_feat_extract_layers"]
            if not sizes or not all(type(n) is int and n > 0 for n in value):
                problem = f"its {option} is {shown(value)}, a list of whole numbers was expected"
                raise CheckpointError(folder, problem, "is config.json damaged?")
        if section is config and type(config.get("vocab_size", 1)) is not int:
            raise CheckpointError(folder, f"its vocab_size is {shown(config['vocab_size'])}", "repair it")


def weight_bytes(folder: str) -> int:
    """Bytes of all weights in a folder."""
    suffixes = (".safetensors", ".bin")
    return sum(e.stat().st_size for e in os.scandir(folder) if e.name.endswith(suffixes) and e.is_file())
