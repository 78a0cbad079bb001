"""What `make docs` requires of the page of the API beyond links: every public name, with its docstring.

mkdocs calls the functions here by their names (``hooks`` in mkdocs.yml), and turns warnings into errors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

#: the page, and the line that stands for a name's docstrings
PAGE, ENTRY = "api.md", re.compile(r"^::: zeroq_asr\.(\w+)$", re.MULTILINE)
ROOT = Path(__file__).parent

log = logging.getLogger("mkdocs.hooks.api")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> None:
    """Warn of names that the page lacks or repeats, and of those without a docstring."""
    if page.file.src_uri == PAGE:
        package = griffe.load("zeroq_asr", search_paths=[str(ROOT)], resolve_aliases=True)
        for problem in problems(ENTRY.findall(markdown), package):
            log.warning(problem)


def problems(named: list[str], package: griffe.Module) -> Iterator[str]:
    """Yield what is wrong with a page of entries ``named``, of a package whose ``_api`` has public names."""
    public = {str(name) for name in package["_api"].exports or ()}
    for name in sorted(public - set(named)):
        yield f"{PAGE}: {name} is public and has no entry"
    for name in sorted(set(named) - public):
        yield f"{PAGE}: {name} has an entry and is not public"
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield f"{PAGE}: {name} has several entries"
    for name in sorted(public & set(named)):
        entry = package[name]
        found = entry.final_target if entry.is_alias else entry
        if found.is_module:
            yield f"{PAGE}: {name} is read as the module {found.path}: import it from there in _api"
            continue
        if not found.is_attribute and not found.has_docstring:
            yield f"{PAGE}: {name} has no docstring ({found.path})"
        if found.is_class:
            for part in found.members.values():
                if not part.name.startswith("_") and part.is_function and not part.has_docstring:
                    yield f"{PAGE}: {name}.{part.name} has no docstring ({found.path})"
