"""Small random recognisers, made without a checkpoint."""

from __future__ import annotations

from typing import Any

import torch

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def small_quartznet() -> Any:
    """A small random recogniser with every idiom of the family: depthwise, strided, dilated and dense
    convolutions, residuals, squeeze-and-excitation, random normalization statistics.
    """
    from zeroq_asr.architectures.quartznet import ConvCtc
    from zeroq_asr.model import AsrModel
    from zeroq_asr.speech.frontend import FrontendConfig
    from zeroq_asr.speech.tokenizer import Tokenizer

    layer = {"repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.0, "residual": False}
    jasper = [
        {**layer, "filters": 12, "kernel": [5], "stride": [2], "separable": True},
        {**layer, "filters": 12, "kernel": [7], "repeat": 2, "residual": True, "separable": True, "se": True},
        {**layer, "filters": 16, "kernel": [3], "dilation": [2]},
    ]
    config = {
        "encoder": {"feat_in": 16, "activation": "relu", "conv_mask": True, "jasper": jasper},
        "decoder": {"feat_in": 16, "num_classes": 28, "vocabulary": LETTERS},
    }
    torch.manual_seed(0)
    network = ConvCtc(config)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_()
    return AsrModel(
        network=network.eval().requires_grad_(False),
        frontend=FrontendConfig(features=16),
        tokenizer=Tokenizer(tuple(LETTERS), "characters"),
        name="small",
        architecture="conv_ctc",
        config=config,
        subsampling_factor=2,
    )
