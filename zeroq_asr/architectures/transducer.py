"""Transducers: an encoder, a predictor and a joiner (Graves, arXiv 1211.3711).

With durations (TDT: Xu et al., arXiv 2304.06795) a score also says how far to go on.

::

    features ─► encoder body ─► projection ──► (+) ─► activation ─► linear ─► scores
    last label ─► embedding ─► LSTM ─► projection ──┘

The joint network of the papers is cut before its sum, so that every part is one network: its projection of
the encoding is the encoder's last layer, its projection of the prediction the predictor's, and the joiner is
what is left, from the sum on.

Shapes: B batch, M mels, T input frames, S encoded frames, D encoder width, H predictor width, J joint width,
L layers of the LSTM, V tokens without the blank, which is the label V, K durations.  A state is a tuple of
tensors whose second axis is the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from zeroq_asr.architectures.conformer import ConformerEncoder
from zeroq_asr.architectures.options import REQUIRED, Options, UnsupportedOptionError
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import shown

State = tuple[torch.Tensor, ...]

#: more layers, wider ones, or more tokens than this is a damaged configuration, not a model
_MAX_LAYERS, _MAX_WIDTH, _MAX_CLASSES, _MAX_CONTEXT = 100, 65536, 2**20, 100
#: most durations, and the longest in encoded frames; most labels of one frame
_MAX_DURATIONS, _MAX_SKIP, _MAX_SYMBOLS = 1000, 10_000, 10_000
#: how many labels one frame may give where a configuration does not say
MAX_SYMBOLS = 10
#: the classes of predictors, as NeMo calls them
LSTM, STATELESS = "RNNTDecoder", "StatelessTransducerDecoder"
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


class ProjectedEncoder(nn.Module):
    """An encoder with the joint network's projection of what it gives as its last layer."""

    def __init__(self, body: nn.Module, projection: nn.Linear) -> None:
        """``body`` maps features [B, M, T] and lengths [B] to an encoding [B, S, D] and lengths [B]."""
        super().__init__()
        self.body, self.projection = body, projection

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the projected encoding [B, S, J] of features [B, M, T] with lengths [B], and lengths [B]."""
        encoded, lengths = self.body(features, lengths)
        return self.projection(encoded), lengths


class Predictor(nn.Module):
    """What has been said → what the joiner adds to the encoding; one label a step."""

    projection: nn.Linear

    def start(self, batch: int) -> State:
        """Return the state before the first step, which reads the blank."""
        raise NotImplementedError

    def hidden(self, labels: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return the prediction [B, H] before its projection, and the next state; else as `forward`."""
        raise NotImplementedError

    def forward(self, labels: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return the projected prediction [B, J] behind labels int64 [B], 0 … V, and the next state."""
        hidden, state = self.hidden(labels, state)
        return self.projection(hidden), state


class LstmPredictor(Predictor):
    """Embedding and LSTM; the state is (h, c), each [L, B, H]."""

    def __init__(self, embedding: nn.Embedding, lstm: nn.LSTM, projection: nn.Linear) -> None:
        """``embedding`` has V + 1 rows; ``lstm`` takes its steps [1, B, H] with the batch second."""
        super().__init__()
        self.embedding, self.lstm, self.projection = embedding, lstm, projection

    def start(self, batch: int) -> State:
        """Return zeros."""
        zeros = self.embedding.weight.new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        return zeros, zeros

    def hidden(self, labels: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return h of the last layer [B, H], and (h, c)."""
        h, c = state
        out, (h, c) = self.lstm(self.embedding(labels)[None], (h, c))
        return out[0], (h, c)


class StatelessPredictor(Predictor):
    """Embeddings of the last labels beside each other, the latest first; the state is the labels before.

    The state is (labels,), int64 [N − 1, B], oldest first, of a context of N labels.  Where there are none
    yet, the blank stands.
    """

    def __init__(self, embeddings: list[nn.Embedding], normalized: bool, projection: nn.Linear) -> None:
        """``embeddings`` hold one table [V + 1, …] a label; ``normalized``: a layer norm without weights."""
        super().__init__()
        self.embeddings, self.projection = nn.ModuleList(embeddings), projection
        width = projection.in_features
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if normalized else nn.Identity()
        self.blank = embeddings[0].num_embeddings - 1

    def start(self, batch: int) -> State:
        """Return blanks."""
        device = self.projection.weight.device
        return (torch.full((len(self.embeddings) - 1, batch), self.blank, dtype=torch.int64, device=device),)

    def hidden(self, labels: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Return the embeddings [B, H], normalized, and the labels that are then the last."""
        context = torch.cat((state[0], labels[None]))
        tables = zip(self.embeddings, reversed(context), strict=True)
        hidden: torch.Tensor = self.norm(torch.cat([table(row) for table, row in tables], dim=-1))
        return hidden, (context[1:],)


class Joiner(nn.Module):
    """Activation and output layer over the sum of encoding and prediction, both projected."""

    output: nn.Linear

    def __init__(self, activation: nn.Module, output: nn.Linear) -> None:
        super().__init__()
        self.activation, self.output = activation, output

    def forward(self, encoded: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Return scores [B, V + 1 + K] of [B, J] and [B, J]: tokens, blank, then durations."""
        scores: torch.Tensor = self.output(self.activation(encoded + predicted))
        return scores


class Transducer(nn.Module):
    """The three parts of a transducer, and what greedy decoding needs to know of it.

    ``durations`` [K]: encoded frames that each of the last scores stands for; () where there are none, and
    every blank is one frame.  ``max_symbols``: how many labels one encoded frame may give at most.
    """

    #: the parts, in the order in which a recording passes them
    PARTS = ("encoder", "predictor", "joiner")
    encoder: ProjectedEncoder
    predictor: Predictor
    joiner: Joiner

    def __init__(
        self,
        encoder: ProjectedEncoder,
        predictor: Predictor,
        joiner: Joiner,
        durations: tuple[int, ...] = (),
        max_symbols: int = MAX_SYMBOLS,
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.joiner = encoder, predictor, joiner
        self.durations, self.max_symbols = durations, max_symbols


def conformer_transducer(config: Mapping[str, Any]) -> Transducer:
    """Build a (Fast)Conformer with an LSTM or a stateless predictor.

    ``config`` holds "encoder", "decoder" and "joint", the sections of that name of a NeMo model with
    ``decoder.vocab_size`` and ``joint.num_classes`` given, and "decoding" with ``durations`` and
    ``max_symbols``.  Raises ConfigError when they describe no network, or one with options that are not
    supported.
    """
    whole = Options(config, "")
    encoder, decoder, joint, decoding = (
        Options(whole.raw(name, REQUIRED), name) for name in ("encoder", "decoder", "joint", "decoding")
    )
    whole.finish()
    durations = read_durations(decoding, "durations")
    max_symbols = decoding.whole("max_symbols", 1, _MAX_SYMBOLS, MAX_SYMBOLS)
    decoding.finish()
    jointnet = Options(joint.raw("jointnet", REQUIRED), joint.where("jointnet"))
    width = jointnet.whole("joint_hidden", 1, _MAX_WIDTH)
    classes = joint.whole("num_classes", 1, _MAX_CLASSES)
    if decoder.raw("vocab_size", None) != classes:
        raise ConfigError(
            decoder.where("vocab_size"),
            f"is {shown(decoder.raw('vocab_size', None))}, {joint.where('num_classes')} is {classes}",
            "both are the number of tokens without the blank",
        )
    try:
        body = ConformerEncoder(encoder)
        predictor = _predictor(decoder, width)
        joiner = _joiner(joint, jointnet, classes, len(durations))
        _require_width(jointnet, "encoder_hidden", body.width, "the encoder")
        _require_width(jointnet, "pred_hidden", predictor.projection.in_features, "the predictor")
        jointnet.finish()
        return Transducer(
            ProjectedEncoder(body, nn.Linear(body.width, width)), predictor, joiner, durations, max_symbols
        )
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        # torch's own words for sizes that make no tensor
        raise ConfigError("network", f"its configuration describes no network ({error})") from None


def read_durations(section: Options, name: str) -> tuple[int, ...]:
    """Return a list of durations in encoded frames, each 0 or more; () where it is null or empty."""
    values = section.raw(name)
    if values is None:
        return ()
    whole = isinstance(values, list | tuple) and len(values) <= _MAX_DURATIONS
    if not whole or not all(type(value) is int and 0 <= value <= _MAX_SKIP for value in values):
        raise section.wrong(name, f"a list of whole numbers from 0 to {_MAX_SKIP}")
    return tuple(values)


def _predictor(section: Options, joint: int) -> Predictor:
    """Return the predictor of a decoder's section, with a projection to ``joint`` channels."""
    kind = section.text("_target_").rpartition(".")[2]
    section.ignore("cls", "vocabulary")
    classes = section.whole("vocab_size", 1, _MAX_CLASSES)
    net = Options(section.raw("prednet", REQUIRED), section.where("prednet"))
    width = net.whole("pred_hidden", 1, _MAX_WIDTH)
    # how training began, and what it left out
    net.ignore("dropout", "t_max", "forget_gate_bias", "weights_init_scale", "hidden_hidden_bias_scale")
    projection = nn.Linear(width, joint)
    if kind == STATELESS:
        context = section.whole("context_size", 1, _MAX_CONTEXT, 1)
        mode = section.raw("normalization_mode")
        section.only("normalization_mode", None, "layer")
        # NeMo reads neither of a predictor without memory
        section.ignore("random_state_sampling", "blank_as_pad")
        net.ignore("pred_rnn_layers", "rnn_hidden_size")
        tables = [nn.Embedding(classes + 1, size) for size in _shares(width, context)]
        section.finish()
        net.finish()
        return StatelessPredictor(tables, mode == "layer", projection)
    if kind != LSTM:
        raise UnsupportedOptionError(
            section.path, f"{shown(kind)[1:-1]} is not supported", f"supported: {LSTM}, {STATELESS}"
        )
    layers = net.whole("pred_rnn_layers", 1, _MAX_LAYERS)
    net.only("rnn_hidden_size", -1, 0, None, width, why="no projection within the LSTM")
    section.only("normalization_mode", None)
    section.only("blank_as_pad", True)
    # of the training alone
    section.ignore("random_state_sampling")
    section.finish()
    net.finish()
    return LstmPredictor(nn.Embedding(classes + 1, width), nn.LSTM(width, width, layers), projection)


def _shares(width: int, context: int) -> list[int]:
    """Return how many channels each label of a context has, the latest first.

    Half of all are shared out evenly, and the latest label has the rest besides its own share.
    """
    share = width // 2 // context
    return [width - share * (context - 1), *[share] * (context - 1)]


def _joiner(joint: Options, jointnet: Options, classes: int, durations: int) -> Joiner:
    """Return the joiner of a joint network's sections."""
    kind = joint.text("_target_").rpartition(".")[2]
    if kind != "RNNTJoint":
        raise UnsupportedOptionError(
            joint.path, f"{shown(kind)[1:-1]} is not supported", "supported: RNNTJoint"
        )
    extra = joint.whole("num_extra_outputs", 0, _MAX_DURATIONS, 0)
    if extra != durations:
        problem = f"is {extra}, decoding names {durations} durations"
        raise ConfigError(joint.where("num_extra_outputs"), problem, "name a duration for each of them")
    width = jointnet.whole("joint_hidden", 1, _MAX_WIDTH)
    activation = ACTIVATIONS[jointnet.choice("activation", ACTIVATIONS)]()
    jointnet.ignore("dropout")
    joint.ignore(
        "cls",
        "vocabulary",
        # softmax leaves the order of the scores
        "log_softmax",
        # how the training works on memory, and what it hides from the joint network
        "preserve_memory",
        "fuse_loss_wer",
        "experimental_fuse_loss_wer",
        "fused_batch_size",
        "masking_prob",
    )
    joint.finish()
    return Joiner(activation, nn.Linear(width, classes + 1 + durations))


def _require_width(jointnet: Options, name: str, width: int, part: str) -> None:
    """Raise ConfigError where an option is given and is not the width of what the joint network reads."""
    given = jointnet.raw(name)
    if given is not None and jointnet.whole(name, 1, _MAX_WIDTH) != width:
        raise ConfigError(jointnet.where(name), f"is {given}, {part} gives {width} channels")
