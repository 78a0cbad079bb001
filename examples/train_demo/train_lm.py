"""Train language models of pieces on the texts of `prepare.py`: an LSTM, and n-grams.

    python train_lm.py --work /tmp/demo --minutes 3

writes ``language-model.pt``, as which a transducer's predictor begins, and ``pieces.arpa.gz``, n-grams whose
words are the pieces.  Held-out texts are those of held-out speech, of which no training text is one.
Minutes are those of the processor, by thread.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arpa
import numpy as np
import pieces
import recipe
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from train import Speech, learning_rate

NETWORK, GRAMS = "language-model.pt", "pieces.arpa.gz"
#: where nothing is to be predicted
_NOTHING = -100


class LanguageModel(nn.Module):
    """Embedding, LSTM and scores of the next piece; the number behind the pieces begins and ends a text."""

    def __init__(self, count: int) -> None:
        """``count``: pieces."""
        super().__init__()
        width, layers = recipe.PREDICTOR_WIDTH, recipe.PREDICTOR_LAYERS
        self.embedding = nn.Embedding(count + 1, width)
        self.lstm = nn.LSTM(width, width, layers)
        self.output = nn.Linear(width, count + 1)

    def forward(self, labels: Tensor, dropout: float = 0.0) -> Tensor:
        """Return scores [U, B, V + 1] of what follows each of labels [U, B]."""
        return self.output(read(self.embedding, self.lstm, labels, dropout))


def read(embedding: nn.Embedding, lstm: nn.LSTM, labels: Tensor, dropout: float) -> Tensor:
    """Return what an LSTM says behind each of labels [U, B], [U, B, H]: the predictor of whole texts."""
    hidden, _ = lstm(F.dropout(embedding(labels), dropout))
    return F.dropout(hidden, dropout)


def batches(
    texts: list[list[int]], size: int, end: int, generator: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield labels and what follows them, both [U, B], of ``size`` texts of similar lengths."""
    order = np.argsort([len(text) + generator.uniform(0, 1) for text in texts], kind="stable")
    for start in generator.permutation(np.arange(0, len(texts), size)):
        rows = [texts[row] for row in order[start : start + size]]
        longest = max(map(len, rows))
        padded = [[end, *row, end, *[_NOTHING] * (longest - len(row))] for row in rows]
        whole = torch.tensor(padded).T
        yield whole[:-1].clamp(min=0), whole[1:]


def perplexity(network: LanguageModel, texts: list[list[int]], end: int) -> float:
    """Return the perplexity of a piece of ``texts``, their ends included."""
    total, count = 0.0, 0
    with torch.no_grad():
        for labels, following in batches(texts, 64, end, np.random.default_rng(0)):
            scores = network(labels).flatten(0, 1)
            total += F.cross_entropy(scores, following.flatten(), reduction="sum").item()
            count += int((following != _NOTHING).sum())
    return math.exp(total / count)


def train(network: LanguageModel, texts: list[list[int]], end: int, options: argparse.Namespace) -> None:
    """Train for the minutes of ``options``."""
    generator = np.random.default_rng(options.seed)
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=1e-2)
    limit, begun = options.minutes * 60, time.process_time()
    steps, mean, elapsed = 0, 0.0, 0.0
    while elapsed < limit:
        for labels, following in batches(texts, options.batch_texts, end, generator):
            elapsed = (time.process_time() - begun) / options.threads
            if elapsed >= limit:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(elapsed / limit, options.peak)
            scores = network(labels, options.dropout).flatten(0, 1)
            loss = F.cross_entropy(scores, following.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            mean = loss.item() if steps == 1 else 0.98 * mean + 0.02 * loss.item()
            if steps % 200 == 0:
                print(f"{elapsed / 60:.1f} min, step {steps}, loss {mean:.3f}", flush=True)
    print(f"{steps} steps, {steps * options.batch_texts / len(texts):.1f} times all texts, loss {mean:.3f}")


def save(network: LanguageModel, path: Path, tokens: tuple[str, ...]) -> None:
    """Write weights of half precision, and the pieces that they are of."""
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    torch.save({"tokens": list(tokens), "state_dict": state}, path)


def load(path: Path, tokens: tuple[str, ...]) -> LanguageModel:
    """Return the network of a file that `save` wrote; ValueError where it is of other pieces."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    if content["tokens"] != list(tokens):
        raise ValueError(f"{path} is of other pieces")
    network = LanguageModel(len(tokens))
    network.load_state_dict(content["state_dict"])
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--batch-texts", type=int, default=128)
    parser.add_argument("--peak", type=float, default=4e-3, help="the highest learning rate")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--order", type=int, default=5, help="pieces of the longest n-grams")
    parser.add_argument("--gain", type=float, default=10, help="nats by which an n-gram that is kept helps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    spelled = pieces.of_work(options.work)
    tokens, end = spelled.tokenizer.tokens, spelled.tokenizer.blank_id
    texts = [spelled.ids(text) for text in pieces.read_texts(options.work)]
    held_out = [spelled.ids(text) for text in Speech(options.work / "held-out").texts]

    network = LanguageModel(len(tokens))
    train(network, texts, end, options)
    save(network, options.work / NETWORK, tokens)
    print(f"LSTM: perplexity of a held-out piece {perplexity(network, held_out, end):.2f}", flush=True)

    named = [[tokens[i] for i in text] for text in texts]
    grams = arpa.estimate(named, tokens, options.order, options.gain)
    data = gzip.compress(grams.text().encode(), mtime=0)
    (options.work / GRAMS).write_bytes(data)
    total = sum(grams.sentence([tokens[i] for i in text]) for text in held_out)
    per_piece = 10 ** (-total / sum(len(text) + 1 for text in held_out))
    print(
        f"n-grams: perplexity of a held-out piece {per_piece:.2f}, {len(grams.probabilities)} n-grams, "
        f"{len(data) / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
