"""`fw cache`: the feature store: what it holds, whether it is sound, and what goes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from framework.cli.app import ListsFirst
from framework.cli.common import SIZES, aligned, json_option, print_json, say, size_text

if TYPE_CHECKING:
    from framework.entries import Content, Pruned, Stored

SHORT, SHORTEST = 8, 4
LEFT = "left by a killed process"
AGES = {"h": 3600, "d": 86400, "w": 7 * 86400}


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`5GB` or `500 mb` in bytes. A bare number is refused: it could be meant in any unit."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(B?)", value.strip().upper())
    if match is None or not (match[2] or match[3] or float(match[1]) == 0):
        raise click.BadParameter(f"{value!r} is no size such as 5GB or 500MB", context, parameter)
    return float(match[1]) * SIZES[f"{match[2]}B"]


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`30d` in seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([hdw])", value.strip().lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is no age such as 12h, 30d or 8w", context, parameter)
    return float(match[1]) * AGES[match[2]]


keys_argument = click.argument("keys", metavar="[KEY]...", nargs=-1)


@click.group(cls=ListsFirst, subcommand_metavar="[COMMAND] ...", options_metavar="")
def command() -> None:
    """The feature store: activations of frozen parts, by image, which runs share. All of it can be computed again.

    \b
    Example:
      fw cache
      fw cache verify
      fw cache prune --unused-for 30d
    """


# -------------------------------------------------------------------------------------------------------- list


@command.command("list", short_help="what there is, the last used first; also `fw cache` alone")
@json_option
def list_command(as_json: bool) -> None:
    """List the entries, the last used first. `fw cache` alone does the same.

    "ok" means that the files are whole; `fw cache verify` compares their checksums.

    \b
    Example:
      fw cache list
    """
    from framework.entries import content, store_folder, stored

    store = store_folder()
    entries = [(entry, content(entry.folder)) for entry in stored(store)]
    size = sum(entry.size + entry.scratch for entry, _ in entries)
    if as_json:
        print_json({"folder": str(store), "bytes": size, "entries": [_row(*pair) for pair in entries]})
        return
    for line in _lines(entries):
        click.echo(line)
    click.echo(f"{_counted(len(entries))}, {size_text(size)} in {store}")


def _row(entry: Stored, held: Content) -> dict[str, Any]:
    from datetime import UTC, datetime

    used = datetime.fromtimestamp(entry.last_use, UTC).isoformat(timespec="seconds")
    return {
        "key": entry.key,
        "images": held.images,
        "unreadable": held.unreadable,
        "segments": held.segments,
        "damaged": list(held.damaged),
        "bytes": entry.size + entry.scratch,
        "last_use": None if entry.is_remnant else used,
        "state": _state(entry, held),
        "facts": held.facts,
    }


def _lines(entries: Sequence[tuple[Stored, Content]]) -> Iterator[str]:
    if not entries:
        return
    table = [("key", " images", "   size", "last use", "precision", "transform", "state")]
    table += [
        (entry.key[:SHORT], f"{held.images:>7,}", f"{size_text(entry.size + entry.scratch):>7}", _last_use(entry),
         str(held.facts.get("precision", "-")), _transform(held.facts), _state(entry, held))
        for entry, held in entries
    ]  # fmt: skip
    header, *lines = aligned(table)
    yield header
    for line, (_, held) in zip(lines, entries, strict=True):
        yield line
        yield f"  {_what(held.facts)}"


def _transform(facts: dict[str, Any]) -> str:
    transform = facts.get("transform")
    return str(transform.get("use", "-")) if isinstance(transform, dict) else "-"


def _what(facts: dict[str, Any]) -> str:
    """What the rows are: `torchvision/resnet18 at 64 x 64, the input of the head`, or `decoded images at 64 x 64`."""
    if "backbone" not in facts and "boundary" not in facts:
        return "of what is not known"
    shape = facts["input"].get("size") if isinstance(facts.get("input"), dict) else None
    size = f" at {' x '.join(map(str, shape))}" if isinstance(shape, list) else ""
    boundary = facts.get("boundary", "boundary unknown")
    return f"{facts['backbone']}{size}, {boundary}" if "backbone" in facts else f"{boundary}{size}"


def _state(entry: Stored, held: Content) -> str:
    from framework.entries import FILLED, why_kept

    if held.damaged:
        return f"{len(held.damaged)} of {held.segments} segments damaged"
    if why_kept(entry.folder) == FILLED:
        return "being filled"
    if entry.is_remnant:
        return LEFT
    return "ok, and a half-written file" if entry.scratch else "ok"


def _last_use(entry: Stored) -> str:
    return "-" if entry.is_remnant else age_text(time.time() - entry.last_use)


def age_text(seconds: float) -> str:
    """How long ago: `just now`, `5 minutes ago`, `40 days ago`."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{_counted(minutes, 'minute')} ago"
    hours = minutes // 60
    return f"{_counted(hours, 'hour')} ago" if hours < 48 else f"{_counted(hours // 24, 'day')} ago"


