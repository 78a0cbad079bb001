"""Train a transducer behind the encoder of a Conformer that CTC has trained, and write ``transducer.pt``.

    python train_lm.py --work /tmp/demo
    python train_transducer.py --work /tmp/demo --minutes 7 --tune-minutes 6

The encoder stays as it is: it runs once over the speech of `prepare.py`, and predictor, joiner and
projections learn from what it gave.  The predictor begins as the language model of `train_lm.py`.  With
``--tune-minutes`` the last layers of the encoder go on learning with all the rest, from features that are
masked anew each time: CTC has taught them characters, and they come to say pieces.  With ``--resume`` the
transducer that is there goes on.  Minutes are those of the processor, by thread.  Every evaluation is on
held-out sentences in held-out voices.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import pieces
import recipe
import torch
import train_lm
from rnnt_loss import rnnt_loss
from torch import Tensor, nn
from train import Speech, augment, learning_rate

import zeroq_asr as zq
from zeroq_asr.architectures.transducer import LstmPredictor, ProjectedEncoder, Transducer
from zeroq_asr.deployment.transducer import TransducerRecognizer

CHECKPOINT = "transducer.pt"
#: stretches of an encoding that are silenced: how many, and the share of it that each takes at most
_SILENCES, _SILENT_SHARE = 2, 0.05
#: seconds of speech that are encoded at once
_ENCODED_AT_ONCE = 120


class SpokenPieces(Speech):
    """The utterances of one folder, with what they say in pieces."""

    def __init__(self, folder: Path, spelled: pieces.Pieces) -> None:
        super().__init__(folder)
        self.ids = [spelled.ids(text) for text in self.texts]
        self.end = spelled.tokenizer.blank_id

    def labels(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return targets [B, U], the unknown piece behind their ends, and how many each has [B]."""
        sizes = torch.tensor([len(self.ids[row]) for row in rows])
        targets = torch.zeros(len(rows), int(sizes.max()), dtype=torch.int64)
        for place, row in zip(targets, rows, strict=True):
            place[: len(self.ids[row])] = torch.tensor(self.ids[row])
        return targets, sizes


