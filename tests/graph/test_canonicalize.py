"""Each rewrite on float graphs built by hand: what it may do, and what it must leave alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.canonicalize import (
    affine_to_conv,
    canonicalize,
    drop_dead_masks,
    drop_unused,
    fold_affine,
    fuse_clamps,
    merge_additions,
    share_masks,
)
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.registry import Operator, register, unregister

C = 4


class Build:
    """A float graph as it grows; ``x`` is the input and every method returns the new value's name."""

    def __init__(self) -> None:
        self.nodes: list[FloatNode] = []
        self.generator = torch.Generator().manual_seed(0)

    def node(self, op: str, *ins: str, **attrs: Any) -> str:
        out = f"{op}{len(self.nodes)}"
        self.nodes.append(FloatNode(op, out, ins, attrs, out))
        return out

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def conv(self, source: str, kernel: int = 1, stride: int = 1, **attrs: Any) -> str:
        layout: dict[str, Any] = {
            "weight": self.normal(C, C, kernel) * 0.5,
            "bias": self.normal(C),
            "stride": stride,
            "padding": (kernel // 2, kernel // 2),
            "dilation": 1,
            "groups": 1,
        }
        return self.node("conv1d", source, **{**layout, **attrs})

    def mask(self, source: str, lengths: str = "n") -> str:
        return self.node("mask_time", source, lengths)

    def add(self, *sources: str) -> str:
        return self.node("add", *sources)

    def norm(self, source: str, lengths: str = "n") -> str:
        attrs = {"weight": self.normal(C), "bias": self.normal(C), "epsilon": 1e-3}
        return self.node("instance_norm", source, lengths, **attrs)

    def relu(self, source: str) -> str:
        return self.node("clamp", source, clamp=(0.0, None))

    def affine(self, source: str) -> str:
        return self.node("affine", source, scale=self.normal(C), shift=self.normal(C))

    def step(self, lengths: str = "n", divisor: int = 2) -> str:
        return self.node("length_step", lengths, before=-1, divisor=divisor, after=1)

    def graph(self, logits: str, lengths: str = "n") -> FloatGraph:
        return FloatGraph(("x", "n"), (self.node("transpose", logits, perm=(0, 2, 1)), lengths), self.nodes)


def ops(graph: FloatGraph) -> list[str]:
    return [node.op for node in graph.nodes]


def assert_same_function(before: FloatGraph, after: FloatGraph) -> None:
    """Equal on valid frames, whatever lies in the frames beyond a length."""
    lengths = torch.tensor([20, 13, 1, 6])
    for seed in range(3):
        x = torch.randn(4, C, 20, generator=torch.Generator().manual_seed(seed)) * 3
        wanted, wanted_lengths = before.run(x, lengths)
        found, found_lengths = after.run(x, lengths)
        assert torch.equal(found_lengths, wanted_lengths)
        for i, valid in enumerate(found_lengths.tolist()):
            torch.testing.assert_close(found[i, :valid], wanted[i, :valid], atol=1e-4, rtol=1e-4)


def rewritten(graph: FloatGraph, *rewrites: Any) -> FloatGraph:
    """Apply the rewrites to a copy and compare."""
    after = copy.deepcopy(graph)
    for rewrite in rewrites:
        after = rewrite(after)
    assert_same_function(graph, after)
    return after


# -- masks ---------------------------------------------------------------------------------------


def test_mask_before_an_unmasked_wide_convolution_stays() -> None:
    b = Build()
    graph = b.graph(b.conv(b.mask(b.conv("x")), kernel=3))
    assert ops(rewritten(graph, drop_dead_masks)).count("mask_time") == 1


def test_mask_before_a_strided_convolution_stays() -> None:
    b = Build()
    y = b.conv(b.mask(b.conv("x")), stride=2, padding=(0, 0))
    # frame t of the output is frame 2t of the input: lengths no longer match frame for frame
    assert ops(rewritten(b.graph(y, b.step()), drop_dead_masks)).count("mask_time") == 1


def test_mask_before_a_padded_pointwise_convolution_stays() -> None:
    b = Build()
    y = b.conv(b.mask(b.conv("x")), padding=(1, 0), kernel=1)
    graph = b.graph(y)
    assert ops(rewritten(graph, drop_dead_masks)).count("mask_time") == 1


def test_mask_before_pointwise_work_and_another_mask_goes() -> None:
    b = Build()
    y = b.relu(b.add(b.conv(b.mask(b.conv("x"))), "x"))
    y = b.conv(b.mask(y), kernel=3)
    assert ops(rewritten(b.graph(y), drop_dead_masks)).count("mask_time") == 1


def test_mask_before_the_logits_goes() -> None:
    b = Build()
    assert "mask_time" not in ops(rewritten(b.graph(b.mask(b.conv(b.mask("x")))), drop_dead_masks))


def test_mask_before_an_instance_norm_goes_where_its_result_is_masked() -> None:
    b = Build()
    y = b.conv(b.mask(b.norm(b.mask(b.conv("x")))), kernel=3)
    after = rewritten(b.graph(y), drop_dead_masks)
    assert ops(after) == ["conv1d", "instance_norm", "mask_time", "conv1d", "transpose"]


def test_mask_before_an_instance_norm_over_other_frames_stays() -> None:
    b = Build()
    # its moments are those of frames that the mask clears
    longer = b.node("length_step", "n", before=3, divisor=1, after=0)
    y = b.mask(b.norm(b.mask(b.conv("x")), longer))
    assert ops(rewritten(b.graph(y), drop_dead_masks)).count("mask_time") == 1


def test_mask_before_an_instance_norm_that_others_see_stays() -> None:
    b = Build()
    y = b.conv(b.norm(b.mask(b.conv("x"))), kernel=3)
    assert ops(rewritten(b.graph(y), drop_dead_masks)).count("mask_time") == 1


def test_an_affine_folds_into_an_instance_norm() -> None:
    b = Build()
    y = b.affine(b.affine(b.norm(b.conv("x"))))
    assert ops(rewritten(b.graph(y), fold_affine)) == ["conv1d", "instance_norm", "transpose"]


def test_mask_before_longer_logits_stays() -> None:
    b = Build()
    longer = b.node("length_step", "n", before=1, divisor=1, after=0)
    # frame n is valid for the longer length, and the mask clears it
    graph = b.graph(b.mask(b.conv("x")), longer)
    after = copy.deepcopy(graph)
    assert ops(drop_dead_masks(after)).count("mask_time") == 1


def test_mask_before_a_mask_of_another_length_stays() -> None:
    b = Build()
    half = b.step()
    y = b.conv(b.mask(b.mask("x", half), "n"), kernel=3)
    graph = b.graph(y)
    assert ops(rewritten(graph, drop_dead_masks)).count("mask_time") == 2


def test_two_equal_masks_in_a_row_are_one() -> None:
    b = Build()
    y = b.conv(b.mask(b.mask("x")), kernel=3)
    assert ops(rewritten(b.graph(y), drop_dead_masks)).count("mask_time") == 1


def test_one_reader_that_sees_is_enough_to_keep_a_mask() -> None:
    b = Build()
    masked = b.mask(b.conv("x"))
    y = b.add(b.conv(masked), b.conv(masked, kernel=5))
    assert ops(rewritten(b.graph(y), drop_dead_masks)).count("mask_time") == 1


def test_mask_before_a_masked_mean_goes() -> None:
    b = Build()
    masked = b.mask(b.conv("x"))
    y = b.node("mul", masked, b.node("sigmoid", b.node("mean_time", masked, "n")))
    assert "mask_time" not in ops(rewritten(b.graph(y), drop_dead_masks))


def test_mask_before_a_longer_mean_stays() -> None:
    b = Build()
    half = b.step()
    masked = b.mask(b.conv("x"), half)
    # the mean runs over n frames, of which the mask clears the second half; that later frames of
    # the product are masked again does not hide them from the mean
    mean = b.node("sigmoid", b.node("mean_time", masked, "n"))
    y = b.conv(b.mask(b.node("mul", masked, mean), half), kernel=3)
    after = rewritten(b.graph(y), drop_dead_masks)
    assert ops(after).count("mask_time") == 2


@pytest.fixture
def unheard_of() -> Iterator[None]:
    operator = register(Operator("unheard of"))
    yield
    unregister(operator)


@pytest.mark.usefixtures("unheard_of")
def test_mask_before_an_unknown_operator_stays() -> None:
    b = Build()
    masked = b.mask("x")
    b.nodes.append(FloatNode("unheard of", "mystery", (masked,)))
    after = drop_dead_masks(b.graph("mystery"))
    assert "mask_time" in ops(after)


def attention(out: str, *ins: str) -> FloatNode:
    return FloatNode("attention", out, ins, {"heads": 1, "scale": 1.0, "positions": None})


@pytest.mark.usefixtures("unheard_of")
def test_attention_hides_the_frames_of_keys_but_not_of_queries() -> None:
    # what becomes the logits is seen by nobody beyond their length, a query's frame neither
    b = Build()
    masked = b.mask("x")
    b.nodes.append(attention("a", masked, masked, masked, "n"))
    assert "mask_time" not in ops(drop_dead_masks(b.graph("a")))
    # by other lengths than its own it hides nothing
    b = Build()
    masked = b.mask("x")
    b.nodes.append(attention("a", masked, masked, masked, b.step()))
    b.nodes.append(FloatNode("unheard of", "mystery", ("a",)))
    assert ops(drop_dead_masks(b.graph("mystery"))).count("mask_time") == 1


@pytest.mark.parametrize("seed", range(30))
def test_random_chains_of_masks_keep_their_function(seed: int) -> None:
    b = Build()
    b.generator.manual_seed(seed)
    half = b.step()
    values = ["x"]

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=b.generator))

    for _ in range(9):
        source = values[max(len(values) - 1 - pick(3), 0)]
        kind = pick(6)
        if kind <= 1:
            values.append(b.mask(source, ("n", half)[pick(2)]))
        elif kind == 2:
            values.append(b.conv(source, kernel=(1, 3)[pick(2)]))
        elif kind == 3:
            values.append(b.relu(source))
        elif kind == 4:
            values.append(b.add(source, values[pick(len(values))]))
        else:
            gate = b.node("sigmoid", b.node("mean_time", source, ("n", half)[pick(2)]))
            values.append(b.node("mul", values[-1], gate))
    graph = b.graph(values[-1], ("n", half)[pick(2)])
    rewritten(graph, drop_dead_masks)
    rewritten(graph, canonicalize)


