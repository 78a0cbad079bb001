"""What `verify` accepts runs, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .crafted import outcome


@pytest.mark.parametrize("seed", range(4))
def test_what_is_accepted_runs_as_it_says(seed: int, tmp_path: Path) -> None:
    found = [outcome(np.random.default_rng((seed, number)), tmp_path) for number in range(40)]
    # most alterations break something, some break nothing
    assert {"refused", "accepted"} <= {*found}
