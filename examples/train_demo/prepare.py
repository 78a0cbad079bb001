"""Make the speech: text of books, random voices, rooms and noise, as features on the disk.

    python prepare.py --books /tmp/austen --work /tmp/demo --hours 50

writes, for training and for what is held out, ``features.npy`` (float16 [frames, MELS], one
utterance after another) and ``utterances.jsonl`` (text, voice, frames, samples); the held-out
waveforms as FLAC with a manifest; and ``texts.txt``, all training texts, spoken or not.  With
``--waveforms`` also ``waves.npy`` (int16, one utterance after another), which networks that take
waveforms are trained on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import books
import numpy as np
import pieces
import soundfile
import speech
import torch
import voices
from recipe import FRONTEND, MELS

from zeroq_asr.speech.frontend import Frontend

_work: tuple[Path, Frontend, list[str]]


def _start(folder: Path, variants: list[str]) -> None:
    global _work
    torch.set_num_threads(1)
    _work = folder, Frontend(FRONTEND), variants


def _utterance(task: tuple[int, str, bool]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Return one utterance's description, features [T, MELS] and waveform [N]."""
    seed, text, held_out = task
    folder, frontend, variants = _work
    generator = np.random.default_rng(seed)
    if held_out:
        voice = voices.draw(variants, voices.HELD_OUT, 1, generator)
    else:
        voice = voices.draw(variants, voices.NAMED, voices.NAMED_SHARE, generator)
    wave = speech.disturb(speech.speak(text, voice, folder), generator)
    features, length = frontend(wave)
    kept = features[:, :length].T.astype(np.float16)
    seconds = len(wave) / speech.SAMPLE_RATE
    row = {"text": text, "voice": asdict(voice), "frames": length, "samples": len(wave), "seconds": seconds}
    return row, kept, wave


def write(
    folder: Path, tasks: list[tuple[int, str, bool]], pool: Any, hours: float, clips: bool, waveforms: bool
) -> None:
    """Make utterances until ``hours`` are full, and write them below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, seconds, started = [], 0.0, time.monotonic()
    with open(folder / "features.raw", "wb") as raw, open(folder / "waves.raw", "wb") as waves:
        for row, features, wave in pool.imap(_utterance, tasks, chunksize=16):
            raw.write(features.tobytes())
            if waveforms:
                waves.write(np.rint(wave * 32767).astype(np.int16).tobytes())
            if clips:
                row["audio_filepath"] = f"{len(rows):04d}.flac"
                row["duration"] = row["seconds"]
                soundfile.write(folder / row["audio_filepath"], wave, speech.SAMPLE_RATE)
            rows.append(row)
            seconds += row["seconds"]
            if len(rows) % 2000 == 0:
                print(
                    f"{folder.name}: {seconds / 3600:.1f} h after {time.monotonic() - started:.0f} s",
                    flush=True,
                )
            if seconds >= hours * 3600:
                break
    (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frames = sum(row["frames"] for row in rows)
    raw_features = np.memmap(folder / "features.raw", np.float16, "r", shape=(frames, MELS))
    np.save(folder / "features.npy", raw_features)
    if waveforms:
        np.save(folder / "waves.npy", np.memmap(folder / "waves.raw", np.int16, "r"))
    (folder / "features.raw").unlink()
    (folder / "waves.raw").unlink()
    print(
        f"{folder.name}: {len(rows)} utterances, {seconds / 3600:.2f} h, {time.monotonic() - started:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--books", type=Path, default=Path("/"), help="where r-cran-janeaustenr was unpacked")
    parser.add_argument("--espeak-data", type=Path, default=Path("/usr/lib/x86_64-linux-gnu/espeak-ng-data"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=50)
    parser.add_argument("--skip", type=int, default=0, help="texts that another network has been trained on")
    parser.add_argument("--waveforms", action="store_true", help="keep the waveforms of training, too")
    parser.add_argument("--voices", type=int, default=800)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    training, held_out = books.split(books.read_books(options.books), options.seed)
    words = len({word for text in training for word in text.split()})
    print(f"{len(training)} training texts of {words} words, {len(held_out)} held-out texts", flush=True)
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / pieces.TEXTS).write_text("".join(f"{text}\n" for text in training))
    variants = voices.write_variants(
        options.espeak_data, options.work / "voices", options.voices, options.seed
    )
    base = options.seed * 10_000_000
    with multiprocessing.get_context("fork").Pool(
        options.processes, _start, (options.work / "voices", variants)
    ) as pool:
        tasks = [(base + n, text, True) for n, text in enumerate(held_out)]
        write(options.work / "held-out", tasks, pool, 0.25, clips=True, waveforms=options.waveforms)
        pool.terminate()
    with multiprocessing.get_context("fork").Pool(
        options.processes, _start, (options.work / "voices", variants)
    ) as pool:
        tasks = [(base + 1_000_000 + n, text, False) for n, text in enumerate(training)]
        tasks = tasks[options.skip :]
        write(options.work / "training", tasks, pool, options.hours, clips=False, waveforms=options.waveforms)
        pool.terminate()


if __name__ == "__main__":
    main()