class Encodings:
    """What an encoder gave for the utterances of one folder, on the disk."""

    def __init__(self, body: nn.Module, speech: Speech, folder: Path) -> None:
        """Read them, or have ``body`` make them where what is there is of other weights or other speech."""
        digest = hashlib.sha256(speech.frames.tobytes())
        for name, tensor in body.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        path = folder / f"encodings-{digest.hexdigest()[:12]}"
        table = path.with_suffix(".npz")
        if not table.exists():
            self._make(body, speech, path.with_suffix(".raw"), table)
        with np.load(table) as found:
            self.starts, self.frames, width = found["starts"], found["frames"], int(found["width"])
        self.values = np.memmap(path.with_suffix(".raw"), np.float16, "r").reshape(-1, width)

    @staticmethod
    def _make(body: nn.Module, speech: Speech, path: Path, table: Path) -> None:
        starts, frames = np.zeros((2, len(speech.texts)), np.int64)
        written, width = 0, 0
        with open(path, "wb") as stream, torch.no_grad():
            for rows in speech.epoch(_ENCODED_AT_ONCE, np.random.default_rng(0)):
                encoded, lengths = body(*speech.batch(rows))
                for row, one, length in zip(rows, encoded.numpy(), lengths.tolist(), strict=True):
                    stream.write(one[:length].astype(np.float16).tobytes())
                    starts[row], frames[row], width = written, length, one.shape[1]
                    written += length
        np.savez(table, starts=starts, frames=frames, width=width)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return encodings [B, S, D] and lengths [B]."""
        lengths = torch.from_numpy(self.frames[rows])
        out = torch.zeros(len(rows), int(lengths.max()), self.values.shape[1])
        for place, row in zip(out, rows, strict=True):
            start, count = self.starts[row], self.frames[row]
            place[:count] = torch.from_numpy(np.asarray(self.values[start : start + count], np.float32))
        return out, lengths


def silence(encoded: Tensor, lengths: Tensor, generator: np.random.Generator) -> Tensor:
    """Return encodings [B, S, D] with stretches of zeros: what was said before must do there."""
    for one, length in zip(encoded, lengths.tolist(), strict=True):
        for _ in range(_SILENCES):
            span = generator.integers(0, int(length * _SILENT_SHARE) + 2)
            start = generator.integers(0, length - span + 1)
            one[start : start + span] = 0
    return encoded


def scores(network: Transducer, encoded: Tensor, targets: Tensor, dropout: float) -> Tensor:
    """Return scores [B, S, U + 1, V + 1] of encodings [B, S, D] and targets [B, U]."""
    predictor = network.predictor
    assert isinstance(predictor, LstmPredictor)
    first = torch.full((len(targets), 1), predictor.embedding.num_embeddings - 1)
    said = train_lm.read(predictor.embedding, predictor.lstm, torch.cat((first, targets), 1).T, dropout)
    predicted = predictor.projection(said).transpose(0, 1)
    projected = network.encoder.projection(encoded)
    found: Tensor = network.joiner(projected[:, :, None], predicted[:, None])
    return found


def evaluate(
    model: zq.TransducerModel, speech: SpokenPieces, encodings: Encodings | None
) -> tuple[float, float]:
    """Return word and character error rate in percent; of ``encodings`` where they are the encoder's."""
    model.network.eval()
    recognizer, found = TransducerRecognizer(model), []
    if encodings is not None:
        # what is encoded already goes through the projection alone
        whole = model.network
        encoder = ProjectedEncoder(_Same(), whole.encoder.projection)
        projected = Transducer(
            encoder, whole.predictor, whole.joiner, whole.durations, whole.max_symbols
        ).eval()
        recognizer = TransducerRecognizer(dataclasses.replace(model, network=projected))
    order = np.argsort(speech.frames, kind="stable")
    for rows in np.array_split(order, -(-len(order) // 64)):
        inputs, lengths = (encodings or speech).batch(rows)
        found += recognizer.hypotheses(inputs.numpy(), lengths.numpy())
    model.network.train()
    texts = [speech.texts[row] for row in order]
    said = [model.tokenizer.decode(one.tokens) for one in found]
    return 100 * jiwer.wer(texts, said), 100 * jiwer.cer(texts, said)


class _Same(nn.Module):
    def forward(self, encoded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return encoded, lengths


def save(model: zq.TransducerModel, path: Path) -> None:
    """Write the checkpoint with weights of half precision: half the file."""
    zq.save_checkpoint(dataclasses.replace(model, network=copy.deepcopy(model.network).half()), path)


def learn(
    model: zq.TransducerModel,
    speech: SpokenPieces,
    encode: Callable[[np.ndarray, np.random.Generator], tuple[Tensor, Tensor]],
    judge: Callable[[], tuple[float, float]],
    minutes: float,
    peak: float,
    options: argparse.Namespace,
) -> None:
    """Train what requires gradients for so many minutes, and tell how it goes."""
    if not minutes:
        return
    learnt = [p for p in model.network.parameters() if p.requires_grad]
    decayed, rest = [p for p in learnt if p.ndim > 1], [p for p in learnt if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-2}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    generator = np.random.default_rng(options.seed)
    limit, next_evaluation = minutes * 60, options.evaluate_every * 60
    steps, heard, mean, elapsed, begun = 0, 0.0, 0.0, 0.0, time.process_time()

    def passed() -> float:
        return (time.process_time() - begun) / options.threads

    while elapsed < limit:
        for rows in speech.epoch(options.batch_seconds, generator):
            elapsed = passed()
            if elapsed >= limit:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(elapsed / limit, peak)
            encoded, lengths = encode(rows, generator)
            targets, sizes = speech.labels(rows)
            found = scores(model.network, encoded, targets, options.dropout)
            loss = rnnt_loss(found, targets, lengths, sizes).sum() / (sizes + 1).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            steps += 1
            heard += float(speech.frames[rows].sum()) / recipe.FRONTEND.frames_per_second / 3600
            mean = loss.item() if steps == 1 else 0.98 * mean + 0.02 * loss.item()
            if elapsed >= next_evaluation:
                next_evaluation += options.evaluate_every * 60
                _tell(f"{elapsed / 60:.0f} min", steps, heard, mean, judge())
                save(model, options.work / CHECKPOINT)
    _tell("done", steps, heard, mean, judge())
    save(model, options.work / CHECKPOINT)


def _tell(when: str, steps: int, heard: float, mean: float, errors: tuple[float, float]) -> None:
    wer, cer = errors
    print(
        f"{when}: step {steps}, {heard:.0f} h heard, loss {mean:.3f}, "
        f"held out: WER {wer:.2f} %, CER {cer:.2f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, default=zq.embedded_files().conformer,
                        help="the checkpoint of a Conformer (default: the one that ships)")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=7, help="with the encoder as it is")
    parser.add_argument(
        "--tune-minutes", type=float, default=6, help="with layers of the encoder, afterwards"
    )
    parser.add_argument("--tune-layers", type=int, default=3, help="of the encoder, the last ones")
    parser.add_argument("--batch-seconds", type=float, default=60)
    parser.add_argument("--peak", type=float, default=3e-3, help="the highest learning rate")
    parser.add_argument("--tune-peak", type=float, default=8e-4, help="the highest learning rate of tuning")
    parser.add_argument("--dropout", type=float, default=0.1, help="of the predictor")
    parser.add_argument("--evaluate-every", type=float, default=2, help="minutes")
    parser.add_argument("--resume", action="store_true", help="begin as the transducer that is there already")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    spelled = pieces.of_work(options.work)
    training, held_out = (SpokenPieces(options.work / name, spelled) for name in ("training", "held-out"))
    model = recipe.transducer(spelled.tokenizer)
    network = model.network
    body, predictor = network.encoder.body, network.predictor
    assert isinstance(predictor, LstmPredictor)
    body.load_state_dict(zq.load_checkpoint(options.encoder).network.encoder.state_dict())
    if options.resume:
        network.load_state_dict(zq.load_model(options.work / CHECKPOINT).network.state_dict())
    else:
        language = train_lm.load(options.work / train_lm.NETWORK, spelled.tokenizer.tokens)
        predictor.embedding.load_state_dict(language.embedding.state_dict())
        predictor.lstm.load_state_dict(language.lstm.state_dict())

    body.requires_grad_(False)
    begun = time.process_time()
    heard = Encodings(body, training, options.work / "training")
    held_back = Encodings(body, held_out, options.work / "held-out")
    print(f"encoded after {(time.process_time() - begun) / 60:.1f} min", flush=True)

    def kept(rows: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        encoded, lengths = heard.batch(rows)
        return silence(encoded, lengths, generator), lengths

    def anew(rows: np.ndarray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        features, lengths = training.batch(rows)
        # its statistics stay those of a whole training
        body.eval()
        return body(augment(features, lengths, generator), lengths)

    learn(
        model,
        training,
        kept,
        lambda: evaluate(model, held_out, held_back),
        options.minutes,
        options.peak,
        options,
    )
    if options.tune_minutes:
        for layer in body.layers[-options.tune_layers :]:
            layer.requires_grad_(True)
        judge = lambda: evaluate(model, held_out, None)  # noqa: E731
        learn(model, training, anew, judge, options.tune_minutes, options.tune_peak, options)


if __name__ == "__main__":
    main()
