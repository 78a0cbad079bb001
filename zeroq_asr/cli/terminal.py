"""What a command prints, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from zeroq_asr.cli import signals, streams
from zeroq_asr.cli.exits import StartError, code_of, is_out_of_memory, line_of
from zeroq_asr.errors import ZeroqError, ZeroqWarning
from zeroq_asr.lines import printable, said
from zeroq_asr.progress import Progress, silent

if TYPE_CHECKING:  # a tenth of a second, which --help need not wait for
    from rich.console import Console
    from rich.padding import Padding
    from rich.progress import Progress as Bars
    from rich.progress import TaskID
    from rich.table import Table
    from rich.text import Text

#: version of what --json prints (docs/json.md): it changes when a field changes its meaning or goes
SCHEMA = 1
#: without a terminal, a stage that took less is not worth a line
_WORTH_SECONDS = 2.0
#: one that takes longer is told of then, and so often from there on
_EVERY_SECONDS = 30.0


class Terminal:
    """Prints for one command, as its options ask."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._silent = False
        self._stdout = stdout
        from rich.console import Console

        self.out = Console(file=stdout, highlight=False)
        if not self.out.is_terminal:  # a file or a pipe: nothing is wrapped or cut
            self.out.width = 10_000
        self.err = Console(file=stderr, highlight=False)

    @property
    def talks(self) -> bool:
        """Whether more than the bare result is wanted."""
        return not (self.as_json or self.quiet)

    def silence(self) -> None:
        """Say nothing but errors from here on, as one of several processes of which another speaks."""
        self.as_json, self.quiet, self._silent = False, True, True
        warnings.simplefilter("ignore", ZeroqWarning)

    def result(self, value: Any, bare: str | Sequence[Sequence[str]]) -> None:
        """Print the result as JSON with --json, as ``bare`` with --quiet, else nothing.

        ``bare`` is a line, or the fields of several.
        """
        if self.as_json:
            self._write(json_text(value))
        elif self.quiet and bare:
            for fields in [[bare]] if isinstance(bare, str) else bare:
                self.line(*fields)

    def line(self, *fields: str) -> None:
        """Print a line of a result, its fields parted by tabs, without wrapping or colour."""
        self._write("\t".join(printable(field) for field in fields))

    def document(self, text: str) -> None:
        """Print a result of several lines, which ends its last line itself, as it would be in a file."""
        self._stdout.write(text)
        self._stdout.flush()

    def _write(self, text: str) -> None:
        self._stdout.write(f"{text}\n")
        self._stdout.flush()

    def title(self, text: str, note: str = "") -> None:
        """Print the heading of a report."""
        self.out.print(_styled(text, "bold").append(printable(f"  {note}") if note else ""), soft_wrap=True)

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and values, a line each."""
        from rich.table import Table

        rows = [*rows]
        width = max(len(name) for name, _ in rows)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, style="cyan", width=width + 2)
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(_styled(f"  {name}"), _styled(value))
        self._show(grid)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)
    ) -> None:
        """Print a table; the columns numbered in ``left`` are text, the others are numbers."""
        from rich.padding import Padding
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="cyan")
        for number, name in enumerate(columns):
            if number in left:
                table.add_column(name, overflow="fold")
            else:
                table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(_styled(cell) for cell in row))
        self._show(Padding(table, (0, 0, 0, 2), expand=False))

    def text(self, text: str = "", style: str = "") -> None:
        """Print a paragraph."""
        self.out.print(_styled(text, style))

    def note(self, text: str) -> None:
        """Tell on stderr, whatever was asked of stdout, what a user must not miss."""
        if not self._silent:
            self.err.print(_styled(text), soft_wrap=True)

    def next(self, command: str) -> None:
        """Print the command to run next, unbroken, so that it can be copied."""
        self.text()
        self.out.print(_styled(f"Next: zeroq-asr {command}"), soft_wrap=True)

    def _show(self, block: Table | Padding) -> None:
        if self.out.is_terminal:
            self.out.print(block)
            return
        with self.out.capture() as capture:
            self.out.print(block)
        for line in capture.get().splitlines():  # rich fills every line to the width of the longest
            self._write(line.rstrip())

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Give the library something to report to: bars, a few lines, or nothing."""
        if not self.talks:
            yield silent
        elif not self.err.is_terminal:
            yield _Lines(self.err)
        else:
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            with Bars(
                TextColumn("{task.description:<10}", markup=False),
                BarColumn(bar_width=30),
                TimeElapsedColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim", markup=False),
                console=self.err,
                transient=True,
                refresh_per_second=5,
            ) as bars:
                yield _Bars(bars)


