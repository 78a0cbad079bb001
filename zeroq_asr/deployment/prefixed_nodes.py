"""ONNX nodes that stand around a program, under names that nothing of the program has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper


class PrefixedNodes:
    """Nodes, and constants that are stored once each; every name begins with ``prefix``.

    Only a tensor that is a port of the program or of the file has that port's name.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, inputs: Sequence[str], out: str = "", **attributes: Any) -> str:
        """Append a node and return the name of what it gives: ``out``, or its own."""
        name = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [*inputs], [out or name], name=name, **attributes))
        return out or name

    def store(self, array: npt.NDArray[np.generic]) -> str:
        """Store a constant and return its name."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = f"{self.prefix}constant/{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, name))
        return self._known[key]

    def floats(self, value: float | npt.NDArray[np.float64]) -> str:
        """Store float32 numbers."""
        return self.store(np.asarray(value, dtype=np.float32))

    def ints(self, *values: int) -> str:
        """Store a vector int64."""
        return self.store(np.array(values, dtype=np.int64))

    def int(self, value: int) -> str:
        """Store a number int64."""
        return self.store(np.array(value, dtype=np.int64))
