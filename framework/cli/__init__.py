"""The command line: `main` is the script `fw`; each command is a module of its name."""

from framework.cli.entry import main as main
