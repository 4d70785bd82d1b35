"""`fw plugins`: what is installed, what is wrong with it, and how to begin one."""

from __future__ import annotations

from importlib import import_module

import click

from framework.cli.app import ListsFirst

MODULES = {"list": "listing", "doctor": "doctor", "new": "new"}


class PluginCommands(ListsFirst):
    """The commands of `fw plugins`, each imported at its first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one name, or None."""
        if cmd_name not in MODULES:
            return None
        command: click.Command = import_module(f"framework.cli.plugins.{MODULES[cmd_name]}").command
        return command


@click.group(cls=PluginCommands, subcommand_metavar="[COMMAND] ...", options_metavar="")
def command() -> None:
    """Installed plugins: what they bring and whether they work; what is wrong with one; a new one to begin with.

    \b
    Example:
      fw plugins
      fw plugins doctor
      fw plugins new my_policy --kind freezing_policy
    """
