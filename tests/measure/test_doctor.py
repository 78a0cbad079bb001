"""The doctor's own arithmetic, and that its verdicts agree with what the processor says."""

from __future__ import annotations

import numpy as np
import pytest

import zeroq_asr as zq
from zeroq_asr.measure import doctor


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
            assert verdicts[shape, "u8 × s8, no pair saturates"] is True
        if found.machine.exact_at_full_range:
            assert verdicts[shape, "u8 × s8 at full range"] is True
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
def test_no_clipping_hides_what_saturates_inside(depthwise: bool) -> None:
    # at the real size; an output that is always at its end would be equal whatever happened before
    x, weight = doctor._operands(depthwise=depthwise)
    acc = doctor._accumulator(x[:, :, :60], weight, depthwise=depthwise)
    found = doctor._requantized(acc)
    assert 0 < found.min() < 80
    assert 176 < found.max() < 255
    assert len(np.unique(found)) > 60
    assert acc.max() * doctor._scale(acc) <= 120
    # and pairs of products of one sign, which is more than an int16 holds
    pairs = weight.reshape(len(weight), -1)[:, :512]
    neighbours = pairs[:, 0::2][:, : pairs.shape[1] // 2] + pairs[:, 1::2]
    assert 255 * np.abs(neighbours).max() > 2**15
