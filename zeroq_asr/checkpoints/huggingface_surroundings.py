"""What surrounds the network of a Hugging Face model: its feature extractor, vocabulary and tokenizer."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zeroq_asr.architectures.transformers_ctc import receptive_field
from zeroq_asr.checkpoints.folders import read_object
from zeroq_asr.checkpoints.huggingface_reading import file_of, read
from zeroq_asr.errors import CheckpointError, UnsupportedModelError
from zeroq_asr.lines import printable, shorten, shown
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: model_type of those that read log-mel features; all others read waveforms
MEL_FAMILIES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
#: what the tokenizers of waveform models are called; older folders do not say
_TOKENIZERS = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer", None)
#: what decodes by pyctcdecode
WITH_LANGUAGE_MODEL = "Wav2Vec2ProcessorWithLM"


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


def frontend_of(name: str, extractor: Any, config: Any) -> FrontendConfig:
    """Return the frontend that computes what transformers' feature extractor does."""
    mel = config.model_type in MEL_FAMILIES
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


def has_language_model(name: str, extractor: Any) -> bool:
    """Tell whether transformers would decode by n-grams that lie beside the network."""
    written, _ = read(name, "preprocessor", type(extractor).get_feature_extractor_dict)
    if written.get("processor_class") == WITH_LANGUAGE_MODEL:
        return True
    return os.path.isdir(os.path.join(name, "language_model"))


def language_of(name: str, config: Any, wanted: str | None) -> str | None:
    """Return the language to recognize, one of a vocabulary by languages; None where there is but one.

    Raises CheckpointError for a vocabulary that is none, and where a choice is missing or not there.
    """
    tokens: dict[str, Any] = {}
    if config.model_type not in MEL_FAMILIES:
        tokens = read_object(file_of(name, "vocab.json", "vocabulary"))
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
            path = Path(file_of(name, "tokenizer_config.json", "tokenizer configuration"))
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


def read_tokenizer(name: str, library: Any, config: Any, language: str | None) -> Any:
    """Return transformers' tokenizer, of one language where a vocabulary has several."""
    if config.model_type in MEL_FAMILIES:
        return read(name, "tokenizer", library.AutoTokenizer.from_pretrained)
    auto = importlib.import_module("transformers.models.auto.tokenization_auto")
    given = read(name, "tokenizer configuration", auto.get_tokenizer_config).get("tokenizer_class")
    if given not in _TOKENIZERS:
        raise UnsupportedModelError(name, f"its tokenizer is {given}", f"only {_TOKENIZERS[0]} is supported")
    chosen = {} if language is None else {"target_lang": language}
    return read(name, "vocabulary", library.Wav2Vec2CTCTokenizer.from_pretrained, **chosen)


#: identifiers of tokens are below it
_MOST_TOKENS = 1 << 31


def tokens_of(
    name: str, tokenizer: Any, classes: int, blank: int | None = None
) -> tuple[Tokenizer, list[int]]:
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
