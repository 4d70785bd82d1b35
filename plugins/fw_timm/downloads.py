"""timm's pretrained files: from the local cache where they are, else downloaded with a time-out and no retries."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import framework as fw

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def fetch(settings: Any, timeout: float) -> Path:
    """The local file of a model's pretrained weights.

    Args:
        settings: timm's `PretrainedCfg`, which names a Hub repository or a URL.
        timeout: seconds that the network may be silent.

    Raises:
        WeightsUnavailable: it is not here and cannot be downloaded.
    """
    place = settings.hf_hub_id or settings.url
    if not place:
        raise fw.WeightsUnavailable(f"timm publishes no file for {settings.architecture}")
    try:
        with contextlib.redirect_stdout(sys.stderr), _silence_allowed(timeout):
            return _from_hub(settings, timeout) if settings.hf_hub_id else _from_url(settings.url)
    except fw.WeightsUnavailable:
        raise
    except Exception as error:  # each transport has its own family of errors
        raise fw.WeightsUnavailable(f"cannot download {place}: {_reason(error, timeout)}") from error


def _from_hub(settings: Any, timeout: float) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    repository, _, revision = settings.hf_hub_id.partition("@")
    at: dict[str, Any] = {"revision": revision or None}
    names = (settings.hf_hub_filename,) if settings.hf_hub_filename else _HUB_FILES
    for name in names:
        cached = try_to_load_from_cache(repository, name, **at)
        if isinstance(cached, str):
            return Path(cached)
    for name in names:
        # One question without retries first: hf_hub_download asks six times per file while the network is down.
        try:
            get_hf_file_metadata(hf_hub_url(repository, name, **at), timeout=timeout)
        except EntryNotFoundError:
            continue
        return Path(hf_hub_download(repository, name, etag_timeout=timeout, **at))
    raise fw.WeightsUnavailable(f"the repository {repository} holds none of {', '.join(names)}")


def _from_url(url: str) -> Path:
    from timm.models._hub import download_cached_file

    return Path(download_cached_file(url, check_hash=True, progress=True))


@contextlib.contextmanager
def _silence_allowed(timeout: float) -> Iterator[None]:
    """Sets the time-outs of both transports for a while."""
    from huggingface_hub import constants

    before = socket.getdefaulttimeout(), constants.HF_HUB_DOWNLOAD_TIMEOUT
    socket.setdefaulttimeout(timeout)
    constants.HF_HUB_DOWNLOAD_TIMEOUT = math.ceil(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before[0])
        constants.HF_HUB_DOWNLOAD_TIMEOUT = before[1]


def _reason(error: BaseException, timeout: float) -> str:
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
        return f"no answer within {timeout:g} s"
    return str(cause).strip().partition("\n")[0] or type(cause).__name__
