"""The command as a process: its streams, its signals and its end.  Few of these start one: it takes time."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zeroq_asr import files
from zeroq_asr.cli import app, exits, process, signals, streams
from zeroq_asr.errors import CheckpointError, ConfigError

COMMAND = f"{sys.executable} -m zeroq_asr"


def _shell(command: str, **settings: Any) -> tuple[int, str, str]:
    done = subprocess.run(
        ["bash", "-c", command.replace("zeroq-asr", COMMAND)], capture_output=True, text=True, **settings
    )
    return done.returncode, done.stdout, done.stderr


# -- streams: each of these is a process, of a command that needs no torch -------------------------


@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("zeroq-asr --help >/dev/full", 6, "", "error: stdout: No space left on device\n"),
        ("zeroq-asr --version >&-", 6, "", "error: stdout: is closed\n"),
        ("zeroq-asr --version <&- 2>&-", 0, "0.1.0\n", ""),
        ("zeroq-asr dance <&- >&- 2>&-", 2, "", ""),
        ("zeroq-asr dance 2>/dev/full", 2, "", ""),
        ("zeroq-asr --help | true; exit ${PIPESTATUS[0]}", 141, "", ""),
        (
            "PYTHONIOENCODING=ascii zeroq-asr $'d\\xc3\\xa4nce\\e]0;x\\a'",
            2,
            "",
            "error: zeroq-asr: No such command 'd\\xe4nce\\x1b]0;x\\x07'; see zeroq-asr --help\n",
        ),
    ],
)
def test_streams_that_cannot_be_written(command: str, code: int, stdout: str, stderr: str) -> None:
    if "/dev/full" in command and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    assert _shell(command) == (code, stdout, stderr)


class _Streams:
    """Stands for the streams of a process, of which stdout has failed or not."""

    def __init__(self, failure: OSError | None) -> None:
        self.failure = failure


def _raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "lost", "code", "stderr"),
    [
        (SystemExit(0), None, 0, ""),
        (SystemExit(3), None, 3, ""),
        (SystemExit(0), OSError(errno.ENOSPC, "full", "stdout"), 6, "error: stdout: full\n"),
        (SystemExit(6), OSError(errno.ENOSPC, "full", "stdout"), 6, ""),  # told already
        (SystemExit(1), BrokenPipeError(errno.EPIPE, "gone"), 141, ""),  # as rich ends
        (BrokenPipeError(errno.EPIPE, "gone"), BrokenPipeError(errno.EPIPE, "gone"), 141, ""),
        (
            OSError(errno.ENOSPC, "full", "stdout"),
            OSError(errno.ENOSPC, "full", "stdout"),
            6,
            "error: stdout: full\n",
        ),
        (KeyboardInterrupt(), None, 130, "error: interrupted\n"),
        (signals.Stopped(signal.SIGTERM), None, 143, "error: terminated\n"),
        (
            MemoryError(),
            None,
            6,
            "error: out of memory; use a smaller --batch or --frames, or a larger machine\n",
        ),
    ],
)
def test_the_end(
    error: BaseException, lost: OSError | None, code: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert process._code(_raising(error), _Streams(lost)) == code
    assert capsys.readouterr().err == stderr


def test_a_result_is_lost_once_and_a_message_never(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    results = streams._Results(writing, "w")
    out = io.TextIOWrapper(io.BufferedWriter(results), "utf-8")
    out.write("lost")
    with pytest.raises(BrokenPipeError) as caught:
        out.flush()
    assert (results.failure, caught.value.filename) == (caught.value, "stdout")
    out.write("what comes after it is dropped")
    out.close()
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.BufferedWriter(streams._Messages(writing, "w")), "utf-8") as err:
        print("nobody reads this", file=err, flush=True)


# -- signals ---------------------------------------------------------------------------------------


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers that the process was ended with; handlers are put back."""
    ended: list[int] = []
    before = {number: signal.getsignal(number) for number in signals._WORDS}
    monkeypatch.setattr(signals, "_received", [])
    monkeypatch.setattr(signals, "_ours", [])
    monkeypatch.setattr(signals, "_end", ended.append)
    yield ended
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_interrupts_the_work(
    name: str, handlers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, name)
    signal.signal(number, signal.default_int_handler)  # a test's own process may have it ignored
    signals.end_at_once()
    signal.raise_signal(number)
    assert handlers == [number]
    before = threading.active_count()
    signals.interrupt_the_work()
    assert threading.active_count() == before + 1
    signal.set_wakeup_fd(-1)  # the watcher waits for nothing any more
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(number)
    assert exits.code_of(caught.value) == 128 + number
    # whatever a library has made of it
    assert exits.code_of(signals.cause_of(ImportError("numpy is broken"))) == 128 + number
    signal.raise_signal(number)  # the second one raises nothing: it is the watcher's


def test_what_was_ignored_stays_so(handlers: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    signals.end_at_once()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert isinstance(signals.cause_of(KeyError("x")), KeyError)


def test_signals_are_left_alone_where_a_command_is_called_by_another_process(handlers: list[int]) -> None:
    before = signal.getsignal(signal.SIGINT), threading.active_count()
    CliRunner().invoke(app, ["verify", "absent.onnx"])
    assert (signal.getsignal(signal.SIGINT), threading.active_count()) == before


def test_signals_are_left_alone_in_another_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(signals._handled()))
    thread.start()
    thread.join()
    assert found == [[]]


