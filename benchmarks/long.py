"""How well a transducer hears long recordings to their end: word errors at both ends, float beside 8 bits.

    python benchmarks/long.py --seconds 600 --manifest held-out.jsonl --recordings 4

Clips are joined to recordings, half a second of silence between them, each in an order of its own.  The
first and the last minute of one are the same clips, so that they differ by their place alone.  It is heard in
pieces, cut at pauses, as `transcribe` does by itself with what is longer than a file is proven for, and
whole, by a file of `--max-seconds`.  A word counts where its time lies; errors of all recordings are added.
Each row is a process of its own, on one thread.
Columns: the word error rate (%) of the first minute, of all, and of the last; last less first; the words (%)
of the first and of the last minute that differ from the float network's; seconds of the processor for all of
it, and the most memory of the process (MB, the network and Python's libraries included).
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from hearing import our_warnings_alone

import zeroq_asr as zq
from zeroq_asr.architectures.conformer import RelativeAttention
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.speech.audio import AudioReader

#: seconds between clips, of the parts that are compared, and of the longest piece by default
GAP, PART, PIECE = 0.5, 60.0, 60.0
#: queries of the float attention at once: of ten minutes all would take 2.3 GB a head, several times over
BLOCK = 256
Clip = tuple[npt.NDArray[np.float32], str]
COLUMNS = ("first", "all", "last", "last-first", "words first", "words last", "s", "MB")
#: words, with the seconds of their middle
Heard = list[tuple[str, float]]


@dataclass(frozen=True)
class Recording:
    """Samples, and of every clip in it the text and the seconds where it begins and ends."""

    samples: npt.NDArray[np.float32]
    texts: list[str]
    spans: list[tuple[float, float]]
    #: clips of the first part, which are those of the last
    count: int

    def parts(self, heard: Heard) -> list[tuple[str, str]]:
        """What was said, and what was heard, in the first part, in all of it, and in the last part."""
        spans = (self.spans[: self.count], self.spans, self.spans[-self.count :])
        texts = (self.texts[: self.count], self.texts, self.texts[-self.count :])
        return [
            (" ".join(said), " ".join(word for word, at in heard if inside[0][0] <= at < inside[-1][1]))
            for said, inside in zip(texts, spans, strict=True)
        ]


def joined(clips: list[Clip], rate: int, seconds: float, seed: int) -> Recording:
    """Join clips to a recording of about so many seconds, in an order by ``seed``."""
    order, gap = np.random.default_rng(seed), np.zeros(int(GAP * rate), np.float32)

    def taken(limit: float) -> Iterator[Clip]:
        length = 0.0
        while True:
            for k in order.permutation(len(clips)):
                length += len(clips[k][0]) / rate + GAP
                if length > limit:
                    return
                yield clips[k]

    same = [*taken(PART)]
    sequence = [*same, *taken(seconds - 2 * PART), *same]
    spans, at = [], 0
    for samples, _ in sequence:
        end = at + len(samples) + len(gap)
        spans.append((at / rate - GAP / 2, end / rate - GAP / 2))
        at = end
    pieces = [piece for samples, _ in sequence for piece in (samples, gap)]
    return Recording(np.concatenate(pieces), [text for _, text in sequence], spans, len(same))


def blocked(
    self: RelativeAttention, x: torch.Tensor, positions: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    """`RelativeAttention.forward` of one utterance, a few queries at a time."""
    (_, frames, width), heads = x.shape, self.heads
    q = self.linear_q(x).view(frames, heads, self.size)
    k = self.linear_k(x).view(frames, heads, self.size).permute(1, 2, 0)
    v = self.linear_v(x).view(frames, heads, self.size).transpose(0, 1)
    p = self.linear_pos(positions).view(-1, heads, self.size).permute(1, 2, 0)
    out = []
    for first in range(0, frames, BLOCK):
        some = q[first : first + BLOCK]
        count = len(some)
        content = torch.matmul((some + self.pos_bias_u).transpose(0, 1), k)
        near = p[:, :, frames - first - count : 2 * frames - 1 - first]
        rows = torch.matmul((some + self.pos_bias_v).transpose(0, 1), near).contiguous()
        # row r of a block is read from its entry count − 1 − r on
        size = frames + count - 1
        shifted = rows.as_strided((heads, count, frames), (count * size, size - 1, 1), count - 1)
        weights = torch.softmax((content + shifted) / self.size**0.5, dim=-1)
        out.append(torch.matmul(weights, v).transpose(0, 1).reshape(count, width))
    mixed: torch.Tensor = self.linear_out(torch.cat(out))
    return mixed[None]


def recordings(manifest: str, rate: int, seconds: float, count: int) -> list[Recording]:
    with AudioReader(rate) as read:
        clips = [(read(one), one.text or "") for one in zq.read_manifest(manifest)]
    return [joined(clips, rate, seconds, seed) for seed in range(count)]


def hear(
    source: str, limit: float, manifest: str, seconds: float, count: int
) -> tuple[list[Heard], float, float]:
    """Hear `recordings` in pieces of ``limit`` seconds: words, seconds of the processor, and memory in MB."""
    our_warnings_alone()
    torch.set_num_threads(1)
    recognizer = zq.open_recognizer(source, threads=1)
    if isinstance(recognizer, zq.TransducerRecognizer):
        RelativeAttention.forward = blocked  # type: ignore[method-assign]  # of this process alone
        recognizer.max_seconds = limit
    spoken = recordings(manifest, recognizer.frontend.sample_rate, seconds, count)
    begun = time.process_time()
    heard = [found for one in spoken for found in zq.recognize(recognizer, [one.samples])]
    taken = time.process_time() - begun
    # what getrusage says of a child begins with its parent's
    status = Path("/proc/self/status").read_text()
    memory = int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)[0]) / 1000
    words = [[(word.text, (word.start + word.end) / 2) for word in one.words] for one in heard]
    return words, taken, memory


def rate_of(said: list[list[str]], heard: list[list[str]]) -> list[float]:
    """Word error rates (%) of each part, over all recordings; texts of a recording are those of its parts."""
    parts = zip(zip(*said, strict=True), zip(*heard, strict=True), strict=True)
    return [100 * (count_errors([*a], [*b])[0].rate or 0) for a, b in parts]


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--checkpoint", default=str(zq.embedded_files().transducer))
    options.add_argument("--manifest", default=str(zq.embedded_files().test))
    options.add_argument("--seconds", type=float, default=600.0)
    options.add_argument("--recordings", type=int, default=1)
    options.add_argument("--piece", type=float, default=PIECE, help="seconds of the longest piece")
    options.add_argument("--only", choices=("pieces", "whole"), help="leave the other out")
    arguments = options.parse_args()
    our_warnings_alone()
    model = zq.load_model(arguments.checkpoint)
    if not isinstance(model, zq.TransducerModel):
        raise SystemExit(f"error: {arguments.checkpoint} is no transducer")
    asked = (arguments.manifest, arguments.seconds, arguments.recordings)
    spoken = recordings(asked[0], model.frontend.sample_rate, *asked[1:])
    print(f"{'':<16}" + "".join(f"{name:>12}" for name in COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for how, limit in (("pieces", arguments.piece), ("whole", arguments.seconds)):
            if arguments.only not in (None, how):
                continue
            bundle = str(Path(folder) / how)
            zq.quantize_transducer(model, bundle, spec=zq.QuantSpec(max_seconds=limit))
            real: list[list[str]] = []
            for name, source in (("float", arguments.checkpoint), ("W8A8", bundle)):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    heard, taken, memory = process.submit(hear, source, limit, *asked).result()
                pairs = [one.parts(words) for one, words in zip(spoken, heard, strict=True)]
                truth = [[said for said, _ in parts] for parts in pairs]
                found = [[text for _, text in parts] for parts in pairs]
                real = real or found
                first, whole, last = rate_of(truth, found)
                alike = rate_of(real, found)
                row = [first, whole, last, last - first, alike[0], alike[2], taken, memory]
                print(f"{f'{name}, {how}':<16}" + "".join(f"{value:>12.2f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