def test_equal_masks_of_one_value_are_shared() -> None:
    b = Build()
    h = b.conv("x")
    y = b.add(b.conv(b.mask(h), kernel=3), b.conv(b.mask(h), kernel=3))
    assert ops(rewritten(b.graph(y), share_masks)).count("mask_time") == 1


def test_masks_of_other_lengths_are_not_shared() -> None:
    b = Build()
    h, half = b.conv("x"), b.step()
    y = b.add(b.conv(b.mask(h), kernel=3), b.conv(b.mask(h, half), kernel=3))
    assert ops(rewritten(b.graph(y), share_masks)).count("mask_time") == 2


def test_sharing_one_mask_makes_the_next_two_equal() -> None:
    b = Build()
    h = b.conv("x")
    pair = [b.mask(b.mask(h), b.step()) for _ in range(2)]
    y = b.add(*(b.conv(m, kernel=3) for m in pair))
    after = rewritten(b.graph(y), share_masks)
    assert ops(after).count("mask_time") <= 3


# -- additions -----------------------------------------------------------------------------------


def test_chains_of_additions_merge() -> None:
    b = Build()
    y = b.add(b.add(b.add("x", b.conv("x")), b.conv("x")), b.conv("x"))
    after = rewritten(b.graph(y), merge_additions)
    assert [len(n.ins) for n in after.nodes if n.op == "add"] == [4]


