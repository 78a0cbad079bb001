"""The LSTM language model of `train_lm.py` as integers, without data: what its perplexity becomes.

    python integer_lm.py --work /tmp/demo

The network stands where a transducer's predictor stands, so the same operator quantizes it: labels in, and
in place of a prediction the scores of what follows, 16 bits wide.  A row for each source of the labels that
ranges come from, beside float's perplexity of a held-out piece.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pieces
import torch
import train_lm
from torch import Tensor, nn
from train import Speech

import zeroq_asr as zq
from zeroq_asr.architectures.transducer import Joiner, LstmPredictor, ProjectedEncoder, Transducer
from zeroq_asr.decoding.ports import PREDICTED
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program

#: sources of labels, as ``zq.LabelSpec`` has them
SOURCES = (("pieces",), ("random",), ("pieces", "random"))


def around(network: train_lm.LanguageModel, spelled: pieces.Pieces) -> zq.TransducerModel:
    """Return a transducer whose predictor is a language model, and whose encoder, one that ships, says 0."""
    shipped = zq.embedded_model("transducer")
    count, encoder = network.output.out_features, shipped.network.encoder
    projection = nn.Linear(encoder.projection.in_features, count)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    whole = Transducer(
        ProjectedEncoder(encoder.body, projection),
        LstmPredictor(network.embedding, network.lstm, network.output),
        Joiner(nn.ReLU(), nn.Linear(count, count)),
    ).eval()
    return dataclasses.replace(shipped, name="language model", network=whole, tokenizer=spelled.tokenizer)


class Stepped:
    """The program of a language model, called as its network is: step by step, whole texts at a time."""

    def __init__(self, program: Program) -> None:
        """``program``: of a transducer's predictor."""
        self._program, self._backend = program, TorchBackend()
        self._scale = program.values[program.output(PREDICTED).value].scale

    def __call__(self, labels: Tensor) -> Tensor:
        """Return scores [U, B, V + 1] of what follows each of labels [U, B]."""
        states = [torch.from_numpy(state) for state in self._program.initial_states(batch=labels.shape[1])]
        rows = []
        for row in labels:
            scores, *states = self._program.run(self._backend, row.to(torch.int32)[:, None, None], *states)
            rows.append(scores[:, :, 0] * self._scale)
        return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    spelled = pieces.of_work(options.work)
    end = spelled.tokenizer.blank_id
    held_out = [spelled.ids(text) for text in Speech(options.work / "held-out").texts]
    network = train_lm.load(options.work / train_lm.NETWORK, spelled.tokenizer.tokens)
    print(f"{'float':24} {train_lm.perplexity(network, held_out, end):6.3f}", flush=True)
    model = around(network, spelled)
    for sources in SOURCES:
        found = []
        for seed in options.seeds:
            labels = zq.LabelSpec(label_sources=sources, label_seed=seed)
            # the encoder says nothing, whatever it hears
            prepared = zq.prepare_transducer(
                model,
                synthesis=zq.SynthesisSpec(batch=2, frames=64),
                calibration=zq.CalibrationSpec("noise"),
                labels=labels,
                check_ranges=False,
            )
            program = zq.build_transducer(prepared).programs["predictor"]
            found.append(train_lm.perplexity(Stepped(program), held_out, end))
        means = " ".join(f"{one:6.3f}" for one in found)
        print(f"labels: {' and '.join(sources):16} {sum(found) / len(found):6.3f}   ({means})", flush=True)


if __name__ == "__main__":
    main()
