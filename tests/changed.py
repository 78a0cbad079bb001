"""Which tests a change calls for: `python tests/changed.py [BASE]` prints the arguments of pytest.

Changed are the files that differ from BASE (by default HEAD; where nothing does, the commit before it).  A
test file stands for itself, a module for the tests that mirror it, and an operator for its own tests and
parity cases.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: a change of these calls for the structure's own tests, whatever else
ALWAYS = ("tests/test_structure.py", "tests/test_public_api.py")
#: more files than this are a change of everything: `make test` is for that
MOST = 12


def changed(base: str) -> list[str]:
    """Files of the checkout that differ from ``base``, new ones too."""
    tracked = subprocess.run(["git", "diff", "--name-only", base], cwd=ROOT, capture_output=True, text=True)
    new = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    return [*tracked.stdout.split(), *new.stdout.split()]


def selected(files: Iterable[str], root: Path) -> list[str]:
    """Test files that the changed ``files`` call for, without those of real models."""
    found: dict[str, None] = {}
    for name in files:
        path = Path(name)
        if path.suffix != ".py" or not (root / path).exists():
            continue
        if path.parts[0] == "tests":
            if path.name.startswith("test_"):
                found[name] = None
        elif path.parts[0] == "zeroq_asr":
            found.update((str(p.relative_to(root)), None) for p in mirrors(path, root))
    kept = [name for name in found if "real_models" not in name]
    return [*ALWAYS, *(name for name in kept if name not in ALWAYS)]


def mirrors(path: Path, root: Path) -> list[Path]:
    """Tests of a module: ``tests/FOLDER/test_MODULE*.py``, or of an operator's folder those of its name."""
    inside = path.with_suffix("").parts[1:]
    folder, stem = root.joinpath("tests", *inside[:-1]), inside[-1]
    names = [stem] if stem != "__init__" else []
    if inside[0] == "operators" and len(inside) > 2:
        folder, names = root / "tests" / "operators", [inside[1], *names]
    return sorted({p for name in names if folder.is_dir() for p in folder.glob(f"test_{name}*.py")})


def main(base: str = "HEAD") -> None:
    """Print the tests, one a line."""
    files = changed(base) or changed("HEAD~1")
    print("\n".join(selected(files, ROOT)[: MOST + len(ALWAYS)]))


if __name__ == "__main__":
    main(*sys.argv[1:2])
