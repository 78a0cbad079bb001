"""What the folder of a speech runtime holds, by name: a recogniser's files, and the texts beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zeroq_asr.config.choices import ONNX_ASR, SHERPA_ONNX
from zeroq_asr.deployment.metadata import Deployment, RuntimePorts
from zeroq_asr.deployment.runtime_tokens import vocabulary

#: the file of a CTC network
MODEL = "model.onnx"
#: the part that is a predictor and a joiner in one
DECODER_JOINT = "decoder_joint"
#: runtime → part of a transducer → its file
_FILES: Mapping[str, Mapping[str, str]] = {
    SHERPA_ONNX: {"encoder": "encoder.onnx", "predictor": "decoder.onnx", "joiner": "joiner.onnx"},
    ONNX_ASR: {"encoder": "encoder-model.onnx", DECODER_JOINT: "decoder_joint-model.onnx"},
}
#: runtime → its list of tokens
VOCABULARIES: Mapping[str, str] = {SHERPA_ONNX: "tokens.txt", ONNX_ASR: "vocab.txt"}
_CONFIG = "config.json"
#: all texts that a folder may hold
TEXTS = (*VOCABULARIES.values(), _CONFIG)


def file_of(part: str, ports: RuntimePorts | None) -> str:
    """Return the name of a part's file in the folder of its bundle, as ``ports`` say whose folder it is."""
    own = f"{part}.onnx"
    return own if ports is None else _FILES[ports.runtime].get(part, own)


def texts(runtime: str, deployment: Deployment) -> dict[str, bytes]:
    """Return the texts that a runtime reads beside a recogniser's files, by their names."""
    listed = {VOCABULARIES[runtime]: vocabulary(runtime, deployment.tokenizer).encode()}
    if runtime == SHERPA_ONNX:
        return listed
    kind, decoding = "ctc", deployment.decoding
    told: dict[str, Any] = {}
    if decoding is not None:
        kind = "tdt" if decoding.durations else "rnnt"
        told = {"max_tokens_per_step": decoding.max_symbols}
    config = {
        "model_type": f"nemo-conformer-{kind}",
        "features_size": deployment.frontend.features,
        "subsampling_factor": deployment.subsampling_factor,
        **told,
    }
    return {**listed, _CONFIG: f"{json.dumps(config, indent=1)}\n".encode()}
