"""Downloads through torch.hub: with a time-out, progress on standard error, and one clause when they fail."""

from __future__ import annotations

import contextlib
import http.client
import pickle
import socket
import sys
import urllib.error
from collections.abc import Iterator

import framework as fw


@contextlib.contextmanager
def downloading(url: str, timeout: float) -> Iterator[None]:
    """Turns what goes wrong inside, while weights come from `url` or its cached file, into `WeightsUnavailable`.

    Args:
        timeout: seconds that the network may be silent.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (OSError, http.client.HTTPException) as error:
        if not url:
            raise
        raise fw.WeightsUnavailable(f"cannot download {url}: {_reason(error, timeout)}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if not url:
            raise
        raise fw.WeightsUnavailable(f"the file downloaded from {url} is not good: {_first_line(error)}") from error
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException, timeout: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    return getattr(cause, "strerror", None) or _first_line(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
