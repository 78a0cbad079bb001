from __future__ import annotations

import io
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zeroq_asr.config import SynthesisSpec
from zeroq_asr.embedded import embedded_model
from zeroq_asr.errors import CalibrationError, ConfigError, SynthesisError
from zeroq_asr.model import AsrModel
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer
from zeroq_asr.synthesis.features import SyntheticFeatures
from zeroq_asr.synthesis.objectives import OBJECTIVES, find_objective, objective, within
from zeroq_asr.synthesis.statistics import BatchNormObserver
from zeroq_asr.synthesis.synthesize import gaussian_noise, synthesize

SPEC = SynthesisSpec(batch=2, frames=48, iterations=25, objective="kl", init="normal")
MELS = 8


class Net(nn.Module):
    """Two separable layers with batch normalization, then logits."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(MELS, MELS, 11, padding=5, groups=MELS, bias=False)
        self.pointwise = nn.Conv1d(MELS, 12, 1)
        self.first = norm(12)
        self.conv = nn.Conv1d(12, 16, 3, padding=1)
        self.second = norm(16)
        self.head = nn.Conv1d(16, 4, 1)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(self.pointwise(self.depthwise(features))).relu()
        x = self.second(self.conv(x)).relu()
        return self.head(x).transpose(1, 2), lengths


def _trained(network: nn.Module) -> nn.Module:
    """Leave in the normalizations what features of another shape than noise leave there."""
    network.train()
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(16, MELS, 200, generator=generator).cumsum(2) * 0.3 + 1.0
    with torch.no_grad():
        for _ in range(60):
            network(features, torch.full((16,), 200))
    return network.eval().requires_grad_(False)


def _model(network: nn.Module) -> AsrModel:
    return AsrModel(network, FrontendConfig(features=MELS), Tokenizer(("a", "b", "c")), "small")


@pytest.fixture
def model() -> AsrModel:
    torch.manual_seed(0)
    return _model(_trained(Net()))


def test_a_transducer_is_refused() -> None:
    transducer = embedded_model("transducer")
    with pytest.raises(SynthesisError, match="is a transducer; prepare_transducer makes features"):
        synthesize(transducer)  # type: ignore[arg-type]  # a wrong type is the point


def test_statistics_come_closer(model: AsrModel) -> None:
    reports: list[tuple] = []
    result = synthesize(model, SPEC, lambda *report: reports.append(report))
    assert result.features.dtype == np.float32
    assert result.features.shape == (2, MELS, 48)
    assert result.lengths.tolist() == [48, 48]
    assert len(result.losses) == 26
    assert min(result.losses) < 0.1 * result.losses[0]
    assert [layer.name for layer in result.account] == ["first", "second"]
    assert [(layer.channels, layer.total_channels) for layer in result.account] == [(12, 12), (16, 16)]
    assert all(layer.kl_after < layer.kl_before for layer in result.account)
    assert all(0.5 < layer.std_ratio < 2 for layer in result.account)
    assert sum(layer.kl_before for layer in result.account) == pytest.approx(result.losses[0], rel=1e-5)
    assert sum(layer.kl_after for layer in result.account) == pytest.approx(min(result.losses), rel=1e-5)
    assert [report[1] for report in reports] == list(range(26))
    assert reports[0][0] == "synthesize"
    assert "loss" in reports[-1][3]


@pytest.mark.parametrize("means", [{"beta1": 0.2}, {"beta2": 0.5}])
def test_means_of_gradients_count_from_the_second_step_on(model: AsrModel, means: dict[str, float]) -> None:
    spec = SynthesisSpec(batch=2, frames=48, iterations=3)
    found, other = synthesize(model, spec).losses, synthesize(model, replace(spec, **means)).losses
    # of a single gradient every mean is that gradient
    assert found[:2] == pytest.approx(other[:2], rel=1e-6)
    assert found[2] != pytest.approx(other[2], rel=1e-6)


def test_account_is_that_of_the_features(model: AsrModel) -> None:
    result = synthesize(model, SPEC)
    seen = {}
    model.network.second.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    model.network(torch.from_numpy(result.features), torch.from_numpy(result.lengths))
    var, mean = torch.var_mean(seen["x"], dim=(0, 2), correction=0)
    stored = model.network.second
    mean_off = (mean - stored.running_mean).abs() / (stored.running_var + stored.eps).sqrt()
    ratio = ((var + stored.eps) / (stored.running_var + stored.eps)).sqrt()
    assert result.account[1].mean_mismatch == pytest.approx(float(mean_off.mean()), rel=1e-4)
    assert result.account[1].std_ratio == pytest.approx(float(ratio.median()), rel=1e-4)


@pytest.mark.parametrize("init", ["normal", "uniform", "smooth"])
def test_same_seed_same_bits(model: AsrModel, init: str) -> None:
    spec = SynthesisSpec(batch=2, frames=32, iterations=5, init=init, seed=11)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = synthesize(model, spec)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is nobody's business
    torch.manual_seed(2)
    second = synthesize(model, spec)
    assert first.features.tobytes() == second.features.tobytes()
    assert first.losses == second.losses
    other = synthesize(model, SynthesisSpec(batch=2, frames=32, iterations=5, init=init, seed=12))
    assert first.features.tobytes() != other.features.tobytes()


def test_network_stays_untouched(model: AsrModel) -> None:
    network = model.network
    network.head.weight.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    synthesize(model, SPEC)
    with pytest.raises(SynthesisError):
        synthesize(model, SynthesisSpec(batch=1, frames=16, iterations=3, learning_rate=1e30))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.head.weight.requires_grad
    assert not network.conv.weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_are_zero_only_where_moments_agree(name: str) -> None:
    mean, var = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.01])
    compare = find_objective(name)
    assert float(compare(mean, var, mean, var)) == pytest.approx(0, abs=1e-6)
    for other_mean, other_var in ((mean + 0.1, var), (mean, var * 1.5), (mean, var / 1.5)):
        value = compare(other_mean, other_var, mean, var)
        assert value.shape == ()
        assert float(value) > 1e-3


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_are_zero_within_the_slack_and_continuous_at_its_end(name: str) -> None:
    mean, var = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.01])
    compare = find_objective(name)

    def loss(off: float, wide: float) -> float:
        return float(compare(*within(0.1, mean + off * var.sqrt(), var * math.exp(2 * wide), mean, var)))

    assert loss(0.09, -0.09) == pytest.approx(0, abs=1e-6)
    assert loss(-0.09, 0.09) == pytest.approx(0, abs=1e-6)
    for off, wide in ((0.3, 0.0), (0.0, 0.3), (-0.3, 0.0), (0.0, -0.3)):
        # what lies beyond the slack counts as if the slack had moved the origin
        found = loss(off, wide)
        near = (abs(off) - 0.1) * (1 if off > 0 else -1) if off else 0.0
        narrow = (abs(wide) - 0.1) * (1 if wide > 0 else -1) if wide else 0.0
        moved = compare(mean + near * var.sqrt(), var * math.exp(2 * narrow), mean, var)
        assert found == pytest.approx(float(moved), rel=1e-4)


@pytest.mark.parametrize("batch", [4, 5])
def test_groups_match_on_their_own_and_are_accounted_for_together(model: AsrModel, batch: int) -> None:
    spec = replace(SPEC, batch=batch, iterations=10)
    both = synthesize(model, replace(spec, groups=2))
    assert both.features.shape == (batch, MELS, 48)
    assert len(both.losses) == 11
    observer = BatchNormObserver(model.network)
    for k, layer in enumerate(both.account):
        with torch.no_grad(), observer:
            model.network(torch.from_numpy(both.features), torch.from_numpy(both.lengths))
        (mean, var), site = observer.moments[layer.name], observer.sites[layer.name]
        observer.clear()
        assert layer.std_ratio == pytest.approx(float((var / site.var).sqrt().median()), rel=1e-4), k
        mismatch = float(((mean - site.mean).abs() / site.var.sqrt()).mean())
        assert layer.mean_mismatch == pytest.approx(mismatch, rel=1e-3, abs=1e-5)
    joint = synthesize(model, replace(spec, groups=1))
    assert not np.array_equal(both.features, joint.features)
    # too few utterances for two groups
    few = replace(spec, batch=3)
    np.testing.assert_array_equal(
        synthesize(model, replace(few, groups=2)).features,
        synthesize(model, replace(few, groups=1)).features,
    )


def test_emphasis_watches_another_sample_at_every_layer(model: AsrModel) -> None:
    observer = BatchNormObserver(model.network, samples=True)
    x, n = torch.randn(2, model.frontend.features, 32), torch.tensor([32, 32])
    with observer:
        model.network(x, n)
    assert set(observer.samples) == set(observer.moments)
    with BatchNormObserver(model.network) as plain:
        model.network(x[:1], n[:1])
    first = next(iter(observer.samples))
    for found, wanted in zip(observer.samples[first], plain.moments[first], strict=True):
        torch.testing.assert_close(found, wanted)
    spec = SynthesisSpec(batch=2, frames=32, iterations=3)
    alike, emphasized = synthesize(model, spec), synthesize(model, replace(spec, emphasis=1.0))
    assert emphasized.losses[0] > alike.losses[0]


def test_kl_is_the_closed_form_in_the_paper_s_direction() -> None:
    batch = torch.distributions.Normal(torch.tensor([0.3, 2.0]), torch.tensor([0.5, 1.5]))
    stored = torch.distributions.Normal(torch.tensor([-0.2, 1.0]), torch.tensor([1.0, 1.2]))
    moments = (batch.loc, batch.scale**2, stored.loc, stored.scale**2)
    expected = torch.distributions.kl_divergence(stored, batch).mean()
    assert float(OBJECTIVES["kl"](*moments)) == pytest.approx(float(expected), rel=1e-5)
    reverse = torch.distributions.kl_divergence(batch, stored).mean()
    assert float(OBJECTIVES["kl_reverse"](*moments)) == pytest.approx(float(reverse), rel=1e-5)


def test_an_objective_is_one_function(model: AsrModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeroq_asr.synthesis.objectives.OBJECTIVES", dict(OBJECTIVES))

    @objective
    def mean_only(batch_mean: Tensor, batch_var: Tensor, stored_mean: Tensor, stored_var: Tensor) -> Tensor:
        return ((batch_mean - stored_mean) ** 2).mean()

    result = synthesize(model, SynthesisSpec(batch=1, frames=16, iterations=3, objective="mean_only"))
    assert min(result.losses) < result.losses[0]
    with pytest.raises(ConfigError, match="kl, kl_reverse"):
        synthesize(model, SynthesisSpec(objective="none"))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_dead_channels_are_left_out(model: AsrModel, name: str) -> None:
    norm = model.network.second
    with torch.no_grad():
        norm.running_var[0] = 0.0
        norm.running_var[1] = 1e-30
        norm.running_mean[1] = 1e6
        model.network.conv.weight[2] = 0.0  # a batch variance of zero where a variance is stored
    result = synthesize(model, SynthesisSpec(batch=1, frames=16, iterations=10, objective=name))
    assert result.account[1].channels == 14
    assert np.isfinite(result.losses).all()
    assert min(result.losses) < result.losses[0]
    assert np.isfinite([(layer.kl_after, layer.mean_mismatch) for layer in result.account]).all()


def test_layer_without_a_live_channel_is_no_site(model: AsrModel) -> None:
    model.network.second.running_var.zero_()
    assert [layer.name for layer in synthesize(model, SPEC).account] == ["first"]


def test_captured_graph_gives_the_same_sites(model: AsrModel) -> None:
    features, lengths = torch.randn(2, MELS, 48), torch.tensor([48, 48])
    graph = torch.fx.GraphModule(model.network, _aten_graph(model.network, features, lengths))
    graph.eval()
    assert not any(isinstance(module, nn.BatchNorm1d) for module in graph.modules())
    wrapped = _model(graph)
    result, expected = synthesize(wrapped, SPEC), synthesize(model, SPEC)
    assert [layer.name for layer in result.account] == [layer.name for layer in expected.account]
    np.testing.assert_allclose(result.losses, expected.losses, rtol=1e-3)


def _aten_graph(network: nn.Module, features: Tensor, lengths: Tensor) -> torch.fx.Graph:
    """The network as torch.export writes it: ATen calls on parameters and buffers."""
    graph = torch.fx.Graph()
    x, n = graph.placeholder("features"), graph.placeholder("lengths")

    def get(name: str) -> torch.fx.Node:
        return graph.get_attr(name)

    def conv(x: torch.fx.Node, name: str, padding: int, groups: int = 1) -> torch.fx.Node:
        bias = get(f"{name}.bias") if getattr(network, name).bias is not None else None
        args = (x, get(f"{name}.weight"), bias, [1], [padding], [1], groups)
        return graph.call_function(torch.ops.aten.conv1d.default, args)

    def norm(x: torch.fx.Node, name: str) -> torch.fx.Node:
        tensors = [get(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        args = (x, *tensors, False, 0.1, 1e-5, True)
        return graph.call_function(
            torch.ops.aten.relu.default, (graph.call_function(torch.ops.aten.batch_norm.default, args),)
        )

    x = norm(conv(conv(x, "depthwise", 5, MELS), "pointwise", 0), "first")
    x = norm(conv(x, "conv", 1), "second")
    x = graph.call_function(torch.ops.aten.transpose.int, (conv(x, "head", 0), 1, 2))
    graph.output((x, n))
    return graph


@pytest.mark.parametrize("norm", [nn.Identity, lambda c: nn.BatchNorm1d(c, track_running_stats=False)])
def test_network_without_statistics(norm) -> None:
    model = _model(Net(norm).eval())
    # nothing to match: the result is what synthesis starts from
    start = synthesize(model, SPEC)
    unmoved = synthesize(model, replace(SPEC, iterations=0))
    assert np.array_equal(start.features, unmoved.features)
    assert (start.account, start.losses) == ((), ())
    with pytest.raises(SynthesisError, match=r"no normalization.*audio.*noise"):
        synthesize(model, replace(SPEC, norm_prior=1.0))
    noise = gaussian_noise(model, SPEC)
    assert noise.account == ()
    assert noise.losses == ()
    assert noise.features.shape == (2, MELS, 48)


class Normed(nn.Module):
    """A linear layer and a layer normalization over [B, T, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(MELS, 5), nn.LayerNorm(5)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.norm(self.linear(x.transpose(1, 2))), n


def test_layer_norms_as_priors_bring_moments_nearer() -> None:
    torch.manual_seed(0)
    model = _model(Normed().eval())
    spec = replace(SPEC, norm_prior=1.0, iterations=30)
    made = synthesize(model, spec)
    assert [layer.name for layer in made.account] == ["norm"]
    assert made.account[0].kl_after < 0.5 * made.account[0].kl_before
    assert made.losses[-1] < made.losses[0]


def test_noise_is_standard_normal_and_accounted(model: AsrModel) -> None:
    noise = gaussian_noise(model, SynthesisSpec(batch=4, frames=400, init="uniform"))
    assert noise.spec.iterations == 0
    assert abs(noise.features.mean()) < 0.05
    assert noise.features.std() == pytest.approx(1, abs=0.05)
    assert len(noise.losses) == 1
    assert all(layer.kl_before == layer.kl_after for layer in noise.account)


def test_training_mode_is_refused(model: AsrModel) -> None:
    model.network.train()
    with pytest.raises(SynthesisError, match=r"network\.eval"):
        synthesize(model, SPEC)


def test_divergence_is_an_error(model: AsrModel) -> None:
    with pytest.raises(SynthesisError, match="learning rate"):
        synthesize(model, SynthesisSpec(batch=1, frames=16, iterations=5, learning_rate=1e30))


def test_early_stop_and_schedules(model: AsrModel) -> None:
    reports: list[int] = []
    spec = SynthesisSpec(batch=1, frames=16, iterations=400, patience=3, min_improvement=0.2)
    result = synthesize(model, spec, lambda stage, done, total, note="": reports.append(done))
    assert 4 < len(result.losses) < 100
    assert reports[-1] == 400  # the last report says that all is done
    for schedule in ("constant", "cosine", "plateau"):
        other = synthesize(model, SynthesisSpec(batch=1, frames=16, iterations=30, schedule=schedule))
        assert min(other.losses) < other.losses[0]


def test_standardize_keeps_the_frontend_s_invariant(model: AsrModel) -> None:
    result = synthesize(model, SynthesisSpec(batch=2, frames=48, iterations=5, standardize=True))
    np.testing.assert_allclose(result.features.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(result.features.std(axis=2, ddof=1), 1, atol=1e-3)


def test_pooled_calls_equal_one_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.norm(x[:, :, :5]), self.norm(x[:, :, 5:])], dim=2)

    network, x = Twice().eval(), torch.randn(2, 3, 14)
    with BatchNormObserver(network) as observer:
        network(x)
    mean, var = observer.moments["norm"]
    expected_var, expected_mean = torch.var_mean(x, dim=(0, 2), correction=0)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(var, expected_var + 1e-5)


