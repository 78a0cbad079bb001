"""Tiny random Hugging Face models, as folders that `save_pretrained` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

#: what the blank of a transducer is given beside its weights, so that it is among the best
BLANKS = {"ParakeetForRNNT": 1.3, "ParakeetForTDT": 0.4}
#: folders of Hugging Face models that `make_folder` writes: class, configuration and options
HUGGINGFACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {"feat_extract_norm": "group", "conv_bias": False}),
    "hubert": (
        "HubertForCTC",
        "HubertConfig",
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "feat_proj_layer_norm": False},
    ),
    "conformer": (
        "Wav2Vec2ConformerForCTC",
        "Wav2Vec2ConformerConfig",
        {"feat_extract_norm": "layer", "position_embeddings_type": "relative", "hidden_act": "swish"},
    ),
    "rotary": (
        "Wav2Vec2ConformerForCTC",
        "Wav2Vec2ConformerConfig",
        {"feat_extract_norm": "group", "position_embeddings_type": "rotary"},
    ),
    # the convolutions' own strides: 50 frames a second
    "rotary, 20 ms": (
        "Wav2Vec2ConformerForCTC",
        "Wav2Vec2ConformerConfig",
        {
            "feat_extract_norm": "layer",
            "position_embeddings_type": "rotary",
            "conv_dim": (12,) * 7,
            "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
            "conv_stride": (5, 2, 2, 2, 2, 2, 2),
        },
    ),
    "parakeet": ("ParakeetForCTC", "ParakeetCTCConfig", {}),
    # the blank behind the tokens, as in the models that are published, and before them
    "parakeet rnnt": ("ParakeetForRNNT", "ParakeetRNNTConfig", {"max_symbols_per_step": 3}),
    "parakeet tdt": ("ParakeetForTDT", "ParakeetTDTConfig", {"blank_token_id": 0}),
}


def _tokenizer(kind: str, folder: Path) -> Any:
    if "parakeet" not in kind:
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ETAOINSHR'"]
        (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
        return transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<unk>", "\u2581", "\u2581t", "he", "\u2581a", "e", "t", "a", "s", "r", "\u2581th", "ing"]
    tokenizer = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<pad>")])
    return transformers.ParakeetTokenizer(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")


@torch.no_grad()
def _spread(network: Any) -> None:
    """Change a transducer so that its frames and its labels differ, and some are the blank's."""
    encoded = network.eval().encoder(torch.randn(1, 400, network.config.encoder_config.num_mel_bins))
    frames = network.encoder_projector(encoded.last_hidden_state[0])
    gain = 2 / frames.std(dim=0)
    network.encoder_projector.weight.mul_(gain[:, None])
    network.encoder_projector.bias.sub_(frames.mean(dim=0)).mul_(gain)
    for parameter in network.decoder.parameters():
        parameter.mul_(5)
    network.joint.head.bias.zero_()
    network.joint.head.bias[network.config.blank_token_id] = BLANKS[type(network).__name__]


def make_folder(kind: str, folder: Path) -> Path:
    """Write a random model of a kind in ``HUGGINGFACE`` with its tokenizer; returns ``folder``."""
    model_class, config_class, options = HUGGINGFACE[kind]
    tokenizer = _tokenizer(kind, folder)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    classes = len(tokenizer)
    if "parakeet" in kind:
        mels = {"num_mel_bins": 16, "subsampling_conv_channels": 6, "conv_kernel_size": 5}
        options = {"encoder_config": {"hidden_size": 32, **shape, **mels}, **options}
        extractor = transformers.ParakeetFeatureExtractor(feature_size=16)
    else:
        convs = {"conv_dim": (12, 16), "conv_kernel": (10, 4), "conv_stride": (5, 4)}
        # an even kernel needs its last frame cut off
        around = {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4}
        options = {"hidden_size": 32, **shape, **convs, **around, **options}
        extractor = transformers.Wav2Vec2FeatureExtractor()
    if kind in ("parakeet rnnt", "parakeet tdt"):
        options = {"blank_token_id": classes, "decoder_hidden_size": 24, **options}
        classes = max(classes, options["blank_token_id"] + 1)
    if "onformer" in config_class:
        options = {**options, "conv_depthwise_kernel_size": 5}
    config = getattr(transformers, config_class)(
        vocab_size=classes, pad_token_id=tokenizer.pad_token_id, **options
    )
    torch.manual_seed(0)
    network = getattr(transformers, model_class)(config)
    with torch.no_grad():
        # away from ones, zeros and from weights so small that every frame looks alike
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.1))
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_()
    if hasattr(network, "joint"):
        _spread(network)
        network.generation_config.decoder_start_token_id = config.blank_token_id
        # without it transformers' own decoding takes a duration for a token
        network.generation_config.suppress_tokens = [*range(classes, network.joint.head.out_features)] or None
    for part in (network, tokenizer, extractor):
        part.save_pretrained(folder)
    return folder
