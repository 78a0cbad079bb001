"""Options of transformers' transducers: what is read of them, and what is refused by name."""

from __future__ import annotations

from typing import Any

from zeroq_asr.architectures.transducer import ACTIVATIONS
from zeroq_asr.errors import CheckpointError, UnsupportedModelError
from zeroq_asr.lines import shown

_MOST = 2**24
#: settings of generation that change which tokens are taken, or when it ends → the value that changes nothing
_GENERATION = {
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "constraints": None,
    "guidance_scale": 1.0,
    "penalty_alpha": 0.0,
    "watermarking_config": None,
    "stop_strings": None,
    "max_time": None,
    "max_new_tokens": None,
    "num_beams": 1,
    "do_sample": False,
}


def check_transducer(name: str, config: Any) -> None:
    """Raise CheckpointError for options of a transducer that make no sense, or are not supported."""
    if config.hidden_act not in ACTIVATIONS:
        problem = f"hidden_act = {shown(config.hidden_act)} is not supported"
        raise UnsupportedModelError(name, problem, f"supported: {', '.join(ACTIVATIONS)}")
    durations = list(getattr(config, "durations", ()))
    # where others are given, transformers goes on by the number of a duration, and not by what it stands for
    if durations != list(range(len(durations))):
        raise UnsupportedModelError(
            name, f"durations = {shown(durations)} is not supported", "supported: 0, 1, 2 and so on"
        )
    most = config.max_symbols_per_step
    if type(most) is not int or not 0 < most < _MOST:
        problem = f"its max_symbols_per_step is {shown(config.max_symbols_per_step)}"
        raise CheckpointError(name, problem, "a whole number was expected")


def check_generation(name: str, model: Any, config: Any) -> None:
    """Raise UnsupportedModelError where decoding is to be anything but greedy from the blank on."""
    blank = config.blank_token_id
    start = getattr(model.generation_config, "decoder_start_token_id", None)
    if start not in (None, blank):
        raise UnsupportedModelError(
            name, f"decoder_start_token_id = {shown(start)} is not supported", f"only the blank, {blank}, is"
        )
    for option, harmless in _GENERATION.items():
        value = getattr(model.generation_config, option, None)
        if option == "suppress_tokens" and isinstance(value, list | tuple):
            # those behind the tokens are durations, which are never taken for tokens
            value = [token for token in value if not isinstance(token, int) or token < config.vocab_size]
        if value and value != harmless:
            problem = f"{option} = {shown(value)} in its generation_config is not supported"
            raise UnsupportedModelError(name, problem, "leave it out: decoding is greedy")
