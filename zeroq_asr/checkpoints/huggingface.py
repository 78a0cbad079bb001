"""Hugging Face models, CTC and transducers: a folder that ``save_pretrained`` wrote, or a name on the hub.

The networks are those of the package transformers, an optional extra, which is imported here and nowhere
else.  Code that a repository brings is never run: weights are read from safetensors or with ``weights_only``.

transformers keeps the blank, of a CTC head its padding token, anywhere among the classes; the rows of the
last layer, and of a transducer's embedding, are moved so that it is the last one.  Special tokens have no
text, as in transformers' own decoding without them.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures.transformers_ctc import ParakeetCtc, WaveformCtc, receptive_field
from zeroq_asr.architectures.transformers_transducer import parakeet_transducer
from zeroq_asr.checkpoints.folders import check_folder, weight_bytes
from zeroq_asr.checkpoints.heads import require_head
from zeroq_asr.checkpoints.hub import CONFIG_NAME, hub_name
from zeroq_asr.checkpoints.huggingface_reading import file_of, quiet_library, read
from zeroq_asr.checkpoints.huggingface_surroundings import (
    MEL_FAMILIES,
    WITH_LANGUAGE_MODEL,
    frontend_of,
    has_language_model,
    language_of,
    read_tokenizer,
    tokens_of,
)
from zeroq_asr.checkpoints.huggingface_transducer import check_generation, check_transducer
from zeroq_asr.checkpoints.weights import freeze, require_finite
from zeroq_asr.config.choices import CTC
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError, warn
from zeroq_asr.lines import printable, shorten, shown
from zeroq_asr.model import AsrModel, TransducerModel, model_of

#: model_type of a configuration → transformers' class
FAMILIES = {
    "wav2vec2": "Wav2Vec2ForCTC",
    "hubert": "HubertForCTC",
    "wav2vec2-conformer": "Wav2Vec2ConformerForCTC",
    "parakeet_ctc": "ParakeetForCTC",
    "parakeet_rnnt": "ParakeetForRNNT",
    "parakeet_tdt": "ParakeetForTDT",
}
_TRANSDUCERS = ("parakeet_rnnt", "parakeet_tdt")

#: weights that a checkpoint may lack: only training reads them
_TRAINING_ONLY = ("masked_spec_embed",)
#: option → the value that is supported, where the configuration has the option
_WAVEFORM_OPTIONS = {"add_adapter": False, "conv_pos_batch_norm": False}
_PARAKEET_OPTIONS = {"subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}

_HEAD = "lm_head.weight"
#: bytes of weights that a folder may lack before anybody asks which
_FREE_BYTES = 64 * 2**20


def is_huggingface(path: str | os.PathLike[str]) -> bool:
    """Tell whether ``path`` is the folder of a model, or no path at all but OWNER/NAME on the hub."""
    name = os.fspath(path)
    if os.path.exists(name):
        return os.path.isfile(os.path.join(name, CONFIG_NAME))
    return hub_name(name) is not None


def load_huggingface(
    path: str | os.PathLike[str], language: str | None = None, head: str = CTC
) -> AsrModel | TransducerModel:
    """Read Wav2Vec2ForCTC, HubertForCTC, Wav2Vec2ConformerForCTC, or Parakeet with CTC, RNN-T or TDT.

    ``path`` is a folder with config.json, weights, tokenizer and preprocessor_config.json, or OWNER/NAME on
    the Hugging Face hub, which is then asked for them.  ``language``: which one a model of many (MMS) shall
    recognize; its adapter is put in place.

    A ZeroqWarning says of a model that comes with a language model that this is not read.

    Raises CheckpointError when transformers is not installed or a part is missing or damaged, and
    UnsupportedModelError for another kind of model.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        check_folder(name)
    with quiet_library(name) as library:
        config = read(name, "configuration", library.AutoConfig.from_pretrained)
        class_name = _supported(name, config)
        transducer = config.model_type in _TRANSDUCERS
        require_head(name, transducer, head)
        try:
            extractor = read(name, "preprocessor", library.AutoFeatureExtractor.from_pretrained)
            frontend = frontend_of(name, extractor, config)
            with_lm = has_language_model(name, extractor)
            spoken = language_of(name, config, language)
            adapter = _read_adapter(name, config, spoken) if spoken is not None and language else None
            if adapter is not None:
                config.vocab_size = len(adapter[_HEAD])
            raw = read_tokenizer(name, library, config, spoken)
            blank = config.blank_token_id if transducer else None
            tokenizer, order = tokens_of(name, raw, config.vocab_size, blank)
        except ConfigError as error:
            raise CheckpointError(path, str(error)) from None
        model = _read_network(name, library, class_name, config, adapter)
        mel = config.model_type in MEL_FAMILIES
        network: nn.Module
        if transducer:
            check_generation(name, model, config)
            network = parakeet_transducer(model)
            # behind tokens and blank come the durations, as they are
            _reorder(name, model.joint.head, [*order, *range(len(order), model.joint.head.out_features)])
            _reorder(name, model.decoder.embedding, order)
        else:
            _reorder(name, model.ctc_head if mel else model.lm_head, order)
            network = ParakeetCtc(model) if mel else WaveformCtc(model)
    require_finite(path, network.state_dict())
    if with_lm:
        problem = (
            f"comes with a language model ({WITH_LANGUAGE_MODEL}), "
            "which is not read and has no say in its text"
        )
        warn(path, problem, "decode by --beam 8 --lm FILE.arpa, its own or another (the page on decoding)")
    return model_of(
        freeze(network),
        frontend=frontend,
        tokenizer=tokenizer,
        name=Path(name).resolve().name if os.path.isdir(name) else Path(name).name,
        architecture=class_name,
        subsampling_factor=_subsampling(config),
    )