@contextlib.contextmanager
def session(ctx: typer.Context, *, as_json: bool, quiet: bool, developer: bool) -> Iterator[Terminal]:
    """Run a command's body: its options joined with those before the command, its errors handled.

    What else is printed meanwhile, say by a user's loader, goes to stderr, so that stdout holds
    the result and nothing else.
    """
    common = ctx.obj or {}
    terminal = Terminal(
        sys.stdout,
        sys.stderr,
        as_json=as_json or common.get("as_json", False),
        quiet=quiet or common.get("quiet", False),
    )
    try:
        _begin()
        with contextlib.redirect_stdout(sys.stderr), _warnings_told(terminal):
            yield terminal
    except (BrokenPipeError, typer.Exit, SystemExit):
        raise  # the reader left, as `head` does: no error
    except BaseException as problem:
        error = signals.cause_of(problem)
        if developer or common.get("developer", False):
            traceback.print_exc(file=sys.stderr)
        terminal.err.print(_styled(line_of(error), "red"), soft_wrap=True)
        if terminal.as_json and not isinstance(error, OSError):
            terminal.document(f"{json_error(error)}\n")
        raise typer.Exit(code_of(error)) from None


@contextlib.contextmanager
def _warnings_told(terminal: Terminal) -> Iterator[None]:
    """Print the library's own warnings on stderr, a line each and each once, whatever was asked of stdout."""
    told: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", ZeroqWarning)  # before the filter that ignores those of others
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not issubclass(category, ZeroqWarning):
                others(message, category, filename, lineno, file, line)
            elif str(message) not in told:
                told.add(str(message))
                terminal.err.print(_styled(f"warning: {message}", "yellow"), soft_wrap=True)

        warnings.showwarning = show
        yield


def _begin() -> None:
    """Import what takes its time, before anything is there that an interruption would have to clean up."""
    lost = streams.closed_stdout()
    if lost is not None:
        raise lost
    try:
        importlib.import_module("zeroq_asr._api")
    except (ImportError, OSError) as error:
        raise StartError(said(error)) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise StartError(f"{type(error).__name__}: {said(error)}") from error
    signals.interrupt_the_work()


class _Bars:
    """A bar a stage; a stage of one step, whose length nobody knows, pulses."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` steps are finished."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(printable(stage), total=None, count="", note="")
        pulses = total <= 1 and done < total
        self._bars.update(
            self._tasks[stage],
            completed=done,
            total=None if pulses else total,
            count=f"{done}/{total}" if total > 1 else "",
            note=printable(note),
        )


class _Lines:
    """Short plain lines about what takes long, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Tell of a finished stage, and of a long one now and then."""
        now = time.monotonic()
        start = self._started.setdefault(stage, now)
        seconds = now - start
        if done >= total and seconds >= _WORTH_SECONDS:
            self._print(f"{stage}: {seconds:.1f} s", note)
        elif done < total and now - self._told.get(stage, start - _EVERY_SECONDS + _WORTH_SECONDS) >= (
            _EVERY_SECONDS
        ):
            self._told[stage] = now
            left = f", about {seconds / done * (total - done):.0f} s left" if done else ""
            self._print(f"{stage}: {done} of {total}, {seconds:.0f} s{left}", note)

    def _print(self, text: str, note: str) -> None:
        self._console.print(_styled(f"{text}, {note}" if note else text), soft_wrap=True)


def _styled(text: str, style: str = "") -> Text:
    """Return ``text`` for rich, without any control character."""
    from rich.text import Text

    return Text(printable(text), style)


def json_text(value: Any) -> str:
    """Return a result as strict JSON, with the version of its schema; what is not a number is null."""
    return json.dumps({"schema": SCHEMA, **_finite(value)}, indent=2, allow_nan=False)


def json_error(error: BaseException) -> str:
    """Return what --json prints of an error, in place of a result."""
    if isinstance(error, ZeroqError):
        parts = (error.where, error.problem, error.remedy)
    else:
        parts = ("", line_of(error).removeprefix("error: "), "")
    where, problem, remedy = (printable(part) for part in parts)
    told = {
        "kind": type(error).__name__,
        "exit_code": code_of(error),
        "where": where,
        "problem": problem,
        "remedy": remedy,
    }
    return json_text({"error": told})


def _finite(value: Any) -> Any:
    """Return ``value`` for strict JSON: what is not a number becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
