"""Turns: real processes that write down when they measure."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from framework.bench.turns import Entrant, take_turns

BEGIN = """
import atexit, os, signal, sys, time
from framework.bench.turns import turns
wait, name, log = turns(), sys.argv[1], open("log", "a")
def say(text):
    print(text, file=log, flush=True)
"""
MEASURES = """
say(f"{name} is set up")
for _ in range(3):
    wait(100.0, 1000.0)
    say(f"{name} begins")
    time.sleep(0.02)
    say(f"{name} ends")
"""


@pytest.fixture
def entrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`entrant("a", CODE)`: a process of that name; all write into one log."""
    monkeypatch.chdir(tmp_path)

    def made(name: str, code: str = MEASURES) -> Entrant:
        return Entrant([sys.executable, "-c", BEGIN + textwrap.dedent(code), name],
                       {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)})  # fmt: skip

    return made


def log() -> list[str]:
    return Path("log").read_text().splitlines()


def test_one_measures_while_the_others_wait_and_every_other_time_the_other_way_round(entrant) -> None:
    ended = take_turns([entrant(name) for name in "abc"])
    assert [one.reason for one in ended] == [""] * 3
    assert all(one.seconds > 0 and one.peak_mb > 1 for one in ended)
    assert log()[:3] == ["a is set up", "b is set up", "c is set up"]
    measured = log()[3:]
    assert measured[::2] == [f"{name} begins" for name in "abccbaabc"]
    assert measured[1::2] == [f"{name} ends" for name in "abccbaabc"]


def test_it_is_nobodys_turn_while_one_clears_up(entrant) -> None:
    """What a process does after its last turn, such as giving back its memory, takes the machine, too."""
    slow = """
    atexit.register(lambda: (say(f"{name} clears up"), time.sleep(0.3), say(f"{name} leaves")))
    wait(100.0, 1000.0)
    del wait
    """
    take_turns([entrant("a", slow), entrant("b")])
    assert log()[1:3] == ["a clears up", "a leaves"]
    assert log()[3:] == ["b begins", "b ends"] * 3


def test_one_that_fails_is_killed_or_prints_stops_no_other(entrant) -> None:
    fails = "wait(1.0, 1000.0)\nraise MemoryError('no more')"
    killed = "wait(1.0, 1000.0)\nwait(1.0, 1000.0)\nos.kill(os.getpid(), signal.SIGKILL)"
    prints = "print('waits for nobody')\nos.system('echo waits [1, 2]')\n" + MEASURES
    never = "sys.exit('error: nothing to measure')"
    ended = take_turns([entrant("a", fails), entrant("b"), entrant("c", killed), entrant("d", prints),
                        entrant("e", never)])  # fmt: skip
    assert [one.reason for one in ended] == [
        "MemoryError: no more", "", "killed by the system (signal 9), as where memory runs out", "",
        "nothing to measure",
    ]  # fmt: skip
    assert [line for line in log() if line.endswith("ends")] == [f"{name} ends" for name in "bddbbd"]


@pytest.mark.parametrize(("peak", "free", "started"), [(100, 1000, 4), (100, 151, 4), (100, 149, 2), (5000, 1, 2)])
def test_no_more_start_than_memory_holds_but_two(entrant, peak: float, free: float, started: int) -> None:
    ended = take_turns([entrant(name, f"wait({peak}, {free})") for name in "abcd"])
    assert len(ended) == started


def test_the_largest_one_so_far_says_how_much_room_the_next_one_needs(entrant) -> None:
    ended = take_turns([entrant("a", "wait(900.0, 1000.0)"), entrant("b", "wait(10.0, 1000.0)"), entrant("c", "1")])
    assert len(ended) == 2


def test_one_that_failed_leaves_its_room_to_the_others(entrant) -> None:
    ended = take_turns(
        [entrant("a", "wait(100.0, 1000.0)"), entrant("b", "sys.exit(1)"), entrant("c", "1"), entrant("d")]
    )
    assert [one.code for one in ended] == [0, 1, 0, 0]


def test_an_interruption_is_no_result_and_leaves_no_process(entrant) -> None:
    stopped = "wait(1.0, 1000.0)\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(60)"
    waits = "say(os.getpid())\nwait(1.0, 1000.0)\nwait(1.0, 1000.0)\nsay('went on')"
    with pytest.raises(KeyboardInterrupt):
        take_turns([entrant("a", waits), entrant("b", stopped), entrant("c", waits)])
    processes = [int(line) for line in log() if line.isdigit()]
    assert len(processes) == 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert "went on" not in log()


def test_a_process_whose_study_was_killed_ends_by_itself(entrant, tmp_path: Path) -> None:
    import subprocess

    waits = entrant("a", "say(os.getpid())\nwait(1.0, 1000.0)\nsay('went on')")
    study = "import sys; from framework.bench.turns import Entrant, take_turns\n" \
            "print('x', flush=True); take_turns([Entrant(sys.argv[1:], {}), Entrant([sys.executable, '-c', " \
            "'import time; time.sleep(3)'], {})])"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", study, *waits.command], env={**os.environ, **waits.environment})
    _until(lambda: Path("log").exists() and any(line.isdigit() for line in log()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    pid = next(int(line) for line in log() if line.isdigit())
    _until(lambda: not Path(f"/proc/{pid}").exists() if Path("/proc").exists() else True)
    assert "went on" not in log()


def _until(happened) -> None:
    for _ in range(500):
        if happened():
            return
        time.sleep(0.02)
    pytest.fail("it never happened")
