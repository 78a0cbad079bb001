"""Changes of bytes, trees of values, archives and pickles; nothing here knows what the input means.

Every function takes a ``random.Random`` and gives the same result for the same seed.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import yaml

Path = tuple[Any, ...]
#: text that steers terminals, is read as markup, or ends a line
ODD_TEXTS = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\r\nerror: b",
    "line\nline",
    "[bold]x[/bold] [/red]",
    "[link=file:///]x[/link]",
    "\u202eabc",
    "\x00",
    "\x7f\x9b31m",
    "\u2028",
    "\ud800",
    "x" * 5000,
    "${encoder}",
    "${encoder.feat_in}",
    "${a",
    "{{x}}",
    "%s%n{0}",
    "../../etc/passwd",
    "/dev/zero",
    "a" * 300,
    " ",
    "",
)


# -- bytes -----------------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes, start: int = 0, end: int | None = None) -> bytes:
    """Change some bits of one to eight bytes."""
    out = bytearray(data)
    end = len(out) if end is None else min(end, len(out))
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if end > start:
            out[rng.randrange(start, end)] ^= rng.randrange(1, 256)
    return bytes(out)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Leave the end away."""
    return data[: rng.choice((0, 1, 2, 4, len(data) // 2, len(data) - 1, rng.randrange(len(data) + 1)))]


def patch(rng: random.Random, data: bytes) -> bytes:
    """Overwrite, insert, delete or repeat a run of bytes."""
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 16, 64, 512))
    junk = rng.choice((b"\x00" * size, b"\xff" * size, rng.randbytes(size)))
    how = rng.randrange(4)
    if how == 0:
        return data[:at] + junk + data[at + size :]
    if how == 1:
        return data[:at] + junk + data[at:]
    if how == 2:
        return data[:at] + data[at + size :]
    return data[:at] + data[at : at + size] * rng.choice((2, 50)) + data[at + size :]


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Change bytes in any of these ways."""
    return rng.choice((flip, cut, patch))(rng, data)


def whole_number_in_place(rng: random.Random, data: bytes, places: Iterable[int], width: int = 4) -> bytes:
    """Overwrite one of the little-endian numbers at ``places``."""
    at = rng.choice([*places])
    value = rng.choice((0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1))
    value = value if rng.random() < 0.8 else rng.getrandbits(8 * width)
    return data[:at] + (value & (2 ** (8 * width) - 1)).to_bytes(width, "little") + data[at + width :]


# -- trees -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A tree and the one place in which it differs from another."""

    tree: Any
    path: Path
    old: Any
    new: Any
    how: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path))}: {self.how} {_shown(self.old)} → {_shown(self.new)}"


def _shown(value: Any) -> str:
    try:
        return ascii(value)[:60]
    except ValueError:
        return type(value).__name__


MISSING = "(missing)"


