"""Train a small HuBERT, transformers' own class, on waveforms that `prepare.py --waveforms` made.

    python train_hubert.py --work /tmp/demo --minutes 120

It takes waveforms, has layer norms and stores no statistics: the kind of network that is hardest to quantize
without data.  For the first minutes its convolutions alone learn to give log-mel energies, which the
transformer above them then need not find out; the rest is CTC.  Writes a folder as ``save_pretrained`` does,
with weights of half precision.  Minutes are those of the processor, by thread: beside other work training
takes longer, and is the same.  ``--resume`` goes on from the last state with the time that is left.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jiwer
import numpy as np
import recipe
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from train import Speech, learning_rate
from transformers import HubertConfig, HubertForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from zeroq_asr.decoding.greedy import greedy_ctc_batch

SAMPLE_RATE = 16000
#: "|" stands for the space, as in transformers' own checkpoints, and the blank is their padding token
_WORDS, _BLANK = "|", "<pad>"
VOCABULARY = [_BLANK, *(_WORDS if token == " " else token for token in recipe.TOKENS)]
#: share of the time in which the convolutions alone learn
_MELS_SHARE = 0.06


def configuration() -> HubertConfig:
    """The network: 1.9 million parameters, 50 frames a second."""
    return HubertConfig(
        vocab_size=len(VOCABULARY),
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        hidden_size=144,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=576,
        # larger first steps than usual: most of the time goes into what has many frames
        conv_dim=(64, 96, 128, 128, 128),
        conv_kernel=(20, 8, 4, 4, 4),
        conv_stride=(10, 4, 2, 2, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        num_conv_pos_embeddings=31,
        num_conv_pos_embedding_groups=8,
        hidden_dropout=0.05,
        attention_dropout=0.05,
        activation_dropout=0.05,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,
        mask_time_length=5,
        mask_feature_prob=0.05,
        mask_feature_length=8,
        ctc_zero_infinity=True,
    )


class Waves(Speech):
    """The utterances of one folder as waveforms."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]
        self.samples = np.array([row["samples"] for row in rows])
        self.begins = np.concatenate(([0], np.cumsum(self.samples)[:-1]))
        self.waves = np.load(folder / "waves.npy", mmap_mode="r")

    def waveforms(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return waveforms [B, N] of mean 0 and variance 1 and their mask, as the feature extractor does."""
        counts = self.samples[rows]
        out, mask = (
            torch.zeros(len(rows), counts.max()),
            torch.zeros(len(rows), counts.max(), dtype=torch.long),
        )
        for place, row in enumerate(rows):
            begin, count = self.begins[row], self.samples[row]
            wave = torch.from_numpy(np.asarray(self.waves[begin : begin + count], np.float32))
            out[place, :count] = (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
            mask[place, :count] = 1
        return out, mask


def ids_of(text: str) -> list[int]:
    return [1 + recipe.TOKENS.index(c) for c in text]


def evaluate(network: HubertForCTC, speech: Waves) -> tuple[float, float]:
    """Return word and character error rate in percent."""
    network.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(speech.texts), 16):
            rows = np.arange(start, min(start + 16, len(speech.texts)))
            waves, mask = speech.waveforms(rows)
            logits = network(waves, attention_mask=mask).logits
            lengths = network._get_feat_extract_output_lengths(mask.sum(1))
            # this decoder's blank is the last class
            rolled = torch.cat((logits[..., 1:], logits[..., :1]), -1)
            for ids in greedy_ctc_batch(rolled.numpy(), lengths.numpy(), len(recipe.TOKENS)):
                found.append("".join(recipe.TOKENS[i] for i in ids).strip())
    network.train()
    return 100 * jiwer.wer(speech.texts, found), 100 * jiwer.cer(speech.texts, found)


def save(network: HubertForCTC, folder: Path) -> None:
    """Write the folder that ``from_pretrained`` reads, weights in half precision."""
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    network.save_pretrained(folder, state_dict=state)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    Wav2Vec2CTCTokenizer(
        str(vocabulary), bos_token=None, eos_token=None, unk_token=None, pad_token=_BLANK,
        word_delimiter_token=_WORDS,
    ).save_pretrained(folder)  # fmt: skip
    Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, return_attention_mask=True).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--batch-seconds", type=float, default=60)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="the highest learning rate")
    parser.add_argument("--evaluate-every", type=float, default=8, help="minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = np.random.default_rng(options.seed)
    training, held_out = Waves(options.work / "training"), Waves(options.work / "held-out")
    folder = options.work / "demo-hubert"
    folder.mkdir(exist_ok=True)
    network = HubertForCTC(configuration()).train()
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    to_mels = nn.Linear(network.config.conv_dim[-1], recipe.MELS)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1] + [*to_mels.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-2}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    limit, next_evaluation = options.minutes * 60, options.evaluate_every * 60
    steps, heard, mean, elapsed = 0, 0.0, 0.0, 0.0
    state = folder.parent / "demo-hubert.state"
    if options.resume:
        kept = torch.load(state)
        network.load_state_dict(kept["network"])
        to_mels.load_state_dict(kept["to_mels"])
        optimizer.load_state_dict(kept["optimizer"])
        steps, heard, mean, elapsed = kept["steps"], kept["heard"], kept["mean"], kept["elapsed"]
        next_evaluation += elapsed
        generator = np.random.default_rng(options.seed + steps)
    begun = elapsed - time.process_time() / options.threads
    while elapsed < limit:
        for rows in training.epoch(options.batch_seconds, generator):
            elapsed = begun + time.process_time() / options.threads
            share = elapsed / limit
            if elapsed >= limit:
                break
            alone = share < _MELS_SHARE
            left = (share - _MELS_SHARE) / (1 - _MELS_SHARE)
            for group in optimizer.param_groups:
                group["lr"] = options.peak if alone else learning_rate(left, options.peak)
            waves, mask = training.waveforms(rows)
            if alone:
                heard_here = network.hubert.feature_extractor(waves).transpose(1, 2)
                features, _ = training.batch(rows)
                target = F.interpolate(features, size=heard_here.shape[1], mode="linear")
                loss = F.mse_loss(to_mels(heard_here).transpose(1, 2), target)
            else:
                targets, sizes = [ids_of(training.texts[row]) for row in rows], []
                sizes = torch.tensor([len(one) for one in targets])
                logits = network(waves, attention_mask=mask).logits
                lengths = network._get_feat_extract_output_lengths(mask.sum(1))
                log_probabilities = F.log_softmax(logits, -1).transpose(0, 1)
                flat = torch.tensor([i for one in targets for i in one])
                loss = F.ctc_loss(log_probabilities, flat, lengths, sizes, blank=0, zero_infinity=True)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            heard += float(mask.sum()) / SAMPLE_RATE / 3600
            mean = loss.item() if steps == 1 else 0.98 * mean + 0.02 * loss.item()
            if steps % 50 == 0:
                print(f"{elapsed / 60:.1f} min, step {steps}, loss {mean:.3f}", flush=True)
            if elapsed >= next_evaluation:
                next_evaluation += options.evaluate_every * 60
                wer, cer = evaluate(network, held_out)
                print(
                    f"{elapsed / 60:.0f} min, step {steps}, {heard:.0f} h heard, loss {mean:.3f}, "
                    f"held out: WER {wer:.2f} %, CER {cer:.2f} %",
                    flush=True,
                )
                save(network, folder)
                torch.save(
                    {
                        "network": network.state_dict(), "to_mels": to_mels.state_dict(),
                        "optimizer": optimizer.state_dict(), "steps": steps, "heard": heard, "mean": mean,
                        "elapsed": elapsed,
                    },
                    state,
                )  # fmt: skip
    wer, cer = evaluate(network, held_out)
    save(network, folder)
    print(
        f"done: step {steps}, {heard:.0f} h heard, loss {mean:.3f}, "
        f"held out: WER {wer:.2f} %, CER {cer:.2f} %"
    )


if __name__ == "__main__":
    main()