def test_two_dimensional_normalization_is_a_site() -> None:
    network, x = nn.Sequential(nn.BatchNorm2d(3)).eval(), torch.randn(2, 3, 4, 5)
    with BatchNormObserver(network) as observer:
        network(x)
    torch.testing.assert_close(observer.moments["0"][0], x.mean(dim=(0, 2, 3)))


def test_save_and_load(model: AsrModel, tmp_path: Path) -> None:
    result = synthesize(model, SynthesisSpec(batch=1, frames=16, iterations=2))
    path = tmp_path / "features.npz"
    result.save(path)
    loaded = SyntheticFeatures.load(path)
    assert loaded.features.tobytes() == result.features.tobytes()
    assert loaded.lengths.tolist() == result.lengths.tolist()
    assert (loaded.spec, loaded.losses, loaded.account) == (result.spec, result.losses, result.account)


def _archive(**changes) -> bytes:
    model = _model(Net(nn.Identity).eval())
    noise = gaussian_noise(model, SynthesisSpec(batch=2, frames=16))
    arrays = {"features": noise.features, "lengths": noise.lengths, "losses": np.zeros(1)}
    arrays["note"] = np.asarray('{"spec": {}, "account": []}')
    arrays.update(changes)
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in arrays.items() if array is not None})
    return stream.getvalue()


