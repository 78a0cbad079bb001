"""Names of ATen and Python operators: every spelling of one operation, in one place.

Exported programs write the same operation in several ways: in place, under an inner name of torch, or as a
Python operator.  Handlers know the canonical one alone.
"""

from __future__ import annotations

#: canonical names that no operator has
_COINED = frozenset({"and", "assertion", "cast", "identity", "not", "size"})
#: canonical name → its other spellings, those with a trailing "_" (in place) left out
SPELLINGS: dict[str, tuple[str, ...]] = {
    "add": ("__add__", "__iadd__"),
    "and": ("__and__", "bitwise_and", "logical_and"),
    "cat": ("concat", "concatenate"),
    "batch_norm": ("_native_batch_norm_legit_no_training",),
    "cast": ("to", "_to_copy", "type_as", "float", "long"),
    "clamp": ("hardtanh", "clip", "clamp_min"),
    "floor_divide": ("floordiv", "__floordiv__"),
    "identity": ("dropout", "feature_dropout", "contiguous", "clone", "alias", "detach", "lift_fresh_copy"),
    "layer_norm": ("native_layer_norm",),
    "log_softmax": ("_log_softmax",),
    "matmul": ("bmm",),
    "not": ("logical_not", "bitwise_not"),
    "pad": ("constant_pad_nd",),
    "reshape": ("view", "_unsafe_view"),
    "size": ("sym_size", "sym_numel"),
    "softmax": ("_softmax",),
    "assertion": ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"),
}

_CANONICAL = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


def canonical(name: str) -> str:
    """Return the canonical name of an operator, in place or not."""
    bare = name.removesuffix("_") if not name.endswith("__") else name
    return _CANONICAL.get(bare, bare)


def spellings(name: str) -> tuple[str, ...]:
    """Return the names by which users know an operator of a canonical name: not the inner ones of torch."""
    names = (*(() if name in _COINED else (name,)), *SPELLINGS.get(name, ()))
    return tuple(n for n in names if not n.startswith("_"))
