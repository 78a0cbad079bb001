"""Every error this package raises on purpose.

::

    ZeroqError
    ├── ConfigError               an option or a specification makes no sense
    ├── CheckpointError           a checkpoint cannot be read or does not fit its configuration
    │   └── UnsupportedModelError it is sound, but of a model family that is not supported
    ├── UnsupportedOperatorError  the network contains an operator that has no integer lowering
    ├── CaptureError              the network cannot be traced into a float graph
    ├── SynthesisError            statistic matching cannot start or diverged
    ├── CalibrationError          calibration data is missing, empty or not finite
    ├── ProofError                the interval proof of an integer program fails
    ├── VerificationError         an ONNX file is not what its certificate says
    ├── ExportError               a program cannot be written in the dialect asked for
    ├── AudioError                a recording cannot be read, or is too short or too long
    └── ManifestError             a manifest or corpus folder is malformed

Each carries three parts, and its text joins them: ``where`` it happened, the
``problem`` (the invariant and what was received), and the ``remedy`` (what to do).

What a caller ought to know of a result that is sound all the same is a ZeroqWarning, of the same three parts,
by ``warn``.  The command line prints each once on stderr.
"""

from __future__ import annotations

import os
import warnings

from zeroq_asr.lines import shorten


class ZeroqError(Exception):
    """Base class.  ``str(error)`` is one line: ``where: problem; remedy``, each part of bounded length."""

    def __init__(self, where: str | os.PathLike[str], problem: str, remedy: str = "") -> None:
        self.where = os.fspath(where)
        self.problem = problem
        self.remedy = remedy
        super().__init__(_one_line(self.where, problem, remedy))


class ConfigError(ZeroqError):
    """An option or a specification makes no sense."""


class CheckpointError(ZeroqError):
    """A checkpoint cannot be read or does not fit its configuration."""


class UnsupportedModelError(CheckpointError):
    """A checkpoint is sound, but of a model family that is not supported."""


class UnsupportedOperatorError(ZeroqError):
    """The network contains an operator that has no integer lowering."""


class CaptureError(ZeroqError):
    """The network cannot be traced into a float graph."""


class SynthesisError(ZeroqError):
    """Statistic matching cannot start or diverged."""


class CalibrationError(ZeroqError):
    """Calibration data is missing, empty or not finite."""


class ProofError(ZeroqError):
    """The interval proof of an integer program fails."""


class VerificationError(ZeroqError):
    """An ONNX file is not what its certificate says."""


class ExportError(ZeroqError):
    """A program cannot be written in the dialect asked for."""


class AudioError(ZeroqError):
    """A recording cannot be read, or is too short or too long."""


class ManifestError(ZeroqError):
    """A manifest or corpus folder is malformed."""


class ZeroqWarning(UserWarning):
    """Something about a result that its reader ought to know; one line, like the errors."""

    def __init__(self, where: str | os.PathLike[str], problem: str, remedy: str = "") -> None:
        self.where = os.fspath(where)
        self.problem = problem
        self.remedy = remedy
        super().__init__(_one_line(self.where, problem, remedy))


def warn(where: str | os.PathLike[str], problem: str, remedy: str = "") -> None:
    """Issue a ZeroqWarning, which Python's ``warnings`` filter as they do all others."""
    warnings.warn(ZeroqWarning(where, problem, remedy), stacklevel=2)


def _one_line(*parts: str) -> str:
    where, problem, remedy = (shorten(" ".join(part.split())) for part in parts)
    text = f"{where}: {problem}" if where else problem
    return f"{text}; {remedy}" if remedy else text
