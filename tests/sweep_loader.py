"""A loader of checkpoints whose process may be killed, or be slow, as files beside the checkpoint say."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def load(path: str) -> Any:
    from zeroq_asr.checkpoints import load_checkpoint

    if not os.path.exists(path):
        # a sweep does not look for it beside its file, so its folder would be the working directory
        return load_checkpoint(path)
    folder, name = Path(path).parent, Path(path).stem
    with open(folder / "loads.txt", "ab") as stream:
        stream.write(f"{name} {os.getpid()}\n".encode())
        stream.flush()
        end = stream.tell()
    # others may have written behind it since
    count = (folder / "loads.txt").read_bytes()[:end].count(b"\n")
    deadly = folder / "kill.txt"
    if name == "deadly" or (deadly.exists() and count == int(deadly.read_text())):
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "slow":
        time.sleep(600)
    print("a loader may print")
    return load_checkpoint(path)
