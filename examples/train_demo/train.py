"""Train a recogniser on what `prepare.py` made, and write a checkpoint named after it.

    python train.py --work /tmp/demo --model quartznet --minutes 95

The learning rate follows the share of the time that has passed, so training ends on time on any
machine; time in which the process was stopped does not count.  Every evaluation is on held-out
sentences in held-out voices.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import recipe
import torch
from torch import Tensor
from torch.nn import functional as F

import zeroq_asr as zq
from zeroq_asr.decoding.greedy import greedy_ctc_batch

#: time masks cover at most this share of an utterance each
_TIME_SHARE, _TIME_MASKS = 0.06, 2
#: mels that one frequency mask covers at most
_MEL_SPAN, _MEL_MASKS = 10, 2
#: frequencies are stretched by at most this share
_WARP = 0.12
#: seconds that a step counts at most: a longer one was interrupted
_LONGEST_STEP = 15


class Speech:
    """The utterances of one folder."""

    def __init__(self, folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]
        self.texts = [row["text"] for row in rows]
        self.frames = np.array([row["frames"] for row in rows])
        self.starts = np.concatenate(([0], np.cumsum(self.frames)[:-1]))
        self.features = np.load(folder / "features.npy", mmap_mode="r")

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return features [B, M, T] and lengths [B]."""
        lengths = torch.from_numpy(self.frames[rows])
        out = torch.zeros(len(rows), int(lengths.max()), recipe.MELS)
        for place, row in zip(out, rows, strict=True):
            start, count = self.starts[row], self.frames[row]
            place[:count] = torch.from_numpy(np.asarray(self.features[start : start + count], np.float32))
        return out.transpose(1, 2).contiguous(), lengths

    def targets(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the token identifiers, one utterance after another, and how many each has."""
        ids = [[recipe.TOKENS.index(c) for c in self.texts[row]] for row in rows]
        return torch.tensor([i for one in ids for i in one]), torch.tensor([len(one) for one in ids])

    def epoch(self, seconds: float, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the rows of batches of some ``seconds``, of similar lengths, in random order."""
        jitter = self.frames * generator.uniform(0.95, 1.05, len(self.frames))
        order = np.argsort(jitter, kind="stable")
        budget = seconds * recipe.FRONTEND.frames_per_second
        batches, current = [], []
        for row in order:
            if current and (len(current) + 1) * self.frames[row] > budget:
                batches.append(np.array(current))
                current = []
            current.append(row)
        batches.append(np.array(current))
        for index in generator.permutation(len(batches)):
            yield batches[index]


def augment(features: Tensor, lengths: Tensor, generator: np.random.Generator) -> Tensor:
    """Stretch frequencies and mask stretches of time and frequency (SpecAugment, arXiv 1904.08779)."""
    mels = features.shape[1]
    centres = torch.arange(mels, dtype=torch.float32)
    for one, length in zip(features, lengths.tolist(), strict=True):
        source = (centres * (1 + generator.uniform(-_WARP, _WARP))).clamp(0, mels - 1.001)
        low = source.long()
        part = (source - low)[:, None]
        one[:] = one[low] * (1 - part) + one[low + 1] * part
        for _ in range(_MEL_MASKS):
            span = generator.integers(0, _MEL_SPAN + 1)
            start = generator.integers(0, mels - span + 1)
            one[start : start + span] = 0
        for _ in range(_TIME_MASKS):
            span = generator.integers(0, max(1, int(length * _TIME_SHARE)) + 1)
            start = generator.integers(0, length - span + 1)
            one[:, start : start + span] = 0
    return features


def evaluate(network: torch.nn.Module, speech: Speech, tokenizer: zq.Tokenizer) -> tuple[float, float]:
    """Return word and character error rate in percent."""
    network.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(speech.texts), 32):
            rows = np.arange(start, min(start + 32, len(speech.texts)))
            logits, lengths = network(*speech.batch(rows))
            ids = greedy_ctc_batch(logits.numpy(), lengths.numpy(), tokenizer.blank_id)
            found += [tokenizer.decode(one) for one in ids]
    network.train()
    return 100 * jiwer.wer(speech.texts, found), 100 * jiwer.cer(speech.texts, found)


def learning_rate(share: float, peak: float) -> float:
    """One cycle (arXiv 1708.07120): up in the first tenth of the time, then down a cosine to nothing."""
    if share < 0.1:
        return peak * (0.04 + 0.96 * share / 0.1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - 0.1) / 0.9)))


def save(model: zq.AsrModel, path: Path) -> None:
    """Write the checkpoint with weights of half precision: half the file."""
    network = copy.deepcopy(model.network).half()
    zq.save_checkpoint(dataclasses.replace(model, network=network), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", choices=recipe.MODELS, default="quartznet")
    parser.add_argument("--minutes", type=float, default=95)
    parser.add_argument("--batch-seconds", type=float, default=90)
    parser.add_argument("--peak", type=float, help="the highest learning rate (default: the recipe's)")
    parser.add_argument("--evaluate-every", type=float, default=8, help="minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = np.random.default_rng(options.seed)
    training, held_out = Speech(options.work / "training"), Speech(options.work / "held-out")
    model, path = recipe.model(options.model), options.work / f"{options.model}.pt"
    peak = options.peak or recipe.MODELS[options.model].peak
    network = model.network.train()
    blank = model.tokenizer.blank_id
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": 1e-2},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))

    limit, next_evaluation = options.minutes * 60, options.evaluate_every * 60
    steps, heard, mean = 0, 0.0, 0.0
    elapsed, last = 0.0, time.monotonic()
    while elapsed < limit:
        for rows in training.epoch(options.batch_seconds, generator):
            now = time.monotonic()
            elapsed, last = elapsed + min(now - last, _LONGEST_STEP), now
            if elapsed >= limit:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(elapsed / limit, peak)
            features, lengths = training.batch(rows)
            targets, sizes = training.targets(rows)
            logits, out_lengths = network(augment(features, lengths, generator), lengths)
            log_probabilities = F.log_softmax(logits, -1).transpose(0, 1)
            loss = F.ctc_loss(log_probabilities, targets, out_lengths, sizes, blank=blank, zero_infinity=True)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            heard += float(lengths.sum()) / recipe.FRONTEND.frames_per_second / 3600
            mean = loss.item() if steps == 1 else 0.98 * mean + 0.02 * loss.item()
            if elapsed >= next_evaluation:
                next_evaluation += options.evaluate_every * 60
                wer, cer = evaluate(network, held_out, model.tokenizer)
                print(
                    f"{elapsed / 60:.0f} min, step {steps}, {heard:.0f} h heard, loss {mean:.3f}, "
                    f"held out: WER {wer:.2f} %, CER {cer:.2f} %",
                    flush=True,
                )
                save(model, path)
    wer, cer = evaluate(network, held_out, model.tokenizer)
    save(model, path)
    print(
        f"done: step {steps}, {heard:.0f} h heard, loss {mean:.3f}, "
        f"held out: WER {wer:.2f} %, CER {cer:.2f} %"
    )


if __name__ == "__main__":
    main()
