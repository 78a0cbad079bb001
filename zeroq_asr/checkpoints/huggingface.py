"""Hugging Face models with a CTC head: a folder that ``save_pretrained`` wrote, or a name on the hub.

The networks are those of the package transformers, an optional extra, which is imported here and nowhere
else.  Code that a repository brings is never run: weights are read from safetensors or with ``weights_only``.

transformers keeps the blank, its padding token, anywhere among the classes; the rows of the last layer are
moved so that it is the last one.  Special tokens have no text, as in transformers' own decoding without them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zeroq_asr.architectures.transformers_ctc import ParakeetCtc, WaveformCtc, receptive_field
from zeroq_asr.checkpoints.weights import freeze, require_finite
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

CONFIG_NAME = "config.json"
INSTALL = "install it: pip install 'zeroq-asr[huggingface]'"

#: model_type of a configuration → transformers' class with a CTC head
FAMILIES = {
    "wav2vec2": "Wav2Vec2ForCTC",
    "hubert": "HubertForCTC",
    "wav2vec2-conformer": "Wav2Vec2ConformerForCTC",
    "parakeet_ctc": "ParakeetForCTC",
}
_MEL_FAMILIES = ("parakeet_ctc",)

#: weights that a checkpoint may lack: only training reads them
_TRAINING_ONLY = ("masked_spec_embed",)
#: option → the value that is supported, where the configuration has the option
_WAVEFORM_OPTIONS = {"add_adapter": False, "conv_pos_batch_norm": False}
_PARAKEET_OPTIONS = {"subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2}

#: what the tokenizers of waveform models are called; older folders do not say
_TOKENIZERS = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer", None)
#: part → the files of a folder of which one holds it
_FILES = {
    "preprocessor": ("preprocessor_config.json", "processor_config.json"),
    "vocabulary": ("vocab.json",),
    "tokenizer": ("tokenizer.json",),
}

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
#: a name that ends so is a file's that is not there
_FILE_SUFFIXES = (".nemo", ".pt", ".pth", ".pt2", ".ckpt", ".onnx", ".bin", ".safetensors", ".tar", ".gz")
#: sequences of tokens whose text must be the one that transformers gives
_SAMPLES, _SAMPLE_LENGTH = 16, 40


def is_huggingface(path: str | os.PathLike[str]) -> bool:
    """Tell whether ``path`` is the folder of a model, or no path at all but OWNER/NAME on the hub."""
    name = os.fspath(path)
    if os.path.exists(name):
        return os.path.isfile(os.path.join(name, CONFIG_NAME))
    owner, _, model = name.partition("/")
    return (
        _HUB_NAME.fullmatch(name) is not None
        and not model.lower().endswith(_FILE_SUFFIXES)
        and not os.path.exists(owner)
    )


def load_huggingface(path: str | os.PathLike[str]) -> AsrModel:
    """Read Wav2Vec2ForCTC, HubertForCTC, Wav2Vec2ConformerForCTC or ParakeetForCTC.

    ``path`` is a folder with config.json, weights, tokenizer and preprocessor_config.json, or OWNER/NAME on
    the Hugging Face hub, which is then asked for them.

    Raises CheckpointError when transformers is not installed or a part is missing or damaged, and
    UnsupportedModelError for another kind of model.
    """
    name = os.fspath(path)
    with _quiet_library(name) as library:
        config = _read(name, "configuration", library.AutoConfig.from_pretrained)
        class_name = _supported(name, config)
        try:
            frontend = _frontend(name, library, config)
            raw = _read_tokenizer(name, library, config)
            tokenizer, order = _tokens(name, raw, config.vocab_size)
        except ConfigError as error:
            raise CheckpointError(path, str(error)) from None
        model = _read_network(name, library, class_name, config)
        mel = config.model_type in _MEL_FAMILIES
        _reorder(name, model.ctc_head if mel else model.lm_head, order)
        network = ParakeetCtc(model) if mel else WaveformCtc(model)
    require_finite(path, network.state_dict())
    return AsrModel(
        network=freeze(network),
        frontend=frontend,
        tokenizer=tokenizer,
        name=Path(name).resolve().name if os.path.isdir(name) else Path(name).name,
        architecture=class_name,
        subsampling_factor=_subsampling(config),
    )


@contextlib.contextmanager
def _quiet_library(name: str) -> Iterator[Any]:
    """Import transformers and keep it from printing while it is used; what fails still raises."""
    try:
        library = importlib.import_module("transformers")
        logging = importlib.import_module("transformers.utils.logging")
        hub = importlib.import_module("huggingface_hub.utils")
        hub_logging = importlib.import_module("huggingface_hub.utils.logging")
    except ImportError as error:
        problem = f"is a Hugging Face model, which takes the package transformers ({error})"
        raise CheckpointError(name, problem, INSTALL) from None
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_level, hub_bars = hub_logging.get_verbosity(), not hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield library
    finally:
        logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()


def _read(name: str, part: str, function: Callable[..., Any], **options: Any) -> Any:
    """Return what a ``from_pretrained`` reads, or raise CheckpointError with the gist of its message."""
    local = os.path.isdir(name)
    needed = _FILES.get(part, ())
    if local and needed and not any(os.path.isfile(os.path.join(name, file)) for file in needed):
        raise CheckpointError(name, f"holds no {needed[0]}, its {part}", "is the folder whole?")
    try:
        # without trust_remote_code it would ask on the terminal whether to run a repository's code
        if part != "network":
            options["trust_remote_code"] = False
        return function(name, local_files_only=local, **options)
    # its parsers, the hub's client and safetensors raise whatever they meet: no narrower class covers it
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split()).partition(". ")[0]
        short = reason if len(reason) <= 200 else f"{reason[:200]}…"
        remedy = "check the name and the connection to the hub"
        if local:
            remedy = "is the folder whole, and transformers up to date?"
        raise CheckpointError(name, f"its {part} cannot be read ({short})", remedy) from None


def _supported(name: str, config: Any) -> str:
    """Return the class of a configuration's network, or raise UnsupportedModelError."""
    kind = getattr(config, "model_type", "")
    if kind not in FAMILIES:
        raise UnsupportedModelError(
            name, f"is a model of type {kind!r}, not supported", f"supported: {', '.join(FAMILIES.values())}"
        )
    class_name, found = FAMILIES[kind], config.architectures or []
    if found and class_name not in found:
        raise UnsupportedModelError(
            name, f"holds {', '.join(map(str, found))}, which has no CTC head", f"only {class_name} has"
        )
    mel = kind in _MEL_FAMILIES
    section = config.encoder_config if mel else config
    for option, value in (_PARAKEET_OPTIONS if mel else _WAVEFORM_OPTIONS).items():
        given = getattr(section, option, value)
        if given != value:
            raise UnsupportedModelError(name, f"{option} = {given!r} is not supported", f"only {value!r} is")
    return class_name


