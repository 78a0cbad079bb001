"""The page of the API has every public name, and the build of the documentation warns of what it lacks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import zeroq_asr as zq

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_public_name_has_an_entry() -> None:
    named = re.findall(r"^::: zeroq_asr\.(\w+)$", TEXT, re.MULTILINE)
    assert sorted(named) == sorted(zq.__all__)


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("griffe", reason="griffe is not installed: pip install 'zeroq-asr[dev]'")
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "mkdocs_hooks", raising=False)
    import mkdocs_hooks

    return mkdocs_hooks


MODULE = '''
def said():
    """Words."""

def silent():
    pass

class Thing:
    """Words."""

    #: fields have comments
    field: int = 0

    def loud(self):
        """Words."""

    def quiet(self):
        pass

    def _own(self):
        pass

class Bare:
    pass
'''


def problems(hooks: Any, folder: Path, named: list[str]) -> list[str]:
    """What is said of a page of a made package, of which one function has the name of its module."""
    package = folder / "made"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "__init__.py").write_text("from made.inner.shadow import shadow\n")
    (package / "inner" / "shadow.py").write_text('def shadow():\n    """Words."""\n')
    (package / "things.py").write_text(MODULE)
    names = ["said", "silent", "Thing", "Bare"]
    (package / "_api.py").write_text(
        f"from made.inner import shadow\nfrom made.things import {', '.join(names)}\n"
        f"__all__ = {[*names, 'shadow']}\n"
    )
    (package / "__init__.py").write_text("from made._api import *\n")
    loaded = hooks.griffe.load("made", search_paths=[str(folder)], resolve_aliases=True)
    return [*hooks.problems(named, loaded)]


def test_what_has_no_words_or_is_read_as_a_module_is_named(hooks: Any, tmp_path: Path) -> None:
    assert problems(hooks, tmp_path, ["said", "silent", "Thing", "Bare", "shadow"]) == [
        "api.md: Bare has no docstring (made.things.Bare)",
        "api.md: Thing.quiet has no docstring (made.things.Thing)",
        "api.md: shadow is read as the module made.inner.shadow: import it from there in _api",
        "api.md: silent has no docstring (made.things.silent)",
    ]


def test_entries_that_lack_or_are_too_many_are_named(hooks: Any, tmp_path: Path) -> None:
    found = problems(hooks, tmp_path, ["said", "said", "Thing", "other", "shadow"])
    assert found[:4] == [
        "api.md: Bare is public and has no entry",
        "api.md: silent is public and has no entry",
        "api.md: other has an entry and is not public",
        "api.md: said has several entries",
    ]


def test_the_page_is_whole(hooks: Any) -> None:
    package = hooks.griffe.load("zeroq_asr", search_paths=[str(ROOT)], resolve_aliases=True)
    assert [*hooks.problems(hooks.ENTRY.findall(TEXT), package)] == []
