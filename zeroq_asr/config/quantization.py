"""The integer format of the network that is written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.config.checks import choice, flag, from_dict, names, real, whole
from zeroq_asr.config.choices import GRID_OF_BITS
from zeroq_asr.config.plan_file import EVERYTHING, LAYER_BITS, layer_bits, layer_grids, read_plan
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import read_file
from zeroq_asr.lines import shown

#: targets by name: what each promises about the kernels that will run the file
TARGETS = {
    "auto": "the finest of these that is exact on the machine that quantizes",
    "x86-any": "u8 x s8 products, weights such that no pair of them saturates: exact on every x86",
    "x86-vnni": "u8 x s8 products, weights at full range: exact only where the CPU has VNNI",
    "arm": "s8 weights at full range: exact on ARM",
}
#: forms of the nonlinearities by name
NONLINEARITIES = {
    "table": "256 entries, exact to half a step",
    "polynomial": "of degree 5 at most, exact to a step: for targets without a fast gather",
}
#: name of the grid at which rounding by feedback gains nothing
FINEST = "int8"
#: bits of weights up to which sensitive layers keep more
_COARSE = 4
#: bytes of a plan's file
_MOST_PLAN = 2**20
ROUNDINGS = ("auto", "nearest", "feedback")


@dataclass(frozen=True)
class QuantSpec:
    """The integer format of the network that is written."""

    #: bits of a weight, 1..8, with a scale per output channel (``zeroq_asr.integer.grid.symmetric``)
    weight_bits: int = 8
    #: bits of the weights of sensitive layers, those of one channel a channel (depthwise), the first and the
    #: last, where nothing is said of them by name; None: 8 where the others have 4 or fewer, else as many
    sensitive_bits: int | None = None
    #: bits of an activation, 2..8: unsigned with a zero point, a scale per tensor
    activation_bits: int = 8
    #: (name, bits) of single layers' results: a layer's path, a value's name, or a glob of them, and 2 to 8,
    #: or 16, the only width there is beside bytes (``zeroq_asr.lowering.plan``); later names win
    layer_bits: tuple[tuple[str, int], ...] = ()
    #: (name, grid) of single layers' weights: names as above, and a grid's (``zeroq_asr.integer.grid``)
    layer_grids: tuple[tuple[str, str], ...] = ()
    #: what stays in float: paths of layers, names of values, or globs of them.  The file is then not
    #: integer-only, and its certificate lists these islands (``zeroq_asr.lowering.keep_float``)
    keep_float: tuple[str, ...] = ()
    #: keep operators that have no integer lowering in float, too, instead of refusing the network
    allow_float: bool = False
    #: bits of the integer logits, 8..16
    logit_bits: int = 16
    #: a key of ``TARGETS``
    target: str = "x86-any"
    #: how sigmoid, tanh, Swish, GELU, ELU and SELU are computed: a key of ``NONLINEARITIES``
    nonlinearity: str = "table"
    #: end the range of what sigmoid, tanh, Swish and the like read where they are flat
    flat_ends: bool = True
    #: longest input in seconds that the interval proof covers and the file accepts
    max_seconds: float = 60.0
    #: give back through the biases what rounding the weights takes from the means of a layer
    bias_correction: bool = True
    #: of weights: "nearest", "feedback" (GPTQ: errors are made up for by the weights still to come), or
    #: "auto": nearest at 8 bits, where feedback gains nothing, feedback below
    rounding: str = "auto"
    #: exponent of cross-layer equalization through depthwise → pointwise pairs, 0 (off) to 1 (whole)
    equalization: float = 0.0
    #: exponent of smoothing the channels behind layer normalizations, in attention's values and behind gates,
    #: 0 (off) to 1 (whole)
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        where = "QuantSpec"
        whole(where, "weight_bits", self.weight_bits, 1, 8)
        if self.sensitive_bits is not None:
            whole(where, "sensitive_bits", self.sensitive_bits, 1, 8)
        whole(where, "activation_bits", self.activation_bits, 2, 8)
        # JSON has no tuples
        object.__setattr__(self, "layer_bits", layer_bits(where, self.layer_bits))
        object.__setattr__(self, "layer_grids", layer_grids(where, self.layer_grids))
        object.__setattr__(self, "keep_float", names(where, "keep_float", self.keep_float))
        flag(where, "allow_float", self.allow_float)
        whole(where, "logit_bits", self.logit_bits, 8, 16)
        choice(where, "target", self.target, TARGETS)
        choice(where, "nonlinearity", self.nonlinearity, NONLINEARITIES)
        flag(where, "flat_ends", self.flat_ends)
        real(where, "max_seconds", self.max_seconds, above=0.0, at_most=1e6)
        flag(where, "bias_correction", self.bias_correction)
        choice(where, "rounding", self.rounding, ROUNDINGS)
        real(where, "equalization", self.equalization, at_least=0.0, at_most=1.0)
        real(where, "smoothing", self.smoothing, at_least=0.0, at_most=1.0)

    @property
    def sensitive(self) -> int:
        """Bits of the weights of sensitive layers."""
        if self.sensitive_bits is not None:
            return self.sensitive_bits
        return 8 if self.weight_bits <= _COARSE else self.weight_bits

    @property
    def feedback(self) -> bool:
        """Whether weights, of some layer at least, are rounded by feedback."""
        coarse = self.weight_bits < 8 or any(grid != FINEST for _, grid in self.layer_grids)
        return self.rounding == "feedback" or (self.rounding == "auto" and coarse)

    @classmethod
    def parse_bits(cls, *texts: str, **fields: Any) -> QuantSpec:
        """Return the specification that ``texts`` spell, other fields given by keyword.

        ``"6"`` means 6-bit weights and activations, ``"w4a8"`` 4-bit weights and 8-bit activations
        (case does not matter), and the path of a plan's file (``.yaml``, ``.yml``) what it says: one of them
        at most; ``"NAME=16"`` and ``"NAME=4"`` mean bits for the result of a layer.  Raises ConfigError for
        anything else.
        """
        plans = [given for given in texts if given.lower().endswith((".yaml", ".yml"))]
        layers = [given for given in texts if "=" in given and given not in plans]
        whole_network = [given for given in texts if given not in layers]
        if len(whole_network) > 1:
            one, other = whole_network[:2]
            raise ConfigError(
                "bits", f"{shown(one)} and {shown(other)} are both of the whole network", "keep one"
            )
        for given in whole_network:
            fields |= _planned(given) if given in plans else _of_everything(given)
        pairs: list[tuple[str, Any]] = [*fields.pop("layer_bits", ())]
        for given in layers:
            name, _, bits = given.rpartition("=")
            # __post_init__ refuses what is no number
            pairs.append(
                (name.strip(), int(bits) if re.fullmatch(r"\s*\d{1,3}\s*", bits, re.ASCII) else bits)
            )
        return cls(layer_bits=tuple(pairs), **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantSpec:
        """Return the specification that ``to_dict`` wrote; ConfigError for unknown keys."""
        return from_dict(cls, data)


def _of_everything(given: str) -> dict[str, Any]:
    """Fields of the bits of a whole network: "8", or "w4a8"."""
    match = re.fullmatch(r"(?:(\d)|w(\d)a(\d))", given.strip().lower(), flags=re.ASCII)
    if match is None:
        remedy = "write 8, or w8a8, w7a8, w4a8 and the like; or LAYER=16; or name a plan's .yaml file"
        raise ConfigError("bits", f"cannot read {shown(given)}", remedy)
    both, weight, activation = match.groups()
    return {"weight_bits": int(both or weight), "activation_bits": int(both or activation)}


def _planned(path: str) -> dict[str, Any]:
    """Fields that the file of a plan gives: what it says first of everything is of the whole network."""
    try:
        source = read_file(path, ConfigError, _MOST_PLAN).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"is not UTF-8 (byte {error.start + 1})", "save the plan as UTF-8") from None
    weights, values, logit_bits, sensitive_bits = read_plan(source, path)
    fields: dict[str, Any] = {} if sensitive_bits is None else {"sensitive_bits": sensitive_bits}
    bits_of = {grid: bits for bits, grid in GRID_OF_BITS.items()}
    if weights and weights[0][0] == EVERYTHING and weights[0][1] in bits_of:
        fields["weight_bits"], weights = bits_of[weights[0][1]], weights[1:]
        # a plan says itself whether some are finer
        fields.setdefault("sensitive_bits", fields["weight_bits"])
    if values and values[0][0] == EVERYTHING and values[0][1] != LAYER_BITS:
        fields["activation_bits"], values = values[0][1], values[1:]
    if logit_bits is not None:
        fields["logit_bits"] = logit_bits
    return {**fields, "layer_grids": weights, "layer_bits": values}
