"""Hugging Face models, CTC and transducers: a folder that ``save_pretrained`` wrote, or a name on the hub.

The networks are those of the package transformers, an optional extra, which is imported here and nowhere
else.  Code that a repository brings is never run: weights are read from safetensors or with ``weights_only``.

transformers keeps the blank, of a CTC head its padding token, anywhere among the classes; the rows of the
last layer, and of a transducer's embedding, are moved so that it is the last one.  Special tokens have no
text, as in transformers' own decoding without them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
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
from zeroq_asr.architectures.transformers_transducer import parakeet_transducer
from zeroq_asr.checkpoints.folders import check_folder, read_object, weight_bytes
from zeroq_asr.checkpoints.heads import require_head
from zeroq_asr.checkpoints.hub import CONFIG_NAME, INSTALL, hub_name
from zeroq_asr.checkpoints.huggingface_transducer import check_generation, check_transducer
from zeroq_asr.checkpoints.weights import freeze, require_finite
from zeroq_asr.config.choices import CTC
from zeroq_asr.errors import CheckpointError, ConfigError, UnsupportedModelError, warn
from zeroq_asr.lines import printable, shorten, shown
from zeroq_asr.model import AsrModel, TransducerModel, model_of
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: model_type of a configuration → transformers' class
FAMILIES = {
    "wav2vec2": "Wav2Vec2ForCTC",
    "hubert": "HubertForCTC",
    "wav2vec2-conformer": "Wav2Vec2ConformerForCTC",
    "parakeet_ctc": "ParakeetForCTC",
    "parakeet_rnnt": "ParakeetForRNNT",
    "parakeet_tdt": "ParakeetForTDT",
}
_MEL_FAMILIES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
_TRANSDUCERS = ("parakeet_rnnt", "parakeet_tdt")

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

_HEAD = "lm_head.weight"
#: what decodes by pyctcdecode
_WITH_LM = "Wav2Vec2ProcessorWithLM"
#: bytes of weights that a folder may lack before anybody asks which
_FREE_BYTES = 64 * 2**20


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < 2**24


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


_SIZE = ("a whole number", _is_size)
_ANY = ("anything", lambda value: True)
#: option of a feature extractor → what it must be: those that our frontend computes, and those that only
#: matter to a batch, whose utterances are alone here
_EXTRACTOR: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "sampling_rate": _SIZE,
    "feature_size": _SIZE,
    "padding_value": ("0", lambda value: value in (0, None)),
    "padding_side": ("right", lambda value: value in ("right", None)),
    "return_attention_mask": ("true or false", lambda value: value is None or _is_switch(value)),
    "feature_extractor_type": _ANY,
    "processor_class": _ANY,
    "feature_dim": ("1", lambda value: value in (1, None)),
}
_WAVEFORM_EXTRACTOR = {**_EXTRACTOR, "do_normalize": ("true or false", _is_switch)}
_MEL_EXTRACTOR = {
    **_EXTRACTOR,
    **dict.fromkeys(("win_length", "hop_length", "n_fft"), _SIZE),
    "preemphasis": ("a number below 1", lambda v: isinstance(v, (int, float)) and 0 <= v < 1),
    "mel_filters": _ANY,
}
#: sequences of tokens whose text must be the one that transformers gives
_SAMPLES, _SAMPLE_LENGTH = 16, 40


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
    with _quiet_library(name) as library:
        config = _read(name, "configuration", library.AutoConfig.from_pretrained)
        class_name = _supported(name, config)
        transducer = config.model_type in _TRANSDUCERS
        require_head(name, transducer, head)
        try:
            extractor = _read(name, "preprocessor", library.AutoFeatureExtractor.from_pretrained)
            frontend = _frontend(name, extractor, config)
            with_lm = _has_language_model(name, extractor)
            spoken = _language(name, config, language)
            adapter = _read_adapter(name, config, spoken) if spoken is not None and language else None
            if adapter is not None:
                config.vocab_size = len(adapter[_HEAD])
            raw = _read_tokenizer(name, library, config, spoken)
            blank = config.blank_token_id if transducer else None
            tokenizer, order = _tokens(name, raw, config.vocab_size, blank)
        except ConfigError as error:
            raise CheckpointError(path, str(error)) from None
        model = _read_network(name, library, class_name, config, adapter)
        mel = config.model_type in _MEL_FAMILIES
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
        problem = f"comes with a language model ({_WITH_LM}), which is not read and has no say in its text"
        warn(path, problem, "decode by --beam 8 --lm FILE.arpa, its own or another (the page on decoding)")
    return model_of(
        freeze(network),
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
        # what it prints besides its log may be a stranger's text
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
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
            name,
            f"is a model of type {shown(kind)}, not supported",
            f"supported: {', '.join(FAMILIES.values())}",
        )
    class_name, found = FAMILIES[kind], config.architectures or []
    if found and class_name not in found:
        lacking = "transducer's head" if kind in _TRANSDUCERS else "CTC head"
        problem = f"holds {', '.join(map(str, found))}, which has no {lacking}"
        raise UnsupportedModelError(name, problem, f"only {class_name} has")
    mel = kind in _MEL_FAMILIES
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
    if config.model_type in _MEL_FAMILIES:
        return int(config.encoder_config.subsampling_factor)
    return receptive_field(config.conv_kernel, config.conv_stride)[1]


# -- what surrounds the network -----------------------------------------------------------------------


def _frontend(name: str, extractor: Any, config: Any) -> FrontendConfig:
    """Return the frontend that computes what transformers' feature extractor does."""
    mel = config.model_type in _MEL_FAMILIES
    expected = "ParakeetFeatureExtractor" if mel else "Wav2Vec2FeatureExtractor"
    if type(extractor).__name__ != expected:
        raise UnsupportedModelError(
            name, f"its preprocessor is {type(extractor).__name__}", f"only {expected} is supported"
        )
    options = _MEL_EXTRACTOR if mel else _WAVEFORM_EXTRACTOR
    for field, value in {**dict.fromkeys(options), **extractor.to_dict()}.items():
        if field not in options:
            # an option that nothing is known of says nothing where it is off
            if value not in (None, False, "", 0):
                option = f"{printable(shorten(str(field), 60))} = {shown(value)}"
                raise UnsupportedModelError(
                    name,
                    f"its preprocessor has {option}, not supported",
                    "build the network yourself: --loader",
                )
            continue
        expected, holds = options[field]
        if not holds(value):
            raise CheckpointError(
                name, f"its preprocessor has {field} = {shown(value)}, {expected} was expected", "repair it"
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


def _has_language_model(name: str, extractor: Any) -> bool:
    """Tell whether transformers would decode by n-grams that lie beside the network."""
    written, _ = _read(name, "preprocessor", type(extractor).get_feature_extractor_dict)
    return written.get("processor_class") == _WITH_LM or os.path.isdir(os.path.join(name, "language_model"))


def _language(name: str, config: Any, wanted: str | None) -> str | None:
    """Return the language to recognize, one of a vocabulary by languages; None where there is but one.

    Raises CheckpointError for a vocabulary that is none, and where a choice is missing or not there.
    """
    tokens: dict[str, Any] = {}
    if config.model_type not in _MEL_FAMILIES:
        tokens = read_object(_file(name, "vocab.json", "vocabulary"))
    languages = [key for key, value in tokens.items() if isinstance(value, dict)]
    if languages and len(languages) < len(tokens):
        raise CheckpointError(name, "vocab.json mixes tokens and languages", "download it again")
    if not languages:
        _check_vocabulary(name, tokens)
        if wanted is not None:
            raise CheckpointError(name, "is a model of one language", "leave --language out")
        return None
    listed = shorten(", ".join(map(printable, sorted(languages))), 200)
    found = wanted
    if found is None:
        path = Path(name, "tokenizer_config.json")
        if not os.path.isdir(name):
            path = Path(_file(name, "tokenizer_config.json", "tokenizer configuration"))
        found = read_object(path).get("target_lang") if path.exists() else None
    if found is None:
        problem = f"is a model of {len(languages)} languages, of which none is chosen"
        raise CheckpointError(name, problem, f"choose one by --language: {listed}")
    if found not in languages:
        raise CheckpointError(name, f"has no language {shown(found)}", f"it has {listed}")
    _check_vocabulary(name, tokens[found])
    return str(found)


def _check_vocabulary(name: str, tokens: dict[str, Any]) -> None:
    """Raise CheckpointError unless tokens have whole numbers, each its own."""
    seen: dict[int, str] = {}
    for token, number in tokens.items():
        if type(number) is not int or number < 0:
            problem = f"vocab.json gives the token {shown(token)} the identifier {shown(number)}"
            raise CheckpointError(name, problem, "a whole number was expected")
        if number in seen:
            both = f"{shown(seen[number])} and {shown(token)}"
            raise CheckpointError(name, f"vocab.json gives the tokens {both} one identifier", "repair it")
        seen[number] = token


def _file(name: str, file: str, part: str) -> str:
    """Return the path of a file of a folder, or of the hub's, which is then asked for it."""
    if os.path.isdir(name):
        path = os.path.join(name, file)
        if not os.path.isfile(path):
            raise CheckpointError(name, f"holds no {file}, its {part}", "is the folder whole?")
        return path
    hub = importlib.import_module("transformers.utils.hub")
    return str(_read(name, part, lambda where, **_: hub.cached_file(where, file)))


def _read_adapter(name: str, config: Any, language: str) -> dict[str, torch.Tensor] | None:
    """Return the weights that a language brings; None for weights that are of this language as they are."""
    if not re.fullmatch(r"[\w-]{1,100}", language):
        raise CheckpointError(name, f"has a language of an odd name, {shown(language)}", "choose another one")
    if getattr(config, "adapter_attn_dim", None) is None:
        problem = f"has no adapters, so that its weights cannot be turned to the language {language}"
        raise UnsupportedModelError(name, problem, "name a model with adapter_attn_dim in config.json")
    path = _file(name, f"adapter.{language}.safetensors", f"adapter for the language {language}")
    safetensors = importlib.import_module("safetensors.torch")
    adapter: dict[str, torch.Tensor] = _read(
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


def _read_tokenizer(name: str, library: Any, config: Any, language: str | None) -> Any:
    if config.model_type in _MEL_FAMILIES:
        return _read(name, "tokenizer", library.AutoTokenizer.from_pretrained)
    auto = importlib.import_module("transformers.models.auto.tokenization_auto")
    given = _read(name, "tokenizer configuration", auto.get_tokenizer_config).get("tokenizer_class")
    if given not in _TOKENIZERS:
        raise UnsupportedModelError(name, f"its tokenizer is {given}", f"only {_TOKENIZERS[0]} is supported")
    chosen = {} if language is None else {"target_lang": language}
    return _read(name, "vocabulary", library.Wav2Vec2CTCTokenizer.from_pretrained, **chosen)


#: identifiers of tokens are below it
_MOST_TOKENS = 1 << 31


def _tokens(name: str, tokenizer: Any, classes: int, blank: int | None = None) -> tuple[Tokenizer, list[int]]:
    """Return the tokens without the blank, and transformers' identifiers in our order, the blank last.

    ``blank`` is the identifier of the blank; None: that of the padding token.
    """
    what = "the blank" if blank is not None else "its padding token, the blank,"
    padding = blank is None
    if blank is None:
        blank = tokenizer.pad_token_id
    if not isinstance(blank, int) or not 0 <= blank < classes:
        raise CheckpointError(name, f"{what} has the identifier {blank} of {classes} classes")
    # tokens added for one language hide those of another
    own = getattr(tokenizer, "encoder", {}).get(tokenizer.pad_token, blank)
    if padding and own != blank:
        problem = f"its padding token, the blank, has the identifier {blank}, and vocab.json gives it {own}"
        raise CheckpointError(name, problem, "repair added_tokens_decoder in tokenizer_config.json")
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    # what vocab.json says, too, where added_tokens_decoder says something else
    for token, i in (*getattr(tokenizer, "encoder", {}).items(), *vocabulary.items()):
        if type(i) is not int or not 0 <= i < _MOST_TOKENS:
            problem = f"its token {shown(token)} has the identifier {shown(i)}, which is no class"
            raise CheckpointError(name, problem, "repair vocab.json")
    names = {i: t for t, i in vocabulary.items() if i < classes}
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

    count = _read(name, "configuration", described)
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