@pytest.mark.parametrize("sent", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_the_watcher_ends_what_does_not_end_itself(sent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedError(Exception):
        pass

    def end(number: int) -> None:
        raise EndedError(number)

    monkeypatch.setattr(signals, "_end", end)
    monkeypatch.setattr(signals, "GRACE", 0.05 if len(sent) == 1 else 60)
    reading, writing = os.pipe()
    os.write(writing, bytes([signal.SIGCHLD, *sent]))
    with pytest.raises(EndedError, match=str(int(sent[0]))):
        signals._watch(reading)
    os.close(reading)
    os.close(writing)


LOADERS = """
import pathlib, time

def stubborn(path):
    pathlib.Path("started").touch()
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def _signalled(command: list[str], folder: Path, ready: Callable[[], bool], *sent: int) -> tuple[int, str]:
    with subprocess.Popen(
        [sys.executable, "-m", "zeroq_asr", *command],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what runs in the background with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        end = time.monotonic() + 60
        while not ready() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        for number in sent:
            process.send_signal(number)
            time.sleep(0.2)
        _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def test_twice_is_enough_whatever_a_library_catches(tmp_path: Path) -> None:
    (tmp_path / "cli_stubborn.py").write_text(LOADERS)
    command = ["quantize", "m.pt", "-o", "x.onnx", "--loader", "cli_stubborn:stubborn"]
    before = {*os.listdir(tmp_path)}
    ended = _signalled(command, tmp_path, (tmp_path / "started").exists, signal.SIGTERM, signal.SIGTERM)
    assert ended == (143, "error: terminated\n")
    assert {*os.listdir(tmp_path)} - before <= {"started", "__pycache__"}


def test_an_interruption_while_torch_is_imported(tmp_path: Path) -> None:
    # a module in place of torch tells when it is imported, and takes its time
    (tmp_path / "torch.py").write_text(
        "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n"
    )
    ended = _signalled(["verify", "x.onnx"], tmp_path, (tmp_path / "started").exists, signal.SIGINT)
    assert ended == (130, "error: interrupted\n")


def test_libraries_that_cannot_be_loaded_are_the_machines_fault(tmp_path: Path) -> None:
    for text in ("raise ImportError('libtorch.so: undefined symbol')", "raise RuntimeError('broken')"):
        (tmp_path / "torch.py").write_text(text)
        code, stdout, stderr = _shell("zeroq-asr verify x.onnx", cwd=tmp_path)
        assert (code, stdout) == (6, "")
        assert stderr.startswith("error: the libraries that this command needs cannot be loaded (")
        assert stderr.count("\n") == 1


# -- errors of any class ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"), 6),
        (RuntimeError("can't start new thread"), 6),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 3),
        (OSError(errno.EIO, "Input/output error", "x"), 6),
        (CheckpointError("out of memory.pt", "is damaged"), 3),  # a stranger's words
        (BrokenPipeError(), 141),
    ],
)
def test_codes(error: BaseException, code: int) -> None:
    assert exits.code_of(error) == code


def test_memory_that_ran_out_below_an_error_of_ours() -> None:
    error = CheckpointError("x.onnx", "cannot be run")
    error.__context__ = MemoryError()  # as `raise … from None` within an `except` leaves it
    assert exits.code_of(error) == 6


# -- temporary files -------------------------------------------------------------------------------


def test_what_is_being_written_can_be_discarded(tmp_path: Path) -> None:
    def discard() -> None:
        with files.atomic_write(tmp_path / "x") as stream:
            stream.write(b"half")
            assert len([*tmp_path.iterdir()]) == 1
            files.discard_temporaries()
            assert [*tmp_path.iterdir()] == []

    with pytest.raises(FileNotFoundError):
        discard()
    with files.temporary_folder() as folder:
        (folder / "x").touch()
        files.discard_temporaries()
        assert not folder.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_write_that_ends_early_leaves_what_was_there(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")

    def write() -> None:
        with files.atomic_write(tmp_path / "x") as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"before"}
    if isinstance(caught.value, OSError):
        assert caught.value.filename == str(tmp_path / "x")
    assert not files._UNDONE_BY


def test_a_folder_that_ends_early_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.atomic_write_folder(tmp_path / "f", {"a.json": b"1"}, "a.json")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        files.atomic_write_folder(tmp_path / "f", {"a.json": b"2"}, "a.json")
    assert [*tmp_path.iterdir()] == [tmp_path / "f"]
    assert (tmp_path / "f" / "a.json").read_bytes() == b"1"


def test_a_full_disk_is_the_machines_fault_and_a_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number), "temporary")

    monkeypatch.setattr(os, "open", fail)
    number = errno.ENOSPC
    with pytest.raises(OSError, match="No space") as caught:
        files.written_at(tmp_path / "x")
    assert caught.value.filename == str(tmp_path / "x")
    number = errno.EROFS
    with pytest.raises(ConfigError, match="Read-only"):
        files.written_at(tmp_path / "x")