def _subsampling(config: Any) -> int:
    """Return how many input frames, or samples, lie between two encoded frames."""
    if config.model_type in _MEL_FAMILIES:
        return int(config.encoder_config.subsampling_factor)
    return receptive_field(config.conv_kernel, config.conv_stride)[1]


# -- what surrounds the network -----------------------------------------------------------------------


def _frontend(name: str, library: Any, config: Any) -> FrontendConfig:
    """Return the frontend that computes what transformers' feature extractor does."""
    extractor = _read(name, "preprocessor", library.AutoFeatureExtractor.from_pretrained)
    mel = config.model_type in _MEL_FAMILIES
    expected = "ParakeetFeatureExtractor" if mel else "Wav2Vec2FeatureExtractor"
    if type(extractor).__name__ != expected:
        raise UnsupportedModelError(
            name, f"its preprocessor is {type(extractor).__name__}", f"only {expected} is supported"
        )
    names = ("sampling_rate", "feature_size", *(("win_length", "hop_length") if mel else ()))
    for field in names:
        value = getattr(extractor, field)
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(
                name, f"its preprocessor has {field} = {value!r}, a whole number was expected"
            )
    rate, features = extractor.sampling_rate, extractor.feature_size
    if not mel:
        seen, _ = receptive_field(config.conv_kernel, config.conv_stride)
        return FrontendConfig(
            kind="waveform",
            sample_rate=rate,
            features=features,
            window_size=seen / rate,
            normalize="unit_variance" if extractor.do_normalize else None,
            pad_to=0,
        )
    taken = config.encoder_config.num_mel_bins
    if features != taken:
        raise CheckpointError(name, f"its preprocessor makes {features} mels, its network takes {taken}")
    return FrontendConfig(
        sample_rate=rate,
        features=features,
        window_size=extractor.win_length / rate,
        window_stride=extractor.hop_length / rate,
        n_fft=extractor.n_fft,
        preemph=extractor.preemphasis,
        pad_to=0,
    )


