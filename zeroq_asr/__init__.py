"""zeroq-asr: integer-only quantization of pretrained speech recognisers, without any data.

    import zeroq_asr as zq

    result = zq.quantize("stt_en_quartznet15x5.nemo", "quartznet.int8.onnx")
    print(zq.verify("quartznet.int8.onnx").program_sha256)

Several formats of one network share the slow part:

    prepared = zq.prepare(model, spec=zq.QuantSpec(), also=[zq.QuantSpec.parse_bits("w4a8")])
    files = [zq.quantize(prepared, f"{n}.onnx", spec=spec) for n, spec in enumerate(prepared.specs)]

Names here are the public API; the command line calls nothing else.  Operators, grids and packings of your own
are registered by ``register`` of ``zeroq_asr.registry`` and ``register_grid`` of ``zeroq_asr.integer.grid``,
which are imported as modules.  Importing this package is quick: what takes seconds, torch, comes with the
first name that is used.
"""

from __future__ import annotations

from zeroq_asr._version import __version__ as __version__

TYPE_CHECKING = False  # what typing says, without the time that it takes
if TYPE_CHECKING:
    from typing import Any

    from zeroq_asr._api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Return a public name; the first one imports them all."""
    if name.startswith("__") and name != "__all__":  # what tools ask of any module
        raise AttributeError(f"module 'zeroq_asr' has no attribute {name!r}")
    import importlib

    api = importlib.import_module("zeroq_asr._api")
    if name == "__all__":
        return [*api.__all__]
    if name not in api.__all__:
        raise AttributeError(f"module 'zeroq_asr' has no attribute {name!r}")
    globals()[name] = value = getattr(api, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__getattr__("__all__")})
