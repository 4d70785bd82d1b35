"""Turns: processes that each measure for a moment, one after another, so that what the machine does meets all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

import attrs

from framework.bench.processes import Ended, require_uninterrupted, text_of, wait_for

WAITS = "waits "
"""Begins the line by which a process says that it waits; what follows is the memory that it took and that is left."""
ROOM = 1.5
"""One more process joins where memory for so many of the largest one is free."""


@attrs.frozen
class Entrant:
    """A process that is to take turns.

    Attributes:
        command: what runs; when it was started, by `time.monotonic`, becomes its last argument.
        environment: in addition to this process's.
    """

    command: Sequence[str]
    environment: Mapping[str, str]


# ------------------------------------------------------------------------------------------ who gives the turns


def take_turns(entrants: Sequence[Entrant]) -> list[Ended]:
    """Runs processes to their end that measure in turn: while one does, the others wait.

    They are started one after another, each when the last one is set up. Every other time the turns go the other way
    round, so that a machine that grows slower, or faster, favours none.

    Args:
        entrants: what is to run.

    Returns:
        how each ended; of the first ones alone, two at least, where memory does not hold all at once.

    Raises:
        KeyboardInterrupt: one was interrupted, or this process.
    """
    with _processes() as processes:
        for entrant in entrants:
            processes.append(_Process.start(entrant))
            if len(processes) > 1 and not _has_room(processes):
                break
        order = list(processes)
        while not all(process.ended for process in order):
            for process in order:
                process.give_turn()
            order.reverse()
        return [process.ended for process in processes if process.ended]


@contextmanager
def _processes() -> Iterator[list[_Process]]:
    """A list of processes, none of which outlives the block."""
    processes: list[_Process] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.close()


@attrs.define(eq=False)
class _Process:
    """One that was started.

    Attributes:
        popen, errors, began: the process, what it writes to standard error, and when it was started.
        peak_mb, free_mb: what it said when it last began to wait.
        ended: how it ended; None while it waits for a turn.
    """

    popen: subprocess.Popen[str]
    errors: IO[bytes]
    began: float
    peak_mb: float = 0.0
    free_mb: float = 0.0
    ended: Ended | None = None

    @classmethod
    def start(cls, entrant: Entrant) -> _Process:
        """Starts it, and goes on when it is set up, or has ended."""
        errors, began = tempfile.TemporaryFile(), time.monotonic()  # noqa: SIM115  closed with the process
        popen = subprocess.Popen([*entrant.command, str(began)], env={**os.environ, **entrant.environment}, text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
        process = cls(popen, errors, began)
        process._listen()
        return process

    def give_turn(self) -> None:
        """Has it measure, where it waits for that; goes on when it waits again, or has ended."""
        if self.ended:
            return
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):  # it was killed while it waited
            self.popen.stdin.write("\n")
            self.popen.stdin.flush()
        self._listen()

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        if line.startswith(WAITS):
            self.peak_mb, self.free_mb = json.loads(line.removeprefix(WAITS))
            return
        peak_mb = wait_for(self.popen)  # the next one's turn begins when this one has left, not while it clears up
        require_uninterrupted(self.popen.returncode)
        seconds = time.monotonic() - self.began
        self.ended = Ended(self.popen.returncode, seconds, peak_mb, "", text_of(self.errors))

    def close(self) -> None:
        """Sees it end: one that waits reads from the end of its input that nobody gives turns any more."""
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self.popen.wait()
        self.errors.close()


def _has_room(processes: Sequence[_Process]) -> bool:
    """Whether memory holds one more, by what the one that began to wait last found free: the others have left."""
    waiting = [process for process in processes if not process.ended]
    return not waiting or waiting[-1].free_mb > ROOM * max(process.peak_mb for process in waiting)


# -------------------------------------------------------------------------------------------- who takes the turns


def turns() -> Callable[[float, float], None]:
    """What a process waits for each of its turns with: called with the MiB that it took at most, and those left.

    From here on what the process prints goes to its standard error: on its output it says that it waits.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def wait(peak_mb: float, free_mb: float) -> None:
        print(WAITS + json.dumps([peak_mb, free_mb]), file=out, flush=True)
        if not sys.stdin.readline():
            sys.exit("nobody gives turns any more")

    return wait
