"""What ``verify`` established about a file, and about several that are one recogniser's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zeroq_asr.deployment.runtimes import release
from zeroq_asr.integer.float_parts import Island
from zeroq_asr.integer.proof import Proof
from zeroq_asr.lines import summary


@dataclass(frozen=True)
class Certificate:
    """What ``verify`` established about a file, or about a bundle's folder."""

    #: or the folder
    file: str
    name: str
    dialect: str
    target: str
    #: what the fused kernels' products rely on; empty for strict
    target_bound: str
    #: of a bundle of several programs, that of all of them
    program_sha256: str
    #: of the whole file, tokens and frontend included; of a folder that of its list, which has those of all
    file_sha256: str
    max_seconds: float
    #: of a bundle of several programs, that which comes nearest to its limits
    proof: Proof
    #: the instruction by which an utterance's result may depend on the batch that it is in, since it may read
    #: frames behind the utterance's end; empty: none does, in any batch
    reads_behind: str
    #: ONNX operator → how many nodes
    nodes: dict[str, int]
    #: instruction → spelling → count
    spellings: dict[str, dict[str, int]]
    #: exact kernel → the conditions that hold for each of its nodes
    kernels: dict[str, list[str]] = field(default_factory=dict)
    #: what runs in float, of which nothing is proven but the bounds of its results; none: integer-only
    islands: tuple[Island, ...] = ()
    #: names of the float tensors that are neither the input, behind the logits, nor in an island
    float_tensors: list[str] = field(default_factory=list)
    #: ONNX operator → how many of these it makes
    float_makers: dict[str, int] = field(default_factory=dict)
    #: ONNX operator → how many of these the frontend in the file has, which computes in float, in front of
    #: the program, and of which nothing is proven; none: the file takes features
    frontend: dict[str, int] = field(default_factory=dict)
    #: whose ports the file has, which are float32 in place of the program's integers; empty: its own
    runtime: str = ""
    #: ONNX operator → how many nodes make floats of the program's integers, and integers of floats, at these
    #: ports; an integer crosses as it is or less a constant, scores at their scale; none: its own
    ports: dict[str, int] = field(default_factory=dict)
    #: the oldest release of ONNX Runtime that runs the file
    onnxruntime: str = ""
    #: packing of weights → the oldest release of ONNX Runtime that runs a file with it, and how many it
    #: stores; none: all are stored as bytes
    packings: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: of a bundle of several programs: part → its own certificate; of one file none
    parts: dict[str, Certificate] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Show what was verified, and of what, on one line."""
        return summary(
            self,
            self.file,
            f"{self.dialect} for {self.target}" if self.target_bound else self.dialect,
            "integer-only and proven" if self.integer_only else f"{len(self.islands)} float islands",
            *(["behind a float frontend"] if self.frontend else []),
            *([f"for {self.runtime}"] if self.runtime else []),
            f"to {self.max_seconds:g} s",
            f"program {self.program_sha256[:8]}",
        )

    def to_dict(self, *, names: bool = True) -> dict[str, Any]:
        """Return the certificate as JSON values; without ``names``, those of float tensors are left out."""
        parts = {name: part.to_dict(names=names) for name, part in self.parts.items()}
        own = {**asdict(self), "integer_only": self.integer_only, "proof": self.proof.to_dict()}
        if not names:
            del own["float_tensors"]
        return {**own, "parts": parts}

    @property
    def integer_only(self) -> bool:
        """Whether the program computes in integers alone; a frontend in the file is in front of it."""
        return not self.islands


def of_parts(where: str, digest: str, file_digest: str, parts: dict[str, Certificate]) -> Certificate:
    """One certificate of several programs: what holds of all, and where they come nearest to their limits."""
    spellings: dict[str, Counter[str]] = {}
    kernels: dict[str, dict[str, None]] = {}
    for one in parts.values():
        for op, counts in one.spellings.items():
            spellings.setdefault(op, Counter()).update(counts)
        for kernel, conditions in one.kernels.items():
            kernels.setdefault(kernel, {}).update(dict.fromkeys(conditions))
    first = next(iter(parts.values()))
    nearest = max(parts, key=lambda name: parts[name].proof.peak)
    proof = Proof(
        max_frames=max(one.proof.max_frames for one in parts.values()),
        instructions=sum(one.proof.instructions for one in parts.values()),
        peak=parts[nearest].proof.peak,
        peak_at=f"{nearest}: {parts[nearest].proof.peak_at}",
        least_frames=max(one.proof.least_frames for one in parts.values()),
    )
    return Certificate(
        file=where,
        name=first.name,
        dialect=first.dialect,
        target=first.target,
        target_bound=first.target_bound,
        program_sha256=digest,
        file_sha256=file_digest,
        max_seconds=first.max_seconds,
        proof=proof,
        reads_behind=next(
            (f"{name}: {one.reads_behind}" for name, one in parts.items() if one.reads_behind), ""
        ),
        nodes=_together(one.nodes for one in parts.values()),
        spellings={op: dict(counts) for op, counts in spellings.items()},
        kernels={kernel: list(conditions) for kernel, conditions in kernels.items()},
        islands=tuple(island for one in parts.values() for island in one.islands),
        float_tensors=[f"{name}: {tensor}" for name, one in parts.items() for tensor in one.float_tensors],
        float_makers=_together(one.float_makers for one in parts.values()),
        frontend=next((one.frontend for one in parts.values() if one.frontend), {}),
        runtime=first.runtime,
        ports=_together(one.ports for one in parts.values()),
        onnxruntime=max((one.onnxruntime for one in parts.values()), key=release),
        packings=packed_together(*(one.packings for one in parts.values())),
        parts=parts,
    )


def _together(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The counts of several programs in one, the most first."""
    summed: Counter[str] = Counter()
    for one in counts:
        summed.update(one)
    return dict(sorted(summed.items(), key=lambda item: (-item[1], item[0])))


def packed_together(*found: dict[str, tuple[str, int]]) -> dict[str, tuple[str, int]]:
    """Return the packings of several programs: name → the oldest runtime, and how many it stores."""
    together: dict[str, tuple[str, int]] = {}
    for packings in found:
        for name, (runtime, count) in packings.items():
            together[name] = (runtime, count + together.get(name, ("", 0))[1])
    return together
