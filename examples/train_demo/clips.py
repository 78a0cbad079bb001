"""Choose the clips that ship with the package: the first of the held-out ones, as they come.

    python clips.py --work /tmp/demo --output ../../zeroq_asr/embedded

writes the checkpoints, n-grams of pieces, 60 clips to judge by (`test.jsonl`) and 12 others to calibrate on
(`calibration.jsonl`).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from zeroq_asr.embedded import CALIBRATION, CLIPS, CONFORMER, GRAMS, HUBERT, MODEL, TEST, TRANSDUCER

TESTED, CALIBRATED = 60, 12
#: what is trained, and the name that it ships under
CHECKPOINTS = {"quartznet": MODEL, "conformer": CONFORMER, "transducer": TRANSDUCER}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    source = options.work / "held-out"
    rows = [json.loads(line) for line in (source / "utterances.jsonl").read_text().splitlines()]
    shutil.rmtree(options.output / CLIPS, ignore_errors=True)
    (options.output / CLIPS).mkdir(parents=True)
    for kind, name in CHECKPOINTS.items():
        shutil.copyfile(options.work / f"{kind}.pt", options.output / name)
    shutil.copyfile(options.work / GRAMS, options.output / GRAMS)
    # a folder of transformers' files
    shutil.copytree(options.work / "demo-hubert", options.output / HUBERT, dirs_exist_ok=True)
    for name, chosen in ((TEST, rows[:TESTED]), (CALIBRATION, rows[TESTED : TESTED + CALIBRATED])):
        lines = []
        for row in chosen:
            clip = row["audio_filepath"]
            shutil.copyfile(source / clip, options.output / CLIPS / clip)
            entry = {"audio_filepath": f"{CLIPS}/{clip}", "duration": row["duration"], "text": row["text"]}
            lines.append(json.dumps(entry) + "\n")
        (options.output / name).write_text("".join(lines))


if __name__ == "__main__":
    main()
