"""Small random transducers of NeMo's configurations, and their archives' names of weights."""

from __future__ import annotations

import copy
from typing import Any

import torch

TOKENS = [" ", "a", "b", "c", "d"]
MODULES = "nemo.collections.asr.modules"
CONFIG: dict[str, Any] = {
    "preprocessor": {
        "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
        "features": 16,
        "normalize": "per_feature",
        "window_size": 0.025,
        "n_fft": 512,
        "pad_to": 0,
    },
    "encoder": {
        "_target_": f"{MODULES}.ConformerEncoder",
        "feat_in": 16,
        "n_layers": 1,
        "d_model": 8,
        "n_heads": 2,
        "conv_kernel_size": 5,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 4,
    },
    "decoder": {
        "_target_": f"{MODULES}.RNNTDecoder",
        "normalization_mode": None,
        "random_state_sampling": False,
        "blank_as_pad": True,
        "vocab_size": 5,
        "prednet": {"pred_hidden": 12, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.2},
    },
    "joint": {
        "_target_": f"{MODULES}.RNNTJoint",
        "log_softmax": None,
        "preserve_memory": False,
        "fuse_loss_wer": True,
        "fused_batch_size": 4,
        "num_classes": 5,
        "vocabulary": TOKENS,
        "jointnet": {
            "joint_hidden": 10,
            "activation": "relu",
            "dropout": 0.2,
            "encoder_hidden": 8,
            "pred_hidden": 12,
        },
    },
    "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 3}, "beam": {"beam_size": 2}},
    "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
}
STATELESS = {
    "_target_": f"{MODULES}.StatelessTransducerDecoder",
    "context_size": 2,
    "normalization_mode": "layer",
    "prednet": {"pred_hidden": 12, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.2},
}
CTC_HEAD = {
    "_target_": f"{MODULES}.ConvASRDecoder",
    "feat_in": None,
    "num_classes": 5,
    "vocabulary": TOKENS,
}


def nemo_config(*, durations: tuple[int, ...] = (), stateless: bool = False, hybrid: bool = False) -> Any:
    """Return the model_config of a small transducer."""
    config = copy.deepcopy(CONFIG)
    if durations:
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": list(durations), "sigma": 0.02}}
        config["joint"]["num_extra_outputs"] = len(durations)
        config["decoding"] |= {"model_type": "tdt", "durations": list(durations)}
    if stateless:
        config["decoder"] = copy.deepcopy(STATELESS)
    if hybrid:
        config["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": dict(CTC_HEAD), "decoding": {}}
    return config


def nemo_state(config: Any) -> dict[str, torch.Tensor]:
    """Return random weights for `nemo_config`, by NeMo's names."""
    from zeroq_asr.architectures.conformer import ConformerEncoder
    from zeroq_asr.architectures.options import Options

    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def put(prefix: str, module: torch.nn.Module) -> None:
        state.update({f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()})

    classes = len(TOKENS) + 1
    width = config["decoder"]["prednet"]["pred_hidden"]
    put("encoder", ConformerEncoder(Options(config["encoder"], "encoder")))
    if "RNNTDecoder" in config["decoder"]["_target_"]:
        put("decoder.prediction.embed", torch.nn.Embedding(classes, width, padding_idx=classes - 1))
        layers = config["decoder"]["prednet"]["pred_rnn_layers"]
        put("decoder.prediction.dec_rnn.lstm", torch.nn.LSTM(width, width, layers))
    else:
        for index, size in enumerate((9, 3)):
            table = torch.nn.Embedding(classes, size, padding_idx=classes - 1)
            put(f"decoder.prediction.embeds.{index}", table)
    joint = config["joint"]["jointnet"]["joint_hidden"]
    put("joint.enc", torch.nn.Linear(config["encoder"]["d_model"], joint))
    put("joint.pred", torch.nn.Linear(width, joint))
    outputs = classes + config["joint"].get("num_extra_outputs", 0)
    index = 2 if config["joint"]["jointnet"].get("dropout") else 1
    put(f"joint.joint_net.{index}", torch.nn.Linear(joint, outputs))
    if "aux_ctc" in config:
        put("ctc_decoder.decoder_layers.0", torch.nn.Conv1d(config["encoder"]["d_model"], classes, 1))
    return state
