"""Processes: starting what is measured in processes of its own, and what their end says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
KIB = 1 if sys.platform == "darwin" else 1024
"""Bytes in the unit of ru_maxrss."""


@attrs.frozen
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; below 0: the signal that ended it.
        seconds: how long it ran.
        peak_mb: its peak resident size, in MiB.
        out, errors: what it wrote.
    """

    code: int
    seconds: float
    peak_mb: float
    out: str
    errors: str

    @property
    def reason(self) -> str:
        """Why it failed, in one line; nothing where it did not."""
        return reason_of(self.code, self.errors)


def command_of(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in a process of its own."""
    return [sys.executable, "-m", "framework.bench", module, *arguments]


def run_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a command to its end. Linux counts the size of this process, as it was at the start, into the other's peak.

    Raises:
        KeyboardInterrupt: it was interrupted, or this process while it ran.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        try:
            process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=out, stderr=errors)
        except OSError as error:
            return Ended(127, 0.0, 0.0, "", f"error: cannot run {command[0]}: {error.strerror}")
        try:
            peak_mb = wait_for(process)
        except KeyboardInterrupt:  # the terminal told the other, too
            process.wait()
            raise
        seconds = time.perf_counter() - began
        require_uninterrupted(process.returncode)
        return Ended(process.returncode, seconds, peak_mb, text_of(out), text_of(errors))


def wait_for(process: subprocess.Popen[Any]) -> float:
    """Sees a process end, and gives its peak resident size, in MiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for a process that is gone
    return usage.ru_maxrss * KIB / 2**20


def lines_of_process(command: Sequence[str]) -> Iterator[str]:
    """The lines that a command writes, each when it is there; the last is why it failed, or empty.

    Raises:
        KeyboardInterrupt: it was interrupted, or this process while it ran.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            yield from process.stdout
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            process.stdout.close()
        require_uninterrupted(code)
        yield reason_of(code, text_of(errors))


def require_uninterrupted(code: int) -> None:
    """
    Raises:
        KeyboardInterrupt: whoever stopped the process meant the study; this is no result.
    """
    if code in INTERRUPTED or -code in (signal.SIGINT, signal.SIGTERM):
        raise KeyboardInterrupt


def reason_of(code: int, errors: str) -> str:
    """Why a process failed, in one line; nothing where it did not."""
    if code == -signal.SIGKILL:
        return "killed by the system (signal 9), as where memory runs out"
    if code < 0:
        return f"ended by signal {-code}"
    if not code:
        return ""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    mistakes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (mistakes or lines[-1:] or [f"ended with {code}"])[0]


def text_of(file: IO[bytes]) -> str:
    """What a process wrote into a file of its own."""
    file.seek(0)
    return file.read().decode(errors="replace")


def write_once(file: Path, text: str) -> Path:
    """A file with some text, written where it is not there yet."""
    from framework.files import write_text

    if not file.is_file():
        write_text(file, text)
    return file
