"""What the user keeps in float: islands of a program, and calls of ATen that have no integer form."""

from zeroq_asr.operators.float_island import aten, float_island

__all__ = ["aten", "float_island"]
