"""The recogniser that is trained: its frontend, its tokens, its network."""

from __future__ import annotations

from typing import Any

import zeroq_asr as zq
from zeroq_asr.architectures.quartznet import ConvCtc, subsampling_factor

MELS = 64
TOKENS = (" ", *"abcdefghijklmnopqrstuvwxyz", "'")
#: 40 encoded frames a second: some two a character of fast speech
FRONTEND = zq.FrontendConfig(features=MELS, window_size=0.025, window_stride=0.0125, pad_to=0)

_WIDTH, _LAST_WIDTH = 256, 320
_KERNELS = (11, 13, 15, 17, 19)


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


def configuration() -> dict[str, Any]:
    """Return the sections "encoder" and "decoder" of a QuartzNet of 5 × 3 convolutions."""
    layers = [
        _layer(_WIDTH, 11, stride=[2]),
        *(_layer(_WIDTH, kernel, repeat=3, residual=True) for kernel in _KERNELS),
        _layer(_LAST_WIDTH, 29, dilation=[2]),
    ]
    encoder = {"feat_in": MELS, "activation": "relu", "conv_mask": True, "jasper": layers}
    return {"encoder": encoder, "decoder": {"feat_in": _LAST_WIDTH, "num_classes": len(TOKENS)}}


def model(name: str = "demo") -> zq.AsrModel:
    """Return the recogniser with random weights, in eval mode."""
    config = configuration()
    return zq.AsrModel(
        network=ConvCtc(config).eval(),
        frontend=FRONTEND,
        tokenizer=zq.Tokenizer(TOKENS),
        name=name,
        architecture="conv_ctc",
        config=config,
        subsampling_factor=subsampling_factor(config),
    )