def _counted(count: int, what: str = "entry") -> str:
    many = "entries" if what == "entry" else f"{what}s"
    return f"{count:,} {what if count == 1 else many}"


def _known(entries: Sequence[Stored], keys: Sequence[str]) -> list[Stored]:
    """The entries of keys, which may be shortened.

    Raises:
        FwError: a key is nobody's, or that of several.
    """
    return [_one(entries, key) for key in dict.fromkeys(keys)]


def _one(entries: Sequence[Stored], key: str) -> Stored:
    from framework.errors import FwError, name_hints

    found = [entry for entry in entries if entry.key.startswith(key)] if len(key) >= SHORTEST else []
    if len(found) == 1:
        return found[0]
    if found:
        raise FwError(f"{key!r} begins several keys", f"keys: {', '.join(entry.key for entry in found)}")
    short = [entry.key[:SHORT] for entry in entries]
    raise FwError(f"the feature store has no entry {key!r}", name_hints(key[:SHORT], short, "keys"))


# ------------------------------------------------------------------------------------------------------ verify


@command.command(short_help="compare every segment with its checksum")
@keys_argument
@click.option("--delete-damaged", is_flag=True, help="remove damaged segments")
def verify(keys: tuple[str, ...], delete_damaged: bool) -> None:
    """Read every segment and compare it with its checksum. Damage ends with exit code 3.

    A run checks what it reads too, and computes anew what is damaged or gone.

    \b
    Example:
      fw cache verify --delete-damaged
    """
    from framework.entries import SEGMENT, Damaged, damage, remove_damaged, store_folder, stored

    entries = stored(store_folder())
    chosen = _known(entries, keys) if keys else entries
    read = found = removed = 0
    for entry in chosen:
        segments = sorted(entry.folder.glob(SEGMENT))
        reasons = {file: reason for file in segments if (reason := damage(file))}
        state = f"{len(reasons)} of {_counted(len(segments), 'segment')} damaged" if reasons else "ok"
        click.echo(f"{entry.key[:SHORT]}  {size_text(entry.size):>7}  {state}")
        for reason in reasons.values():
            click.echo(f"  {reason}")
        read += len(segments)
        found += len(reasons)
        if reasons and delete_damaged:
            removed += _deleted(entry, remove_damaged(entry.folder, reasons), len(reasons))
    if not found:
        click.echo(f"{_counted(len(chosen))}, {_counted(read, 'segment')}: no damage")
        return
    raise Damaged(_verdict(found, read, removed), _remedy(found, removed))


def _deleted(entry: Stored, reason: str, count: int) -> int:
    if reason:
        say(f"kept the damaged segments of {entry.key[:SHORT]}: {reason}")
        return 0
    return count


def _verdict(found: int, read: int, removed: int) -> str:
    verb = "is" if found == 1 else "are"
    tail = "" if not removed else "; removed" if removed == found else f"; {removed} removed"
    return f"{found} of {_counted(read, 'segment')} {verb} damaged{tail}"


def _remedy(found: int, removed: int) -> str:
    if removed == found:
        return "the next run that needs their images computes them anew"
    return "a run computes their images anew by itself; fw cache verify --delete-damaged removes them now"