def test_trees_of_additions_merge_in_order() -> None:
    b = Build()
    left = b.add(b.conv("x"), b.conv("x"))
    right = b.add(b.conv("x"), b.conv("x"))
    after = rewritten(b.graph(b.add(left, right)), merge_additions)
    (total,) = (n for n in after.nodes if n.op == "add")
    assert total.ins == ("conv1d0", "conv1d1", "conv1d3", "conv1d4")


def test_shared_sums_stay() -> None:
    b = Build()
    shared = b.add("x", b.conv("x"))
    y = b.add(shared, b.conv(shared))
    assert ops(rewritten(b.graph(y), merge_additions)).count("add") == 2


def test_a_sum_added_to_itself_stays() -> None:
    b = Build()
    shared = b.add("x", b.conv("x"))
    assert ops(rewritten(b.graph(b.add(shared, shared)), merge_additions)).count("add") == 2


def test_a_sum_that_leaves_the_graph_stays() -> None:
    b = Build()
    first = b.add("x", "x")
    second = b.add(first, "x")
    graph = FloatGraph(("x", "n"), (first, "n"), b.nodes)
    assert ops(merge_additions(graph)) == ["add", "add"]
    assert second


def test_clamped_sums_stay() -> None:
    b = Build()
    y = b.add(b.relu(b.add("x", b.conv("x"))), b.conv("x"))
    after = rewritten(b.graph(y), merge_additions, fuse_clamps)
    assert ops(after).count("add") == 2


