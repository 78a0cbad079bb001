"""The sections of a NeMo `model_config.yaml`, with references replaced and gaps left out."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from zeroq_asr.config.yaml_text import MAX_BYTES, read_yaml
from zeroq_asr.errors import CheckpointError, UnsupportedModelError
from zeroq_asr.lines import shown

#: the section of a transducer's configuration that describes its CTC head
HYBRID = "aux_ctc"

_MAX_VALUES, _MAX_DEPTH = 200_000, 100
#: what OmegaConf writes where a value has yet to be given
_GAP = "???"
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
#: the sections that are read, and the modules that an audio file does not pass on its way to the scores
_READ = ("encoder", "decoder", "preprocessor", "labels", "sample_rate", "tokenizer", HYBRID)
_NOT_ON_THE_WAY = frozenset({"spec_augment", "augment", "crop_or_pad_augment", "loss", "optim", "joint"})


def read_sections(
    where: str | os.PathLike[str], text: bytes, more: Callable[[dict[str, Any]], Iterable[str]] = lambda _: ()
) -> dict[str, Any]:
    """Return the sections of a model's configuration that say how it hears.

    ``more`` names further sections to read of a model, by those that it has.

    Raises CheckpointError when ``text`` is no YAML, or refers to what is not there, and UnsupportedModelError
    when the model has modules besides preprocessor, encoder and decoder.
    """
    document = read_yaml(text, where, CheckpointError)
    # a training configuration holds the model's one level down
    root = document.get("model", document) if isinstance(document, dict) else document
    if not isinstance(root, dict):
        raise CheckpointError(
            where, f"the model configuration is not a mapping but {shown(root)}", "is it the right file?"
        )
    others = [
        str(name)
        for name, value in root.items()
        if name not in _READ and name not in _NOT_ON_THE_WAY and _is_module(value)
    ]
    if others:
        raise UnsupportedModelError(
            where,
            f"{shown(others[0])} is a module beside encoder and decoder, which is not supported",
            "only a preprocessor, an encoder and a decoder are, and the joint network of a transducer",
        )
    if _has_adapters(root.get("adapters")):
        raise UnsupportedModelError(where, "adapters are not supported", "merge them, or take the base model")
    return _Resolver(where, document, root).sections((*_READ, *more(root)))


def _is_module(value: object) -> bool:
    return isinstance(value, dict) and ("_target_" in value or "cls" in value)


def _has_adapters(value: object) -> bool:
    """Tell whether a section of adapters has one that is enabled, as they are unless it is said."""
    if not isinstance(value, dict):
        return False
    named = [one for name, one in value.items() if name != "__global_adapter_cfg__" and isinstance(one, dict)]
    return any(one.get("enabled", True) for one in named)


class _Resolver:
    """Replaces whole-text references ``${a.b}``, of the document or of its model, by what they name."""

    def __init__(self, where: str | os.PathLike[str], document: Any, root: dict[str, Any]) -> None:
        self._where, self._document, self._root = where, document, root
        self._visited = itertools.count(1)

    def sections(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the sections of such names; elsewhere, references may lead to data that is not there."""
        found = {name: self._walk(self._root[name], 0) for name in names if name in self._root}
        return {name: value for name, value in found.items() if value != _GAP}

    def _walk(self, value: Any, depth: int) -> Any:
        # aliases and references share what they name, so a small text may stand for a tree without end
        if next(self._visited) > _MAX_VALUES:
            raise CheckpointError(
                self._where, "the model configuration unfolds into too many values to be one"
            )
        if depth > _MAX_DEPTH:
            raise CheckpointError(
                self._where, "the model configuration is nested too deeply or refers to itself"
            )
        if isinstance(value, dict):
            walked = {key: self._walk(item, depth + 1) for key, item in value.items()}
            return {key: item for key, item in walked.items() if not (isinstance(item, str) and item == _GAP)}
        if isinstance(value, list):
            return [self._walk(item, depth + 1) for item in value]
        if isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
            return self._walk(self._look_up(match[1].strip(), depth), depth + 1)
        return value

    def _look_up(self, reference: str, depth: int) -> Any:
        keys = re.split(r"[.\[\]]+", reference.removesuffix("]"))
        below_model = keys[1:] if keys[0] == "model" else keys
        for root, path in ((self._document, keys), (self._root, below_model)):
            value: Any = root
            for key in path:
                if isinstance(value, str) and _REFERENCE.fullmatch(value):
                    value = self._walk(value, depth + 1)
                if isinstance(value, dict) and key in value:
                    value = value[key]
                elif isinstance(value, list) and key.isdecimal() and int(key[:9]) < len(value):
                    value = value[int(key[:9])]
                else:
                    break
            else:
                return value
        raise CheckpointError(
            self._where, f"the model configuration refers to {shown(reference)}, which is missing"
        )


__all__ = ["HYBRID", "MAX_BYTES", "read_sections"]