# ------------------------------------------------------------------------------------------------------- prune


@command.command(short_help="remove entries, e.g. the least recently used")
@keys_argument
@click.option(
    "--to", "limit", metavar="SIZE", callback=_bytes, help="the least recently used, down to SIZE: 5GB, 500MB"
)
@click.option("--unused-for", "age", metavar="AGE", callback=_seconds, help="those unused for AGE: 12h, 30d, 8w")
@click.option("--all", "everything", is_flag=True, help="all of them")
@click.option("--dry-run", is_flag=True, help="say what would go, and remove nothing")
def prune(keys: tuple[str, ...], limit: float | None, age: float | None, everything: bool, dry_run: bool) -> None:
    """Remove entries: those named, and those that an option chooses; several options add up.

    What killed processes left goes too. An entry that another process fills stays. Runs prune by themselves, down to
    engine.cache_gb.

    \b
    Example:
      fw cache prune --to 5GB --unused-for 30d
    """
    if not (keys or everything) and limit is None and age is None:
        from framework.errors import FwError

        raise FwError("nothing says what to remove", "name keys, or use --to 5GB, --unused-for 30d or --all")
    from framework.entries import discard, facts_of, remove_entry, store_folder, stored, why_kept

    entries = stored(store_folder())
    named, before = _known(entries, keys), time.time() - (age if age is not None else float("inf"))
    asked = [entry for entry in entries if everything or entry in named or 0 < entry.last_use < before]
    wanted = [entry for entry in entries if entry in asked or entry.is_remnant]
    words = {entry.key: _what(facts_of(entry.folder)) for entry in entries}
    aim = float("inf") if limit is None else limit
    done = discard(entries, wanted, aim, why_kept if dry_run else remove_entry)
    gone = {entry.key for entry in done.removed}
    freed = sum(entry.size + entry.scratch for entry in done.removed)
    freed += _clean([entry for entry in entries if entry.key not in gone], dry_run)
    _report(done, words, freed, dry_run)
    _require_reached(done, asked, aim, dry_run)


def _clean(entries: Sequence[Stored], dry_run: bool) -> int:
    """Removes what killed processes left half-written in entries that stay; gives the bytes."""
    from framework.entries import remove_half_written, why_kept

    freed = 0
    for entry in entries:
        if entry.scratch and not (why_kept if dry_run else remove_half_written)(entry.folder):
            click.echo(f"{_removed(dry_run)} a half-written file of {entry.key[:SHORT]}: {size_text(entry.scratch)}")
            freed += entry.scratch
    return freed


def _removed(dry_run: bool) -> str:
    return "would remove" if dry_run else "removed"


def _report(done: Pruned, words: Mapping[str, str], freed: int, dry_run: bool) -> None:
    for entry in done.removed:
        used = LEFT if entry.is_remnant else f"last used {_last_use(entry)}"
        click.echo(f"{_removed(dry_run)} {entry.key[:SHORT]}: {size_text(entry.size)}, {used}, {words[entry.key]}")
    for entry, reason in done.kept:
        say(f"kept {entry.key[:SHORT]}: {reason}")
    count, left = len(done.removed), len(words) - len(done.removed)
    would, stay = ("would be ", "would be left") if dry_run else ("", "left")
    gone = f"{_counted(count)} {would}removed, {size_text(freed)} freed"
    click.echo(f"{gone}; {_counted(left)} {stay}, {size_text(done.left)}")


def _require_reached(done: Pruned, asked: Sequence[Stored], aim: float, dry_run: bool) -> None:
    """
    Raises:
        FwError: what was asked for could not be done.
    """
    stayed = [entry for entry, _ in done.kept if entry in asked]
    if dry_run or not (stayed or done.left > aim):
        return
    from framework.entries import FILLED
    from framework.errors import FwError

    filled = any(reason == FILLED for _, reason in done.kept)
    hint = "prune again when the run that fills it has ended" if filled else ""
    raise FwError(f"{_counted(len(done.kept))} could not be removed", hint)
