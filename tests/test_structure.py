"""The structure of the package: what may import what, and what no module may do.

Each folder's ``__init__`` says in its docstring, after ``Imports:``, which parts of the package it may
import, and after ``Never imports:`` which it must not.  Parts are the folders and the modules at the root.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import zeroq_asr

PACKAGE = Path(zeroq_asr.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
#: from the lowest up: a part imports itself and what stands before it.  Those of one line know nothing of
#: each other
LAYERS = (
    ("_version", "lines", "progress", "threads"),
    ("errors",),
    ("files",),
    ("config", "registry"),
    ("speech", "decoding", "integer"),
    ("graph", "architectures"),
    ("model", "capture"),
    ("checkpoints", "lowering"),
    ("operators", "embedded", "synthesis"),
    ("calibration", "training"),
    ("deployment",),
    ("pipeline",),
    ("measure",),
    # the command line calls nothing but what any caller can
    ("_api",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
#: most modules at the root, and most parameters without a type in the arithmetic
ROOT_MODULES, UNTYPED = 12, 40


def part_of(module: str) -> str:
    """Folder or root module of ``zeroq_asr.x.y``."""
    return [*module.split("."), "__init__"][1]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that runs: what stands under ``TYPE_CHECKING`` does not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from statements(node)


def imports(path: Path) -> set[str]:
    """Modules of the package that a module imports when it runs, inside of functions too."""
    known, found = {name_of(p) for p in MODULES}, set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return {name for name in found if name.split(".")[0] == "zeroq_asr"} - {name_of(path)}


IMPORTS = {name_of(path): imports(path) for path in MODULES}


def listed(folder: Path, label: str) -> set[str]:
    """What a folder's docstring lists behind a label, up to the full stop."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    match = re.search(rf"^{label}: (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    assert match, f"{folder.name}: its docstring does not say what it {label.lower()}"
    return {name for name in re.split(r"[,\s]+", match[1]) if name and name != "nothing"}


def test_the_root_holds_what_callers_import() -> None:
    modules = [path.name for path in PACKAGE.glob("*.py")]
    assert len(modules) <= ROOT_MODULES, sorted(modules)


@pytest.mark.parametrize("folder", FOLDERS, ids=[str(f.relative_to(PACKAGE)) for f in FOLDERS])
def test_folders_say_what_they_import(folder: Path) -> None:
    allowed, forbidden = listed(folder, "Imports"), listed(folder, "Never imports")
    assert not allowed & forbidden
    unknown = {name for name in allowed | forbidden if name.split(".")[0] not in RANK}
    assert not unknown
    inside = list(folder.rglob("*.py"))
    used = {part_of(name) for path in inside for name in IMPORTS[name_of(path)]}
    used.discard(folder.relative_to(PACKAGE).parts[0])
    assert used <= allowed, f"imports {sorted(used - allowed)}, which its docstring does not list"


def test_no_arrow_points_upwards() -> None:
    wrong = []
    for module, names in IMPORTS.items():
        own = part_of(module)
        for name in names:
            other = part_of(name)
            if own != other and RANK[other] >= RANK[own]:
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_no_module_imports_in_a_circle() -> None:
    state: dict[str, int] = {}
    found: list[list[str]] = []

    def visit(module: str, trail: list[str]) -> None:
        state[module] = 1
        for name in sorted(IMPORTS.get(module, ())):
            # a folder's __init__ that lists its modules is no circle with them: they do not read it
            if state.get(name) == 1:
                found.append([*trail[trail.index(name) :], name] if name in trail else [module, name])
            elif name not in state:
                visit(name, [*trail, name])
        state[module] = 2

    for module in IMPORTS:
        if module not in state:
            visit(module, [module])
    assert not found


def compares_operators(path: Path) -> list[int]:
    """Lines that compare the ``op`` of a node or an instruction with a string."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        named = any(isinstance(s, ast.Attribute) and s.attr == "op" for s in sides)
        constants = [c for s in sides for c in ast.walk(s) if isinstance(c, ast.Constant)]
        texts = [c for c in constants if isinstance(c.value, str)]
        if named and texts:
            lines.append(node.lineno)
    return lines


def test_generic_code_knows_no_operator_by_name() -> None:
    # the nodes of torch.export's graphs have an ``op`` of their own, of four kinds
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in MODULES
        if "operators" not in path.parts and (lines := compares_operators(path))
    }
    assert not found


def untyped(path: Path) -> list[str]:
    """Parameters that are annotated with ``Any``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            for one in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg):
                if one is not None and isinstance(one.annotation, ast.Name) and one.annotation.id == "Any":
                    found.append(f"{path.relative_to(PACKAGE)}: {node.name}({one.arg})")
    return found


def test_the_type_checker_sees_the_arithmetic() -> None:
    paths = [path for f in ("operators", "integer") for path in (PACKAGE / f).rglob("*.py")]
    found = [one for path in paths for one in untyped(path)]
    assert len(found) <= UNTYPED, "\n".join(found)