# -- clamps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["conv1d", "add", "mul", "mean_time", "sigmoid", "silu", "gelu"])
def test_clamps_join_a_producer_of_their_own(op: str) -> None:
    b = Build()
    if op == "conv1d":
        y = b.conv("x")
    elif op in ("add", "mul"):
        y = b.node(op, "x", b.conv("x"))
    elif op == "mean_time":
        y = b.node(op, "x", "n")
    else:
        y = b.node(op, "x")
    y = b.node("clamp", y, clamp=(-0.1, 0.2))
    if op == "mean_time":
        y = b.node("mul", "x", y)
    after = rewritten(b.graph(y), fuse_clamps)
    assert "clamp" not in ops(after)
    assert next(n for n in after.nodes if n.op == op).attrs["clamp"] == (-0.1, 0.2)


@pytest.mark.parametrize("op", ["mask_time", "take_channels", "transpose"])
def test_clamps_do_not_join_moves(op: str) -> None:
    b = Build()
    y = {
        "mask_time": lambda: b.mask("x"),
        "take_channels": lambda: b.node("take_channels", "x", index=(1, 0, 3, 2)),
        "transpose": lambda: b.node("transpose", "x", perm=(0, 1, 2)),
    }[op]()
    assert "clamp" in ops(rewritten(b.graph(b.relu(y)), fuse_clamps))


def test_clamp_of_a_value_that_others_read_stays() -> None:
    b = Build()
    h = b.conv("x")
    assert "clamp" in ops(rewritten(b.graph(b.add(h, b.relu(h))), fuse_clamps))


def test_clamp_of_the_input_stays() -> None:
    b = Build()
    assert "clamp" in ops(rewritten(b.graph(b.relu("x")), fuse_clamps))


def test_clamp_of_a_value_that_leaves_the_graph_stays() -> None:
    b = Build()
    h = b.conv("x")
    b.relu(h)
    assert ops(fuse_clamps(FloatGraph(("x", "n"), (h, "n"), b.nodes))) == ["conv1d", "clamp"]


def test_the_second_of_two_clamps_stays() -> None:
    b = Build()
    y = b.node("clamp", b.relu(b.conv("x")), clamp=(-1.0, 0.5))
    after = rewritten(b.graph(y), fuse_clamps)
    assert ops(after) == ["conv1d", "clamp", "transpose"]


def test_two_clamps_of_one_value_stay() -> None:
    b = Build()
    h = b.conv("x")
    y = b.add(b.relu(h), b.node("clamp", h, clamp=(-1.0, 0.5)))
    assert ops(rewritten(b.graph(y), fuse_clamps)).count("clamp") == 2


# -- affine maps ---------------------------------------------------------------------------------


def test_affine_folds_into_its_convolution() -> None:
    b = Build()
    after = rewritten(b.graph(b.affine(b.conv("x", kernel=3))), fold_affine)
    assert ops(after) == ["conv1d", "transpose"]


