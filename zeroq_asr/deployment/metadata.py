"""What a file says of itself beside its graph: one JSON object under one key of the ONNX metadata.

The program, the frontend and the tokens are read back from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zeroq_asr.errors import CheckpointError
from zeroq_asr.integer.program import canonical_json
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: key of our own JSON object in a file's metadata
METADATA_KEY = "zeroq_asr"
#: version of that object's layout
METADATA_VERSION = 2


@dataclass(frozen=True)
class Deployment:
    """All of a model that is not its programs: what a runtime needs beside the integers."""

    name: str
    frontend: FrontendConfig
    tokenizer: Tokenizer
    max_seconds: float
    subsampling_factor: int
    #: the specifications it was made by, for the record
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def max_frames(self) -> int:
        """Frames of the longest audio that is promised."""
        return math.ceil(self.max_seconds * self.frontend.frames_per_second) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "name": self.name,
            "frontend": self.frontend.to_dict(),
            "tokenizer": self.tokenizer.to_dict(),
            "max_seconds": self.max_seconds,
            "subsampling_factor": self.subsampling_factor,
            "recipe": self.recipe,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Deployment:
        """Rebuild what ``to_dict`` wrote."""
        return cls(
            name=data["name"],
            frontend=FrontendConfig.from_dict(data["frontend"]),
            tokenizer=Tokenizer.from_dict(data["tokenizer"]),
            max_seconds=data["max_seconds"],
            subsampling_factor=data["subsampling_factor"],
            recipe=data["recipe"],
        )


def metadata_digest(own: Mapping[str, Any]) -> str:
    """SHA-256 of our JSON object without this digest itself."""
    rest = {k: v for k, v in own.items() if k != "metadata_sha256"}
    return hashlib.sha256(canonical_json(json.loads(json.dumps(rest)))).hexdigest()


def own_metadata(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return this package's part of a file's metadata, {} without; CheckpointError if it is damaged."""
    if METADATA_KEY not in metadata:
        return {}
    try:
        own = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError):
        own = None
    if not isinstance(own, dict):
        raise CheckpointError(path, f"its metadata {METADATA_KEY!r} is damaged", "export it again")
    return own
