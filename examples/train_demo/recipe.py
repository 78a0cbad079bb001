"""The recognisers that are trained: their frontend, their tokens, their networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import zeroq_asr as zq
from zeroq_asr.architectures import ARCHITECTURES, SUBSAMPLING
from zeroq_asr.architectures.transducer import LSTM

MELS = 64
TOKENS = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
#: both networks halve the frames: 40 encoded ones a second, some two a character of fast speech
FRONTEND = zq.FrontendConfig(features=MELS, window_size=0.025, window_stride=0.0125, pad_to=0)

_WIDTH, _LAST_WIDTH = 256, 320
_KERNELS = (11, 13, 15, 17, 19)
_CONFORMER_WIDTH = 96
#: of the transducer, and of the language model that its predictor begins as
PREDICTOR_WIDTH, PREDICTOR_LAYERS = 160, 2
_JOINT_WIDTH = 128


def _layer(filters: int, kernel: int, **options: Any) -> dict[str, Any]:
    usual = {
        "repeat": 1,
        "stride": [1],
        "dilation": [1],
        "dropout": 0.05,
        "residual": False,
        "separable": True,
    }
    return {"filters": filters, "kernel": [kernel], **usual, **options}


def _quartznet() -> dict[str, Any]:
    """Return the sections "encoder" and "decoder" of a QuartzNet of 5 × 3 convolutions."""
    layers = [
        _layer(_WIDTH, 11, stride=[2]),
        *(_layer(_WIDTH, kernel, repeat=3, residual=True) for kernel in _KERNELS),
        _layer(_LAST_WIDTH, 29, dilation=[2]),
    ]
    encoder = {"feat_in": MELS, "activation": "relu", "conv_mask": True, "jasper": layers}
    return {"encoder": encoder, "decoder": {"feat_in": _LAST_WIDTH, "num_classes": len(TOKENS)}}


def _conformer() -> dict[str, Any]:
    """Return the sections "encoder" and "decoder" of a Conformer of 6 layers."""
    encoder = {
        "feat_in": MELS,
        "d_model": _CONFORMER_WIDTH,
        "n_layers": 6,
        "n_heads": 4,
        "ff_expansion_factor": 4,
        "subsampling": "striding",
        "subsampling_factor": 2,
        "subsampling_conv_channels": 32,
        "self_attention_model": "rel_pos",
        "xscaling": True,
        "conv_kernel_size": 15,
        "conv_norm_type": "batch_norm",
    }
    return {"encoder": encoder, "decoder": {"feat_in": _CONFORMER_WIDTH, "num_classes": len(TOKENS)}}


def _transducer(tokens: int) -> dict[str, Any]:
    """Return the sections of a transducer behind the encoder of the Conformer."""
    prednet = {"pred_hidden": PREDICTOR_WIDTH, "pred_rnn_layers": PREDICTOR_LAYERS}
    return {
        "encoder": _conformer()["encoder"],
        "decoder": {"_target_": LSTM, "vocab_size": tokens, "prednet": prednet},
        "joint": {
            "_target_": "RNNTJoint",
            "num_classes": tokens,
            "jointnet": {"joint_hidden": _JOINT_WIDTH, "activation": "relu"},
        },
        "decoding": {"durations": [], "max_symbols": 5},
    }


@dataclass(frozen=True)
class Recipe:
    """A network, and how fast it learns."""

    #: what its checkpoint is called
    name: str
    architecture: str
    config: dict[str, Any]
    #: the highest learning rate
    peak: float


MODELS = {
    "quartznet": Recipe("demo", "conv_ctc", _quartznet(), 4e-3),
    "conformer": Recipe("demo-conformer", "conformer_ctc", _conformer(), 2e-3),
}


def model(kind: str) -> zq.AsrModel:
    """Return one of `MODELS` with random weights, in eval mode."""
    recipe = MODELS[kind]
    return zq.AsrModel(
        network=ARCHITECTURES[recipe.architecture](recipe.config).eval(),
        frontend=FRONTEND,
        tokenizer=zq.Tokenizer(TOKENS),
        name=recipe.name,
        architecture=recipe.architecture,
        config=recipe.config,
        subsampling_factor=SUBSAMPLING[recipe.architecture](recipe.config),
    )


def transducer(tokenizer: zq.Tokenizer) -> zq.TransducerModel:
    """Return the transducer of the pieces of ``tokenizer`` with random weights, in eval mode."""
    name, config = "conformer_transducer", _transducer(len(tokenizer.tokens))
    return zq.TransducerModel(
        network=ARCHITECTURES[name](config).eval(),
        frontend=FRONTEND,
        tokenizer=tokenizer,
        name="demo-transducer",
        architecture=name,
        config=config,
        subsampling_factor=SUBSAMPLING[name](config),
    )