def test_a_row_of_affine_maps_folds() -> None:
    b = Build()
    y = b.affine(b.affine(b.affine(b.conv("x"))))
    assert ops(rewritten(b.graph(y), fold_affine)) == ["conv1d", "transpose"]


def test_a_scalar_folds() -> None:
    b = Build()
    y = b.node("affine", b.conv("x"), scale=torch.tensor([0.5]), shift=torch.tensor([2.0]))
    assert ops(rewritten(b.graph(y), fold_affine)) == ["conv1d", "transpose"]


def test_affine_of_a_shared_convolution_does_not_fold() -> None:
    b = Build()
    h = b.conv("x")
    graph = b.graph(b.add(b.affine(h), h))
    assert "affine" in ops(rewritten(graph, fold_affine))
    assert ops(rewritten(graph, canonicalize)).count("conv1d") == 2


def test_affine_behind_a_clamp_does_not_fold() -> None:
    b = Build()
    graph = b.graph(b.affine(b.relu(b.conv("x"))))
    assert "affine" in ops(rewritten(graph, fold_affine))
    after = rewritten(graph, canonicalize)
    assert ops(after) == ["conv1d", "conv1d", "transpose"]
    assert after.nodes[0].attrs["clamp"] == (0.0, None)


def test_affine_behind_a_mask_keeps_its_shift_in_the_padding() -> None:
    b = Build()
    # a shift moves the cleared frames away from zero, which the next convolution sees
    y = b.conv(b.affine(b.mask(b.conv("x"))), kernel=3)
    rewritten(b.graph(y), canonicalize)


def test_affine_of_the_features_becomes_a_depthwise_convolution() -> None:
    b = Build()
    after = rewritten(b.graph(b.conv(b.affine("x"), kernel=3)), affine_to_conv)
    assert after.nodes[0].op == "conv1d"
    assert after.nodes[0].attrs["groups"] == C


def test_scalar_of_the_features_is_refused_with_its_place() -> None:
    b = Build()
    y = b.node("affine", "x", scale=torch.tensor([0.5]), shift=torch.tensor([0.0]))
    with pytest.raises(UnsupportedOperatorError, match="affine0"):
        affine_to_conv(b.graph(y))


def test_scalar_behind_fewer_channels() -> None:
    b = Build()
    y = b.relu(b.node("take_channels", b.conv("x"), index=(2, 0)))
    y = b.node("affine", y, scale=torch.tensor([0.5]), shift=torch.tensor([1.0]))
    after = rewritten(b.graph(y), canonicalize)
    assert after.nodes[-2].attrs["weight"].shape == (2, 1, 1)


def test_folding_keeps_float32_weights() -> None:
    b = Build()
    graph = b.graph(b.affine(b.conv("x")))
    graph.nodes[1].attrs = {k: v.double() for k, v in graph.nodes[1].attrs.items()}
    after = canonicalize(graph)
    assert {t.dtype for n in after.nodes for t in n.attrs.values() if isinstance(t, Tensor)} == {
        torch.float32
    }


# -- the rest ------------------------------------------------------------------------------------


def test_what_reaches_no_output_is_dropped() -> None:
    b = Build()
    y = b.conv("x")
    b.mask(b.conv("x"), b.step())
    assert ops(rewritten(b.graph(y), drop_unused)) == ["conv1d", "transpose"]


def test_lengths_that_are_the_output_are_kept() -> None:
    b = Build()
    y, half = b.conv("x"), b.step()
    assert "length_step" in ops(rewritten(b.graph(y, half), drop_unused))


def test_canonical_form_is_stable() -> None:
    b = Build()
    h = b.mask(b.relu(b.affine(b.conv("x", kernel=3))))
    gate = b.node("sigmoid", b.conv(b.node("mean_time", h, "n")))
    h = b.relu(b.add(b.add(b.node("mul", h, gate), b.conv(b.mask("x"))), h))
    graph = rewritten(b.graph(b.conv(b.mask(h), kernel=3)), canonicalize)
    again = rewritten(graph, canonicalize)
    assert [(n.op, n.out, n.ins) for n in again.nodes] == [(n.op, n.out, n.ins) for n in graph.nodes]
