"""Checkpoints at an address: downloaded once, into torch.hub's folder, whole or not at all."""

from __future__ import annotations

import hashlib
import sys
import urllib.error
import urllib.parse
from pathlib import Path

import torch

from stvit.errors import UserError

SCHEMES = ("http", "https", "file")


def is_url(source: str) -> bool:
    """Whether a source is an address rather than a path."""
    return source.partition("://")[0].lower() in SCHEMES and "://" in source


def cached_file(url: str) -> Path:
    """Where the file of an address is kept: in a folder of its own, since many files are called latest.pth."""
    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name:
        raise UserError(f"{url} names no file: give the address of the checkpoint itself")
    return Path(torch.hub.get_dir()) / "checkpoints" / "stvit" / hashlib.sha256(url.encode()).hexdigest()[:12] / name


def fetch(url: str, sha256: str | None = None) -> Path:
    """The local copy of an address, downloaded if it is not there yet.

    Args:
        url: http, https or file.
        sha256: the digest that the file must have when it arrives, or the first digits of it.

    Raises:
        UserError: there is no such file at the address, or it is another file than the digest says.
        OSError: the network or the disk failed.
    """
    path = cached_file(url)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"or save the file as {path}"
    try:  # writes beside the target and renames when complete
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=sys.stderr.isatty())
    except urllib.error.HTTPError as error:
        if 400 <= error.code < 500:
            raise UserError(
                f"{url} cannot be downloaded ({error.code} {error.reason}): check the address, {by_hand}"
            ) from error
        raise OSError(
            f"{url} cannot be downloaded ({error.code} {error.reason}): try again later, {by_hand}"
        ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, FileNotFoundError):
            raise UserError(f"there is no checkpoint {url}") from error
        raise OSError(f"{url} cannot be downloaded ({error.reason}): check the connection, {by_hand}") from error
    except (ConnectionError, TimeoutError) as error:  # on the way
        raise OSError(f"{url} cannot be downloaded ({error}): try again, {by_hand}") from error
    except RuntimeError as error:
        if "hash" not in str(error):
            raise
        raise UserError(f"{url} gave another file than its sha256 {sha256} says: check the address") from error
    return path
