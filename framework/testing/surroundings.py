"""Surroundings: what checks close while a plugin's code runs, or put back after it: the network, torch's settings."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

SETTINGS: dict[str, tuple[Any, Any]] = {
    "torch.get_default_dtype()": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.is_grad_enabled()": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.get_num_threads()": (torch.get_num_threads, torch.set_num_threads),
    "torch.are_deterministic_algorithms_enabled()": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}
"""Name -> what gives and what sets a setting of torch that outlasts a call."""


@contextmanager
def settings_put_back() -> Iterator[list[str]]:
    """Puts torch's settings back at the end; the list then names those that had changed."""
    before = {name: get() for name, (get, _) in SETTINGS.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (get, put) in SETTINGS.items():
            if get() != before[name]:
                changed.append(name)
                put(before[name])


@contextmanager
def closed_network() -> Iterator[list[str]]:
    """Nothing can be reached over the network; the list names what was asked for. Sockets that are files stay open."""
    asked: list[str] = []
    connect = socket.socket.connect

    def look_up(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "the network is closed while a check runs")

    def refuse(own: socket.socket, address: Any) -> None:
        if not isinstance(address, tuple):  # a file
            connect(own, address)
            return
        asked.append(str(address[0]))
        raise OSError(errno.ENETUNREACH, "the network is closed while a check runs")

    with mock.patch.object(socket, "getaddrinfo", look_up), mock.patch.object(socket.socket, "connect", refuse):
        yield asked
