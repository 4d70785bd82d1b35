"""`fw cache`: what it lists, what damage it finds, what it removes and what it keeps; the entries are real ones."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch

from framework.cli.cache import age_text, command, size_text
from framework.entries import lock_of, prune
from framework.features import DiskEntry

DAY = 86400
OLD, MIDDLE, NEW = (digit * 32 for digit in "abc")
ROW = 4 * 1000
FACTS = {
    "backbone": "torchvision/resnet18",
    "boundary": "the input of the head",
    "transform": {"use": "center_crop", "resize": 0},
    "input": {"size": [64, 48]},
    "precision": "fp32",
}

HOLD = """
import sys, time
from pathlib import Path
from framework.features import DiskEntry
with DiskEntry(Path(sys.argv[1]), {}).filling(lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of this test's own."""
    monkeypatch.setenv("FW_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def filled(store: Path) -> Path:
    """Three entries of 20 KB and a little, used 40 days, 3 days and an hour ago."""
    for key, days in ((OLD, 40), (MIDDLE, 3), (NEW, 1 / 24)):
        fill(store / key, days)
    return store


def fill(folder: Path, days: float) -> None:
    """An entry with 5 images in two segments, and one that could not be read."""
    entry = DiskEntry(folder, FACTS)
    with entry.filling(lambda: None):
        entry.append(["0", "1", "2"], (torch.randn(3, ROW // 4),), {})
        entry.append(["3", "4"], (torch.randn(2, ROW // 4),), {"5": "cut short"})
    let_age(folder, days)


def let_age(folder: Path, days: float) -> None:
    used = time.time() - days * DAY
    os.utime(folder / "entry.json", (used, used))


@pytest.fixture
def hold() -> Iterator[Callable[[Path], None]]:
    """`hold(folder)`: a second process fills the entry until the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> None:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def keys(store: Path) -> set[str]:
    return {folder.name for folder in store.iterdir() if folder.is_dir()}


# -------------------------------------------------------------------------------------------------------- list


def test_an_empty_store(cli, store: Path) -> None:
    for arguments in (["cache"], ["cache", "list"]):
        result = cli(*arguments)
        assert (result.code, result.out, result.err) == (0, f"0 entries, 0 B in {store}\n", "")
    assert json.loads(cli("cache", "--json").out) == {"folder": str(store), "bytes": 0, "entries": []}
    assert cli("cache", "verify").out == "0 entries, 0 segments: no damage\n"
    assert cli("cache", "prune", "--all").code == 0
    assert not store.exists()


def test_the_table_has_two_lines_an_entry_the_last_used_first(cli, filled: Path) -> None:
    lines = cli("cache").out.splitlines()
    assert lines[0] == "key        images     size  last use     precision  transform    state"
    assert lines[1] == "cccccccc        5    21 KB  1 hour ago   fp32       center_crop  ok"
    assert lines[2] == "  torchvision/resnet18 at 64 x 48, the input of the head"
    assert [line.split()[0] for line in lines[1:7:2]] == [key[:8] for key in (NEW, MIDDLE, OLD)]
    assert "  3 days ago   " in lines[3]
    assert lines[7:] == [f"3 entries, 62 KB in {filled}"]
    assert max(map(len, lines[:7])) <= 80


def test_json_has_what_the_table_has_and_every_fact(cli, filled: Path) -> None:
    listed = json.loads(cli("cache", "list", "--json").out)
    assert listed == json.loads(cli("cache", "--json").out)
    row = listed["entries"][0]
    told = (row["key"], row["images"], row["unreadable"], row["segments"], row["damaged"], row["state"])
    assert told == (NEW, 5, 1, 2, [], "ok")
    assert row["facts"] == FACTS
    assert row["bytes"] == sum(file.stat().st_size for file in (filled / NEW).iterdir())
    assert listed["bytes"] == sum(row["bytes"] for row in listed["entries"])


def test_decoded_images_are_called_what_they_are(cli, filled: Path) -> None:
    facts = {"boundary": "decoded images", "transform": FACTS["transform"], "input": FACTS["input"]}
    (filled / OLD / "entry.json").write_text(json.dumps(facts))
    assert "  decoded images at 64 x 48\n" in cli("cache").out


def test_states(cli, filled: Path, hold) -> None:
    cut(filled / OLD / "000001.safetensors")
    (filled / MIDDLE / "entry.json").unlink()
    (filled / NEW / ".000002.safetensors.abcdefgh").write_bytes(b"half")
    fill(filled / ("d" * 32), days=1)
    hold(filled / ("d" * 32))
    states = {row["key"][0]: (row["state"], row["images"]) for row in json.loads(cli("cache", "--json").out)["entries"]}
    assert states == {
        "a": ("1 of 2 segments damaged", 3),
        "b": ("left by a killed process", 5),
        "c": ("ok, and a half-written file", 5),
        "d": ("being filled", 5),
    }
    assert cli("cache").code == 0


def test_whatever_lies_in_an_entry_it_is_listed(cli, filled: Path) -> None:
    (filled / OLD / "entry.json").write_text("[1")
    (filled / MIDDLE / "entry.json").write_text('{"backbone": 1, "transform": 2, "input": {"size": 3}}')
    (filled / NEW / "000000.safetensors").write_bytes(b"")
    result = cli("cache")
    assert result.code == 0
    assert "  of what is not known\n" in result.out
    assert "1 of 2 segments damaged" in result.out


def test_listing_needs_no_torch(filled: Path, tmp_path: Path) -> None:
    code = "import sys; from framework.cli import main; main(['cache']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "3 entries" in done.stdout
    assert {"torch", "cattrs", "rich"} & set(done.stdout.split()) == set()


def test_listing_and_verifying_is_no_use_of_an_entry(cli, filled: Path) -> None:
    before = (filled / OLD / "entry.json").stat().st_mtime
    cli("cache")
    cli("cache", "verify")
    assert (filled / OLD / "entry.json").stat().st_mtime == before


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (9949, "9.9 KB"), (9950, "10 KB"), (999_600, "1.0 MB"),
     (1.25e9, "1.2 GB"), (5e15, "5000 TB")],
)  # fmt: skip
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "just now"), (59, "just now"), (60, "1 minute ago"), (3599, "59 minutes ago"), (3600, "1 hour ago"),
     (47.9 * 3600, "47 hours ago"), (2 * DAY, "2 days ago"), (400 * DAY, "400 days ago")],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


# ------------------------------------------------------------------------------------------------------ verify


def test_a_sound_store(cli, filled: Path) -> None:
    result = cli("cache", "verify")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "3 entries, 6 segments: no damage"
    assert cli("cache", "verify", "aaaa", "bbbb").out.splitlines()[-1] == "2 entries, 4 segments: no damage"


@pytest.mark.parametrize("harm", [flip, cut, lambda file: file.write_bytes(b"")], ids=["flipped", "cut", "emptied"])
def test_damage_is_found_and_removed_on_demand(cli, filled: Path, harm) -> None:
    harmed = filled / MIDDLE / "000001.safetensors"
    harm(harmed)
    result = cli("cache", "verify")
    assert result.code == 3
    assert [line.split()[0] for line in result.out.splitlines() if "1 of 2 segments damaged" in line] == ["bbbbbbbb"]
    assert f"  {harmed} is damaged: " in result.out
    assert result.err.startswith("error: 1 of 6 segments is damaged\n  help: ")
    assert harmed.exists()
    assert cli("cache", "verify", OLD, NEW).code == 0

    removing = cli("cache", "verify", "--delete-damaged")
    assert removing.code == 3
    assert removing.err.startswith("error: 1 of 6 segments is damaged; removed\n")
    assert not harmed.exists()
    assert cli("cache", "verify").code == 0
    entry = DiskEntry(filled / MIDDLE, FACTS)
    assert (set(entry.place), entry.damaged) == ({"0", "1", "2"}, {})


def test_damage_in_an_entry_that_is_being_filled_stays(cli, filled: Path, hold) -> None:
    hold(filled / OLD)
    for key in (OLD, NEW):
        flip(filled / key / "000000.safetensors")
    result = cli("cache", "verify", "--delete-damaged")
    assert result.code == 3
    assert "kept the damaged segments of aaaaaaaa: another process fills it\n" in result.err
    assert "error: 2 of 6 segments are damaged; 1 removed\n" in result.err
    assert (filled / OLD / "000000.safetensors").exists()
    assert not (filled / NEW / "000000.safetensors").exists()


# ------------------------------------------------------------------------------------------------------- prune


@pytest.mark.parametrize(("size", "left"), [("1GB", "abc"), ("50KB", "bc"), ("0.03 mb", "c"), ("0", "")])
def test_down_to_a_size_the_most_recent_stay(cli, filled: Path, size: str, left: str) -> None:
    result = cli("cache", "prune", "--to", size)
    assert (result.code, result.err) == (0, "")
    assert keys(filled) == {digit * 32 for digit in left}
    assert len([line for line in result.out.splitlines() if line.startswith("removed ")]) == 3 - len(left)


def test_what_a_run_used_since_stays_longest(cli, filled: Path) -> None:
    DiskEntry(filled / OLD, FACTS)
    assert cli("cache", "prune", "--to", "30KB").code == 0
    assert keys(filled) == {OLD}


def test_by_age_by_key_and_both_with_a_size(cli, filled: Path) -> None:
    assert cli("cache", "prune", "--unused-for", "8w").code == 0
    assert len(keys(filled)) == 3
    result = cli("cache", "prune", "--unused-for", "30d")
    assert keys(filled) == {MIDDLE, NEW}
    assert result.out.splitlines() == [
        "removed aaaaaaaa: 21 KB, last used 40 days ago, torchvision/resnet18 at 64 x 48, the input of the head",
        "1 entry removed, 21 KB freed; 2 entries left, 41 KB",
    ]
    fill(filled / OLD, days=40)
    cli("cache", "prune", "cccc", "--to", "25KB")
    assert keys(filled) == {MIDDLE}
    cli("cache", "prune", "--all")
    assert keys(filled) == set()


def test_a_dry_run_says_the_same_and_removes_nothing(cli, filled: Path) -> None:
    (filled / NEW / ".000002.safetensors.abcdefgh").write_bytes(bytes(5000))
    before = sorted(filled.rglob("*"))
    dry = cli("cache", "prune", "--to", "50KB", "--dry-run")
    assert dry.code == 0
    assert sorted(filled.rglob("*")) == before
    real = cli("cache", "prune", "--to", "50KB")
    assert keys(filled) == {MIDDLE, NEW}
    assert dry.out.replace("would remove", "removed").replace("would be ", "") == real.out


def test_an_entry_that_another_process_fills_stays(cli, filled: Path, hold) -> None:
    (filled / OLD / ".000002.safetensors.abcdefgh").write_bytes(b"half")
    hold(filled / OLD)
    (filled / OLD / ".000003.safetensors.abcdefgh").write_bytes(b"half")
    let_age(filled / OLD, days=40)
    result = cli("cache", "prune", "--to", "25KB")
    assert keys(filled) == {OLD}
    assert (filled / OLD / ".000003.safetensors.abcdefgh").exists()
    assert result.code == 0  # the others were enough
    assert result.err == "kept aaaaaaaa: another process fills it\n"
    dry = cli("cache", "prune", "aaaa", "--dry-run")
    assert (dry.code, dry.err) == (0, "kept aaaaaaaa: another process fills it\n")
    for arguments in (["aaaa"], ["--all"], ["--to", "0"], ["--unused-for", "30d"]):
        result = cli("cache", "prune", *arguments)
        assert result.code == 2
        assert "error: 1 entry could not be removed\n  help: prune again when" in result.err
    assert len(list((filled / OLD).glob("*.safetensors"))) == 2


def test_what_killed_processes_left_goes_with_any_pruning(cli, filled: Path) -> None:
    (filled / OLD / "entry.json").unlink()
    scratch = filled / NEW / ".000002.safetensors.abcdefgh"
    scratch.write_bytes(bytes(5000))
    result = cli("cache", "prune", "--to", "1TB")
    assert result.code == 0
    assert keys(filled) == {MIDDLE, NEW}
    assert not scratch.exists()
    assert "removed a half-written file of cccccccc: 5.0 KB\n" in result.out
    assert "removed aaaaaaaa: 21 KB, left by a killed process, of what is not known\n" in result.out


def test_an_entry_that_another_process_begins_is_no_leftover(cli, filled: Path, hold) -> None:
    (filled / OLD / "entry.json").unlink()
    hold(filled / OLD)
    result = cli("cache", "prune", "--to", "1TB", "--unused-for", "8w")
    assert (result.code, len(keys(filled))) == (0, 3)


def test_what_is_no_entry_is_left_alone(cli, filled: Path) -> None:
    """FW_CACHE_DIR may be a folder in which `features` is somebody else's."""
    (filled / "mine").mkdir()
    (filled / "mine" / "entry.json").write_text("{}")
    (filled / ("e" * 32)).write_text("a file")
    assert cli("cache", "prune", "--all").code == 0
    assert keys(filled) == {"mine"}
    assert (filled / ("e" * 32)).exists()


def test_locks_stay_and_a_pruned_entry_can_be_filled_again(cli, filled: Path) -> None:
    running = DiskEntry(filled / OLD, FACTS)
    rows = running.rows(["0", "4"])[0].clone()
    cli("cache", "prune", "--all")
    assert lock_of(filled / OLD).lock_file in map(str, filled.iterdir())
    assert torch.equal(running.rows(["0", "4"])[0], rows)  # what a run has mapped stays readable
    with running.filling(lambda: None):
        running.append(["6"], (torch.zeros(1, ROW // 4),), {})
    assert set(DiskEntry(filled / OLD, FACTS).place) == {"6"}
    assert json.loads(cli("cache", "--json").out)["entries"][0]["state"] == "ok"


def test_a_run_prunes_the_same_way_and_keeps_what_it_uses(filled: Path, hold) -> None:
    hold(filled / MIDDLE)
    assert prune(filled, 10**9) == []
    assert prune(filled, 0, in_use=[filled / OLD]) == [filled / NEW]
    assert keys(filled) == {OLD, MIDDLE}


def test_a_store_of_somebody_else_is_no_bug(cli, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    result = cli("cache", "prune", "aaaa")
    assert result.code == 2
    assert result.err == "kept aaaaaaaa: Permission denied\nerror: 1 entry could not be removed\n"


# ------------------------------------------------------------------------------------------------------- typos

WRONG = {
    "cache_unknown_key": "cache verify aabc",
    "cache_unknown_command": "cache prun --all",
    "cache_key_of_several": "cache prune aaaa",
    "cache_nothing_to_prune": "cache prune --dry-run",
    "cache_size_without_unit": "cache prune --to 5",
    "cache_age_without_unit": "cache prune --unused-for 30",
    "cache_wrong_option": "cache --jsn",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_clear_message_and_removes_nothing(name: str, cli, filled: Path, snapshot) -> None:
    if name == "cache_key_of_several":
        fill(filled / ("aaaa" + "0" * 28), days=1)
    before = keys(filled)
    result = cli(*WRONG[name].split())
    assert (result.code, result.out) == (2, "")
    assert keys(filled) == before
    snapshot(name, f"$ fw {WRONG[name]}\n{result.err}")


def test_a_key_of_fewer_than_four_digits_is_refused(cli, filled: Path) -> None:
    assert cli("cache", "prune", "aaa").code == 2
    assert cli("cache", "prune", "").code == 2
    assert cli("cache", "prune", "aaaa", "oops").code == 2
    assert len(keys(filled)) == 3


def test_each_command_has_a_short_help_whose_example_can_be_parsed(cli) -> None:
    assert isinstance(command, click.Group)
    overview = cli("cache", "--help").out
    for name, part in command.commands.items():
        result = cli("cache", name, "--help")
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= 100
        examples = [line.strip() for line in (part.help or "").splitlines() if line.strip().startswith("fw cache")]
        assert examples
        for example in examples:
            words = shlex.split(example)
            assert words[:3] == ["fw", "cache", name]
            part.make_context(name, words[3:])
        [line] = [line for line in overview.splitlines() if line.startswith(f"  {name} ")]
        assert not line.endswith("...")
