"""The doctor's own arithmetic, and that its verdicts agree with what the processor says."""

from __future__ import annotations

import numpy as np
import pytest

import zeroq_asr as zq
from zeroq_asr import doctor


@pytest.fixture(scope="module")
def found() -> zq.Diagnosis:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "_FRAMES", 60)
        patch.setattr(doctor, "_CHANNELS", 64)
        return zq.diagnose()


def test_kernels_that_must_be_exact_are(found: zq.Diagnosis) -> None:
    verdicts = {(k.shape, k.name): k.exact for k in found.kernels}
    for shape in ("pointwise", "depthwise"):
        assert verdicts[shape, "u8 × u8"] is True
        assert verdicts[shape, "u8 × u8 to int32"] is True
        if found.machine.architecture == "x86":
            assert verdicts[shape, "u8 × s8, |w| ≤ 64"] is True
        if found.machine.exact_at_full_range:
            assert verdicts[shape, "u8 × s8"] is True
        assert verdicts[shape, "float32"] is None


def test_rates_are_ratios_to_float(found: zq.Diagnosis) -> None:
    floats = {k.shape: k.rate for k in found.kernels if k.name == "float32"}
    for kernel in found.kernels:
        assert kernel.rate > 0
        assert kernel.speedup == pytest.approx(kernel.rate / floats[kernel.shape])


def test_it_can_be_written_as_json(found: zq.Diagnosis) -> None:
    data = found.to_dict()
    assert set(data["targets"]) == {"8", "7"}
    assert data["versions"]["zeroq-asr"] == zq.__version__


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_operands_reach_the_whole_range_without_leaving_it(depthwise: bool) -> None:
    # an output that is always at its end would hide what saturates inside
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (6, 1, 5) if depthwise else (6, 8, 1))
    x = generator.integers(0, 256, (1, 6 if depthwise else 8, 20)).astype(np.uint8)
    expected = doctor._expected("QLinearConv", x, weight, depthwise)
    exact = doctor._expected("ConvInteger", x, weight, depthwise)
    by_hand = np.rint(exact * (doctor._multiplier(weight) / 2**16)) + 128
    assert 0 < by_hand.min() < by_hand.max() < 255
    np.testing.assert_array_equal(expected, by_hand.astype(np.uint8))
