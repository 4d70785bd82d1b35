"""Entry: every way in which a command can end, as an exit code and one clear text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from framework.collector import ease_collector

if TYPE_CHECKING:
    import click

INTERRUPTED = 130
BROKEN_PIPE = 141
BUG = "this is a bug in fw-transfer or in a plugin: please report the text above with the recipe"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: what stands after `fw`; the process's own if absent.

    Returns:
        the exit code: 0 done; 2 the user can mend it; 3 an audit failed; 130 or 143 interrupted; 1 a bug.
    """
    ease_collector()
    from framework.cli.app import app

    if "_FW_COMPLETE" in os.environ:
        app.main(prog_name="fw")
    try:
        return _ended(app, list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _failed(error)


def _ended(app: click.Command, arguments: list[str]) -> int:
    import click

    try:
        with app.make_context("fw", arguments) as context:
            app.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as ended:
        sys.stdout.flush()
        return ended.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        print(_usage(error), file=sys.stderr)
        return 2


def _usage(error: click.ClickException) -> str:
    said = error.format_message().strip().rstrip(".")
    text = f"error: {said[:1].lower()}{said[1:]}"
    context = getattr(error, "ctx", None)
    if context is None:
        return text
    usage = context.get_usage().removeprefix("Usage: ")
    return f"{text}\n  help: {usage}\n  help: {context.command_path} --help says more"


def _failed(error: Exception) -> int:
    import traceback

    from framework.errors import FwError

    if isinstance(error, FwError):
        print(error.render(), file=sys.stderr)
        return error.exit_code
    traceback.print_exception(error)
    print(BUG, file=sys.stderr)
    return 1