def _read_tokenizer(name: str, library: Any, config: Any) -> Any:
    if config.model_type in _MEL_FAMILIES:
        return _read(name, "tokenizer", library.AutoTokenizer.from_pretrained)
    auto = importlib.import_module("transformers.models.auto.tokenization_auto")
    given = _read(name, "tokenizer configuration", auto.get_tokenizer_config).get("tokenizer_class")
    if given not in _TOKENIZERS:
        raise UnsupportedModelError(name, f"its tokenizer is {given}", f"only {_TOKENIZERS[0]} is supported")
    return _read(name, "vocabulary", library.Wav2Vec2CTCTokenizer.from_pretrained)


def _tokens(name: str, tokenizer: Any, classes: int) -> tuple[Tokenizer, list[int]]:
    """Return the tokens without the blank, and transformers' identifiers in our order, the blank last."""
    blank = tokenizer.pad_token_id
    if not isinstance(blank, int) or not 0 <= blank < classes:
        raise CheckpointError(
            name, f"its padding token, the blank, has the identifier {blank} of {classes} classes"
        )
    special = set(tokenizer.all_special_ids)
    # of a tokenizer for many languages that has chosen none, the values are vocabularies
    names = {i: t for t, i in tokenizer.get_vocab().items() if isinstance(i, int) and i < classes}
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    kind = "characters" if hasattr(tokenizer, "word_delimiter_token") else "sentencepiece"
    order = [i for i in range(classes) if i != blank]
    texts = []
    for i in order:
        text = names.get(i, "")
        if text == delimiter:
            text = tokenizer.replace_word_delimiter_char
        elif i in special:
            text = ""
        texts.append(text.lower() if getattr(tokenizer, "do_lower_case", False) else text)
    ours = Tokenizer(tuple(texts), kind)
    # with special tokens left out, transformers joins the tokens on either side of one that are equal
    spoken = [k for k, i in enumerate(order) if i in names and (i not in special or names[i] == delimiter)]
    if not spoken:
        raise CheckpointError(name, "its tokenizer has no tokens but special ones")
    _compare_texts(name, tokenizer, ours, spoken, order)
    return ours, [*order, blank]


def _compare_texts(name: str, theirs: Any, ours: Tokenizer, spoken: list[int], order: list[int]) -> None:
    """Raise UnsupportedModelError unless both tokenizers make the same text of the same tokens."""
    generator = np.random.default_rng(0)
    samples = [spoken, *generator.choice(spoken, size=(_SAMPLES, _SAMPLE_LENGTH)).tolist()]
    for ids in samples:
        # neighbours that are equal would be one token to a CTC tokenizer
        ids = [k for k, before in zip(ids, [-1, *ids], strict=False) if k != before]
        text = theirs.decode(
            [order[k] for k in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if text.strip() != ours.decode(ids):
            kind = type(theirs).__name__
            raise UnsupportedModelError(name, f"its tokenizer ({kind}) joins tokens in an unknown way")


# -- the network --------------------------------------------------------------------------------------


def _read_network(name: str, library: Any, class_name: str, config: Any) -> Any:
    """Return transformers' module with the checkpoint's weights, all of them, in float32."""
    network = getattr(library, class_name, None)
    if network is None:
        raise CheckpointError(
            name, f"this version of transformers has no {class_name}", "update transformers"
        )
    model, info = _read(
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
    for problem, keys in (("have the wrong shape", mismatched), ("are missing", missing)):
        if keys:
            shown = ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
            raise CheckpointError(
                name, f"{len(keys)} weights {problem}: {shown}", "is it a model trained for recognition?"
            )
    return model


def _reorder(name: str, head: nn.Module, order: list[int]) -> None:
    """Move the rows of the last layer so that its classes are in ``order``."""
    for parameter in head.parameters():
        if len(parameter) != len(order):
            raise CheckpointError(
                name, f"its last layer has {len(parameter)} classes for {len(order)} tokens"
            )
        parameter.data = parameter.data[order].contiguous()
