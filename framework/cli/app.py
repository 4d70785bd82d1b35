"""App: the commands by name, each imported only when it is used."""

from __future__ import annotations

from importlib import import_module

import click

import framework

COMMANDS = {
    "Train": {
        "run": "train a recipe, start to summary",
        "resume": "go on with a stopped run, bit for bit",
        "bench": "compare policies: accuracy, time, memory",
        "compare": "what became slower or larger between two studies",
    },
    "Use a run": {
        "eval": "score its model again, here or on other data",
        "predict": "classes and probabilities for images",
        "merge": "the whole model of a run that kept what moved",
    },
    "Recipes": {
        "validate": "check a recipe without running it",
        "show": "a component's keys, or a recipe with every default",
        "cp": "start a recipe of your own from a shipped one",
        "schema": "a JSON Schema of recipes, for your editor",
    },
    "What there is": {
        "list": "registries, their components, shipped recipes",
        "plugins": "what is installed, what is wrong; begin one",
        "cache": "stored features: list, verify, prune",
    },
}
NAMES = [name for commands in COMMANDS.values() for name in commands]


class Commands(click.Group):
    """A group in which an unknown command is an error with near names."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name."""
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-"):
            from framework.errors import FwError, did_you_mean

            said = " ".join([*ctx.command_path.split()[1:], name])
            raise FwError(f"there is no command {said!r}", did_you_mean(name, names) or f"commands: {', '.join(names)}")
        return super().resolve_command(ctx, args)


class ListsFirst(Commands):
    """A group of which, without a command, `list` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options that come before any command are those of `list`."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


class App(Commands):
    """A group whose commands live in modules of their names, imported at first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return NAMES

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one name, or None."""
        if cmd_name not in NAMES:
            return None
        command: click.Command = import_module(f"framework.cli.{cmd_name}").command
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in groups, from the table above, so that none is imported for it; then the options."""
        options = [record for parameter in self.get_params(ctx) if (record := parameter.get_help_record(ctx))]
        for section, rows in [*((title, list(rows.items())) for title, rows in COMMANDS.items()), ("Options", options)]:
            with formatter.section(section):
                formatter.write_dl([(name.ljust(10), words) for name, words in rows])


@click.command(
    cls=App,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    add_help_option=False,
    options_metavar="",
    subcommand_metavar="COMMAND ...",
    epilog="""\b
A RECIPE is a path or a shipped name. Begin with
  fw run resnet18_frozen
""",
)
@click.version_option(framework.__version__, message="fw-transfer %(version)s", help="print the version")
@click.help_option("-h", "--help", help="print this; `fw COMMAND --help` says more")
@click.pass_context
def app(context: click.Context) -> None:
    """How much of a pretrained vision backbone should move, and what does it cost?"""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
