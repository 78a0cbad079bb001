"""What is computed hangs on no number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.threads import available, in_order, one_thread, side_by_side, torch_threads

FEW = zq.SynthesisSpec(batch=2, frames=64, iterations=2, speakers=3, seconds=1.0)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def test_operators_have_one_thread_and_utterances_all() -> None:
    with torch_threads(3):
        assert available() == 3
        with one_thread(), one_thread():
            assert (torch.get_num_threads(), available()) == (1, 3)
        assert (torch.get_num_threads(), available()) == (3, 3)
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert (torch.get_num_threads(), available()) == (3, 3)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_work_is_done_side_by_side(count: int) -> None:
    done: list[tuple[int, int]] = []

    def work(item: int) -> None:
        done.append((item, torch.get_num_threads()))

    with torch_threads(count), one_thread():
        side_by_side(work, [*range(7)])
    assert sorted(done) == [(item, 1) for item in range(7)]


def test_two_are_at_work_at_once() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def meet(_: int) -> None:
        meeting.wait()

    with torch_threads(2):
        side_by_side(meet, [0, 1])


def test_the_first_error_is_raised() -> None:
    def work(item: int) -> None:
        raise ValueError(item)

    for count in (1, 2):
        with torch_threads(count), pytest.raises(ValueError, match="4"):
            side_by_side(work, [4, 5, 6])


@pytest.mark.parametrize("bits", ["8", "w4a6"])
@pytest.mark.parametrize("source", ["synthetic", "speech", "noise"])
def test_a_seed_gives_one_file_on_any_number_of_threads(
    small_model: Any, tmp_path: Any, source: str, bits: str
) -> None:
    files = []
    for count in (1, 2, 3):
        with torch_threads(count):
            path = tmp_path / f"{count}.onnx"
            zq.quantize(
                small_model,
                path,
                spec=zq.QuantSpec.parse_bits(bits, max_seconds=2),
                synthesis=FEW,
                calibration=zq.CalibrationSpec(source),
            )
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_features_are_the_same_on_any_number_of_threads(small_model: Any) -> None:
    made = []
    for count in (1, 2):
        with torch_threads(count):
            made.append(zq.synthesize(small_model, FEW).features.tobytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_order(jobs: int) -> None:
    ahead: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            ahead.append(number)
            yield number

    def work(item: int) -> int:
        time.sleep(0.002 if item % 3 == 0 else 0)
        return item * item

    found = []
    for result in in_order(work, items(), jobs):
        found.append(result)
        assert len(ahead) - len(found) <= 2 * jobs
    assert found == [number * number for number in range(30)]


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("drawn", [False, True])
def test_an_error_comes_behind_what_came_before_it(jobs: int, drawn: bool) -> None:
    def items() -> Iterator[int]:
        yield from range(4)
        if drawn:
            raise KeyError(4)
        yield from (4, 5)

    def work(item: int) -> int:
        if item == 4:
            raise KeyError(item)
        time.sleep(0.002)
        return item

    results = in_order(work, items(), jobs)
    found = [next(results) for _ in range(4)]
    with pytest.raises(KeyError, match="4"):
        next(results)
    assert found == [0, 1, 2, 3]