def _supported(name: str, config: Any) -> str:
    """Return the class of a configuration's network, or raise UnsupportedModelError."""
    kind = getattr(config, "model_type", "")
    if kind not in FAMILIES:
        raise UnsupportedModelError(
            name,
            f"is a model of type {shown(kind)}, not supported",
            f"supported: {', '.join(FAMILIES.values())}",
        )
    class_name, found = FAMILIES[kind], config.architectures or []
    if found and class_name not in found:
        lacking = "transducer's head" if kind in _TRANSDUCERS else "CTC head"
        problem = f"holds {', '.join(map(str, found))}, which has no {lacking}"
        raise UnsupportedModelError(name, problem, f"only {class_name} has")
    mel = kind in MEL_FAMILIES
    section = config.encoder_config if mel else config
    for option, value in (_PARAKEET_OPTIONS if mel else _WAVEFORM_OPTIONS).items():
        given = getattr(section, option, value)
        if given != value:
            raise UnsupportedModelError(
                name, f"{option} = {shown(given)} is not supported", f"only {value!r} is"
            )
    if kind in _TRANSDUCERS:
        check_transducer(name, config)
    return class_name


def _subsampling(config: Any) -> int:
    """Return how many input frames, or samples, lie between two encoded frames."""
    if config.model_type in MEL_FAMILIES:
        return int(config.encoder_config.subsampling_factor)
    return receptive_field(config.conv_kernel, config.conv_stride)[1]


def _read_adapter(name: str, config: Any, language: str) -> dict[str, torch.Tensor] | None:
    """Return the weights that a language brings; None for weights that are of this language as they are."""
    if not re.fullmatch(r"[\w-]{1,100}", language):
        raise CheckpointError(name, f"has a language of an odd name, {shown(language)}", "choose another one")
    if getattr(config, "adapter_attn_dim", None) is None:
        problem = f"has no adapters, so that its weights cannot be turned to the language {language}"
        raise UnsupportedModelError(name, problem, "name a model with adapter_attn_dim in config.json")
    path = file_of(name, f"adapter.{language}.safetensors", f"adapter for the language {language}")
    safetensors = importlib.import_module("safetensors.torch")
    adapter: dict[str, torch.Tensor] = read(
        name, f"adapter for the language {language}", lambda where, **_: safetensors.load_file(path)
    )
    head = adapter.get(_HEAD)
    if head is None or head.dim() != 2 or not len(head):
        raise CheckpointError(path, f"holds no {_HEAD}", "is it an adapter?")
    return adapter


def _put_adapter(name: str, model: Any, adapter: dict[str, torch.Tensor]) -> None:
    """Replace the adapter and the head of ``model`` by those of a language."""
    places = model._get_adapters() if hasattr(model, "_get_adapters") else None
    if places is None:
        raise UnsupportedModelError(name, f"{type(model).__name__} takes no adapters", "leave --language out")
    misshapen = {k for k in places.keys() & adapter.keys() if places[k].shape != adapter[k].shape}
    for problem, keys in (
        ("lacks", places.keys() - adapter.keys()),
        ("has surplus", adapter.keys() - places.keys()),
        ("has in a wrong shape", misshapen),
    ):
        if keys:
            listed = shorten(", ".join(map(printable, sorted(keys))), 200)
            raise CheckpointError(
                name, f"the adapter of its language {problem} {listed}", "download it again"
            )
    with torch.no_grad():
        for key, place in places.items():
            place.copy_(adapter[key])


# -- the network --------------------------------------------------------------------------------------


def _read_network(
    name: str, library: Any, class_name: str, config: Any, adapter: dict[str, torch.Tensor] | None
) -> Any:
    """Return transformers' module with the checkpoint's weights, all of them, in float32."""
    network = getattr(library, class_name, None)
    if network is None:
        raise CheckpointError(
            name, f"this version of transformers has no {class_name}", "update transformers"
        )
    _check_size(name, network, config)
    model, info = read(
        name,
        "network",
        network.from_pretrained,
        config=config,
        dtype=torch.float32,
        attn_implementation="sdpa",
        ignore_mismatched_sizes=True,  # they are named below, with those that are missing
        output_loading_info=True,
    )
    mismatched = sorted(str(key if isinstance(key, str) else key[0]) for key in info["mismatched_keys"])
    missing = sorted(key for key in info["missing_keys"] if not key.endswith(_TRAINING_ONLY))
    if adapter is not None:
        _put_adapter(name, model, adapter)
        mismatched, missing = ([k for k in keys if k not in adapter] for keys in (mismatched, missing))
    for problem, keys in (("have the wrong shape", mismatched), ("are missing", missing)):
        if keys:
            shown = ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
            raise CheckpointError(
                name, f"{len(keys)} weights {problem}: {shown}", "is it a model trained for recognition?"
            )
    return model


def _check_size(name: str, network: Any, config: Any) -> None:
    """Raise CheckpointError where a configuration describes far more weights than a folder holds."""
    if not os.path.isdir(name):
        return

    def described(where: str, **options: object) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in network(config).parameters())

    count = read(name, "configuration", described)
    held = weight_bytes(name)
    # two bytes a weight at least; those that are missing are named later
    if 2 * count > 2 * held + _FREE_BYTES:
        raise CheckpointError(
            name, f"describes {count} weights, and holds {held} bytes of them", "is config.json this model's?"
        )


def _reorder(name: str, head: nn.Module, order: list[int]) -> None:
    """Move the rows of the last layer so that its classes are in ``order``."""
    for parameter in head.parameters():
        if len(parameter) != len(order):
            raise CheckpointError(
                name, f"its last layer has {len(parameter)} classes for {len(order)} tokens"
            )
        parameter.data = parameter.data[order].contiguous()
