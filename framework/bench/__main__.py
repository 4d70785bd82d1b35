"""Main: what `fw bench` starts in processes of their own: `python -m framework.bench worker|probe ARGUMENTS`."""

import sys
from importlib import import_module

from framework.collector import ease_collector

if __name__ == "__main__":
    ease_collector()
    sys.exit(import_module(f"framework.bench.{sys.argv[1]}").main(*sys.argv[2:]))