GOOD = _archive()
FEATURES = np.zeros((2, MELS, 16), np.float32)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a zip",
        GOOD[:200],
        GOOD[: len(GOOD) // 2],
        GOOD[:300] + b"\xff" * 40 + GOOD[340:],
        _archive(features=None),
        _archive(note=None),
        _archive(note=np.asarray("{")),
        _archive(note=np.asarray("[]")),
        _archive(note=np.asarray('{"spec": {"colour": 1}, "account": []}')),
        _archive(note=np.asarray('{"spec": {}, "account": [{}]}')),
        _archive(features=FEATURES.astype(np.float64)),
        _archive(features=FEATURES[0]),
        _archive(features=FEATURES[:0], lengths=np.zeros(0, np.int64)),
        _archive(features=FEATURES * np.nan),
        _archive(features=np.array([object()])),
        _archive(lengths=np.array([16, 17])),
        _archive(lengths=np.array([0, 16])),
        _archive(lengths=np.array([16.0, 16.0])),
        _archive(lengths=np.array([16])),
        _archive(losses=np.array(["a"])),
    ],
)
def test_damaged_features_are_a_calibration_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    path.write_bytes(data)
    with pytest.raises(CalibrationError, match=r"features\.npz"):
        SyntheticFeatures.load(path)


def test_every_truncation_is_a_calibration_error(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    for cut in range(0, len(GOOD) - 1, 37):
        path.write_bytes(GOOD[:cut])
        with pytest.raises(CalibrationError):
            SyntheticFeatures.load(path)


def test_missing_features_and_a_single_array(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there is no such file"):
        SyntheticFeatures.load(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", FEATURES)
    with pytest.raises(CalibrationError):
        SyntheticFeatures.load(tmp_path / "one.npy")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    with pytest.raises(CalibrationError):
        SyntheticFeatures.load(tmp_path / "empty.npz")


def test_real_network(test_data: Path) -> None:
    from zeroq_asr.checkpoints import load_checkpoint

    model = load_checkpoint(test_data / "models" / "quartznet15x5.nemo")
    result = synthesize(model, SynthesisSpec.preset("fast", batch=1, frames=128, iterations=8))
    assert min(result.losses) < 0.5 * result.losses[0]
    assert len(result.account) > 70