def nodes(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value of a tree and its path, the tree itself first."""
    yield path, tree
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from nodes(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from nodes(value, (*path, index))


def at(tree: Any, path: Path) -> Any:
    """Return the value at a path."""
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Any, path: Path, value: Any) -> Any:
    """Return a copy of a tree with another value at ``path``."""
    if not path:
        return value
    out = copy.deepcopy(tree)
    at(out, path[:-1])[path[-1]] = value
    return out


def odd(rng: random.Random, old: Any) -> Any:
    """Return a value that could stand in the place of ``old``: of another type, far off, or a little off."""
    near: list[Any] = [[old], {"a": old}, str(old), [old, old]]
    if isinstance(old, bool):
        near += [not old, int(old), str(old).lower(), "yes", not old, not old]
    elif isinstance(old, int | float):
        near += [old + 1, old - 1, -old, old * 2, old / 2, float(old), old + 0.5, f"{old:e}", old * 1000]
        near += [old + 1, old * 2, old // 2 if isinstance(old, int) else old * 0.9]
    elif isinstance(old, str):
        near += [old.upper(), f"{old}x", f" {old}", old[:-1], f"{old}\n", f"x.{old}"]
    elif isinstance(old, list):
        near += [old[:-1], [*old, *old], old[::-1], [*old, None], [*old, 1], [[*old]]]
    elif isinstance(old, dict):
        near += [[*old], [*old.items()][:1] and [list(i) for i in old.items()], {**old, "surplus": 1}]
    far: list[Any] = [None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, 1e-308, 1e-5]
    far += [float("nan"), float("inf"), -float("inf"), "1e-5", "0x10", "nan", [], {}, [[]], {"": None}, 0.0]
    if rng.random() < 0.08:
        deep: Any = 1
        for _ in range(rng.choice((60, 150, 900))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    return rng.choice(near) if rng.random() < 0.5 else rng.choice((*far, *ODD_TEXTS))


def changed(rng: random.Random, tree: Any, *, only: Callable[[Path], bool] = lambda path: True) -> Change:
    """Return a tree with one place changed: another value, a key that is gone, added or renamed."""
    places = [(path, value) for path, value in nodes(tree) if path and only(path)]
    path, old = rng.choice(places)
    holder = at(tree, path[:-1])
    how = rng.random()
    if how < 0.12:
        out = copy.deepcopy(tree)
        del at(out, path[:-1])[path[-1]]
        return Change(out, path, old, MISSING, "dropped")
    if how < 0.2 and isinstance(holder, dict):
        key = rng.choice((*ODD_TEXTS, "surplus", f"{path[-1]}_", f"_{path[-1]}", str(path[-1]).upper()))
        out = copy.deepcopy(tree)
        at(out, path[:-1])[key] = rng.choice((old, None, 1, "x"))
        return Change(out, (*path[:-1], key), MISSING, key, "added")
    if how < 0.26 and isinstance(holder, dict) and len(holder) > 1:
        other = rng.choice([key for key in holder if key != path[-1]])
        out = copy.deepcopy(tree)
        inner = at(out, path[:-1])
        inner[path[-1]], inner[other] = inner[other], inner[path[-1]]
        return Change(out, path, old, inner[path[-1]], "swapped")
    value = odd(rng, old)
    return Change(replaced(tree, path, value), path, old, value, "replaced")


def to_yaml(tree: Any, **options: Any) -> bytes:
    """Spell a tree as YAML, or as JSON where it is nested too deeply for that, which is YAML, too."""
    try:
        return yaml.safe_dump(tree, sort_keys=False, **options).encode("utf-8", "surrogatepass")
    except RecursionError:
        return to_json(tree)


def same_meaning(old: Any, new: Any) -> bool:
    """Tell whether two values of a configuration say the same: 5, 5.0, "5" and [5] do, and [[5]] and [5]."""
    if isinstance(old, bool) and isinstance(new, str):
        return new.strip().lower() == str(old).lower()
    if isinstance(new, list) and len(new) == 1 and (not isinstance(old, list) or new[0] == old):
        return same_meaning(old, new[0])
    if isinstance(old, list) and len(old) == 1 and not isinstance(new, list):
        return same_meaning(old[0], new)
    if isinstance(old, str) != isinstance(new, str):
        try:
            return float(old) == float(new)
        except (TypeError, ValueError, OverflowError):
            return False
    if isinstance(old, str):
        return bool(old.strip() == new.strip())
    return bool(old == new)


def to_json(tree: Any) -> bytes:
    """Spell a tree as JSON, whatever is in it."""
    try:
        return json.dumps(tree, ensure_ascii=True).encode()
    except RecursionError:
        return b'{"a":' * 1000 + b"1" + b"}" * 1000


def odd_text(rng: random.Random, text: bytes) -> tuple[bytes, str]:
    """Return text that no parser should like, and what was done."""
    middle = text.find(b"\n", rng.randrange(max(1, len(text)))) + 1
    ways: list[tuple[str, Callable[[], bytes]]] = [
        ("not UTF-8", lambda: text[:middle] + b"\xff\xfe\xc3(" + text[middle:]),
        ("a control character", lambda: text[:middle] + b"\x01\x1b[31m" + text[middle:]),
        ("a NUL", lambda: text[:middle] + b"\x00" + text[middle:]),
        ("UTF-16", lambda: text.decode("utf-8", "replace").encode("utf-16")),
        ("a byte order mark", lambda: b"\xef\xbb\xbf" + text),
        ("empty", lambda: b""),
        ("blank", lambda: b"\n \n"),
        ("deep lists", lambda: b"[" * rng.choice((100, 2000, 200_000))),
        ("deep objects", lambda: b'{"a":' * rng.choice((100, 2000, 100_000))),
        ("cut", lambda: cut(rng, text)),
        ("flipped", lambda: flip(rng, text)),
        ("twice", lambda: text + b"\n" + text),
        ("CR LF", lambda: text.replace(b"\n", b"\r\n")),
        ("a number without end", lambda: b"1" * 100_000),
        ("NaN", lambda: b"NaN"),
        ("a list", lambda: b"[1, 2]"),
        ("null", lambda: b"null"),
        ("a string", lambda: b'"text"'),
    ]
    what, way = rng.choice(ways)
    return way(), what


# -- archives --------------------------------------------------------------------------------------------


def tar(members: Iterable[tuple[str | tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Write a tar archive of names, or headers, and contents."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as archive:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if isinstance(member, str):
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return raw.getvalue()


def untar(data: bytes) -> dict[str, bytes]:
    """Return the files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [member for member in archive if member.isreg()]
        return {member.name: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]  # all are files


def header(name: str, kind: bytes, link: str = "", size: int = 0) -> tarfile.TarInfo:
    """Return the header of a member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def tar_header_changed(rng: random.Random, data: bytes, member: int) -> bytes:
    """Write something odd in a field of the header of a member, often with a checksum that fits."""
    start = 0
    for _ in range(member):
        size = int(data[start + 124 : start + 135].strip(b"\0 ") or b"0", 8)
        start += 512 * (1 + -(-size // 512))
    fields = {"size": (124, 12), "mode": (100, 8), "type": (156, 1), "magic": (257, 8), "mtime": (136, 12)}
    at_, width = fields[rng.choice([*fields, "size", "size"])]
    odd_numbers = (
        b"-1",
        b"77777777777",
        b"\x80" + b"\0" * 3 + b"\xff" * 8,
        b"\xff" * 12,
        b"x",
        b"",
        b"0",
        b"9",
    )
    value = rng.choice((*odd_numbers, rng.randbytes(width)))[:width].ljust(width, b"\0")
    out = bytearray(data)
    out[start + at_ : start + at_ + width] = value
    if rng.random() < 0.7:
        out[start + 148 : start + 156] = b" " * 8
        out[start + 148 : start + 156] = b"%06o\0 " % sum(out[start : start + 512])
    return bytes(out)


def bomb(size: int = 3 * 2**30, name: str = "./model_weights.ckpt") -> bytes:
    """Return a small gzip file that unpacks to a tar archive of one member of ``size`` zeros."""
    info = tarfile.TarInfo(name)
    info.size = size
    out = io.BytesIO()
    chunk = gzip.compress(bytes(2**20), 9)
    out.write(gzip.compress(info.tobuf()))
    for _ in range(min(size // 2**20, 300)):
        out.write(chunk)
    return out.getvalue()


def unzip(data: bytes) -> dict[str, bytes]:
    """Return the files of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def to_zip(records: Iterable[tuple[str, bytes]], compressed: bool = False) -> bytes:
    """Write a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def zip_bomb(records: Iterable[tuple[str, bytes]], name: str, size: int = 2**28) -> bytes:
    """Write a zip archive with one member of ``size`` zeros, packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in records:
            archive.writestr(key, data)
        with archive.open(name, "w", force_zip64=True) as member:
            for _ in range(size // 2**24):
                member.write(bytes(2**24))
    return out.getvalue()


# -- pickles ---------------------------------------------------------------------------------------------

#: what a stranger's pickle would call, and with what: each leaves a file that the harness looks for
CALLS: tuple[tuple[str, str, str], ...] = (
    ("posix", "system", "touch ../canary/ran"),
    ("os", "system", "touch ../canary/ran"),
    ("nt", "system", "touch ../canary/ran"),
    ("builtins", "eval", "__import__('os').system('touch ../canary/ran')"),
    ("builtins", "exec", "open('../canary/ran', 'w').close()"),
    ("__builtin__", "eval", "open('../canary/ran', 'w').close()"),
    ("subprocess", "getoutput", "touch ../canary/ran"),
    ("runpy", "_run_code", "open('../canary/ran', 'w')"),
    ("torch.serialization", "os.system", "touch ../canary/ran"),
    ("torch.hub", "load_state_dict_from_url", "http://127.0.0.1:9/x"),
    ("torch", "load", "evil.pt"),
    ("torch", "os.system", "touch ../canary/ran"),
    ("torch._utils", "eval", "open('../canary/ran', 'w')"),
    ("os", "makedirs", "../canary/ran"),
    ("os", "mkdir", "../canary/ran"),
    ("pathlib", "Path", "../canary/ran"),
    ("omegaconf", "os.system", "touch ../canary/ran"),
    ("omegaconf.listconfig.ListConfig", "x", "touch ../canary/ran"),
    ("pytorch_lightning.utilities", "os.system", "touch ../canary/ran"),
    ("nemo.core", "os.system", "touch ../canary/ran"),
    ("numpy", "fromfile", "/dev/zero"),
    ("numpy.core.multiarray", "scalar", "x"),
    ("numpy", "save", "../canary/ran"),
    ("builtins", "open", "../canary/ran"),
    ("io", "open", "../canary/ran"),
    ("logging", "FileHandler", "../canary/ran"),
    ("shelve", "open", "../canary/ran"),
    ("code", "InteractiveInterpreter", "x"),
)


def evil(rng: random.Random, payload: bytes = b"") -> tuple[bytes, str]:
    """Return a pickle that calls something while it is read, and what it calls.

    ``payload``: a harmless pickle that what was called is hidden in, where there is one.
    """
    module, name, argument = rng.choice(CALLS)
    shape = rng.randrange(5)
    text = argument.encode()
    if shape == 0:  # GLOBAL and REDUCE
        call = b"c" + f"{module}\n{name}\n".encode() + b"(X" + struct.pack("<I", len(text)) + text + b"tR"
    elif shape == 1:  # STACK_GLOBAL
        m, n = module.encode(), name.encode()
        call = b"\x8c" + bytes([len(m)]) + m + b"\x8c" + bytes([len(n)]) + n
        call += b"\x93(X" + struct.pack("<I", len(text)) + text + b"tR"
    elif shape == 2:  # INST
        call = b"(X" + struct.pack("<I", len(text)) + text + f"i{module}\n{name}\n".encode()
    elif shape == 3:  # OBJ
        call = b"(c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(text)) + text + b"o"
    else:  # NEWOBJ, then BUILD
        call = (
            b"c" + f"{module}\n{name}\n".encode() + b"(X" + struct.pack("<I", len(text)) + text + b"t\x81}b"
        )
    if payload[:1] == b"\x80" and payload[-1:] == b"." and rng.random() < 0.6:
        body = payload[:2] + call + b"0" + payload[2:]
    else:
        body = b"\x80\x04" + call + b"."
    return body, f"{module}.{name} by {('REDUCE', 'STACK_GLOBAL', 'INST', 'OBJ', 'NEWOBJ')[shape]}"


def odd_pickle(rng: random.Random) -> bytes:
    """Return a pickle of something that is no state, or none at all."""
    ways: list[Callable[[], bytes]] = [
        lambda: pickle.dumps([1, 2, 3], 2),
        lambda: pickle.dumps({1: torch.zeros(2)}, 2),
        lambda: pickle.dumps({"a": {"b": [None, (1, 2)]}}, 2),
        lambda: b"\x80\x02" + b"(" * 100_000 + b".",
        lambda: b"\x80\x02" + b"]" + b"2a" * 50_000 + b".",
        lambda: b"\x80\x02\x8e" + struct.pack("<Q", 2**62) + b".",
        lambda: b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"x.",
        lambda: b"\x80\x02I" + b"9" * 100_000 + b"\n.",
        lambda: b"\x80\x02r\xff\xff\xff\x7f.",
        lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
        lambda: b"\x80\x02h\x05.",
        lambda: b"\x80\x05\x95" + struct.pack("<Q", 2**40) + b"N.",
        lambda: b"\x80\xffN.",
        lambda: b"\x80\x02",
        lambda: b"\x80\x02]q\x00h\x00a.",
        lambda: b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        lambda: b"\x80\x02(lp0\nI1\na" * 20 + b".",
        lambda: b"\x80\x02Cx" + rng.randbytes(40),
        lambda: b"\x80\x02\x82\x01.",
        lambda: b"\x80\x02U\x010Q.",
        lambda: rng.randbytes(100),
        lambda: b"\x80\x02" + rng.randbytes(60),
    ]
    return rng.choice(ways)()


def saved(value: Any, *, legacy: bool = False) -> bytes:
    """Return what ``torch.save`` writes."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def odd_tensor(rng: random.Random, tensor: torch.Tensor) -> tuple[torch.Tensor, str, bool]:
    """Return another tensor, what was done, and whether it holds the same numbers."""
    t = tensor.detach().clone()
    real = t.is_floating_point()
    ways: list[tuple[str, Callable[[], torch.Tensor], bool]] = [
        ("a strange stride", lambda: t.unsqueeze(-1).expand(*t.shape, 2)[..., 0], True),
        ("transposed in memory", lambda: t.T.contiguous().T if t.dim() == 2 else t, True),
        (
            "an offset",
            lambda: torch.cat([torch.zeros(3, dtype=t.dtype), t.flatten()])[3:].view(t.shape),
            True,
        ),
        ("stride 0", lambda: t.flatten()[:1].expand(t.numel()).view(t.shape), t.numel() <= 1),
        ("a dimension more", lambda: t.unsqueeze(0), False),
        ("flat", lambda: t.flatten() if t.dim() > 1 else t.unsqueeze(0), False),
        ("empty", lambda: t.flatten()[:0], False),
        ("a scalar", lambda: t.flatten()[0], t.dim() == 0),
        ("float64", lambda: t.double(), True),
        ("float16", lambda: t.half(), False),
        ("bfloat16", lambda: t.bfloat16(), False),
        ("int64", lambda: t.long(), not real),
        ("complex", lambda: t.to(torch.complex64), False),
        ("bool", lambda: t.bool(), False),
        ("sparse", lambda: t.to_sparse(), False),
        ("meta", lambda: t.to("meta"), False),
        ("a huge expansion", lambda: torch.zeros(1, dtype=t.dtype).expand(2**40), False),
        ("a parameter", lambda: torch.nn.Parameter(t, requires_grad=False), True),
    ]
    if real and t.numel():
        for name, value in (("NaN", float("nan")), ("infinity", float("inf")), ("1e38", 1e38), ("off", 0.37)):

            def put(value: float = value) -> torch.Tensor:
                t.view(-1)[rng.randrange(t.numel())] = value
                return t

            ways += [(name, put, False)] * 2
        ways += [("quantized", lambda: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8), False)]
    what, way, same = rng.choice(ways)
    return way(), what, same
