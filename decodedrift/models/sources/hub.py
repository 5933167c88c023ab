"""The model hub: a commit that is pinned, and its files on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources.quiet import quiet
from decodedrift.models.sources.weightfiles import PICKLED, SAFE, shards

WAYS_ON = "use --model demo (bundled, offline) or a local folder"


class Remote(Protocol):
    """What is asked of a checkpoint on the hub."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def commit(self) -> str | None: ...  # noqa: D102
    @property
    def local_files_only(self) -> bool: ...  # noqa: D102


def pinned(name: str, revision: str | None) -> tuple[str | None, bool]:
    """(commit, offline): the hub's commit for a revision; offline where only the local cache can answer."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as hub

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise InputError(f"{name}: no such folder, and not a hub id (OWNER/MODEL); {WAYS_ON}")
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            return HfApi().model_info(name, revision=revision, timeout=20).sha, False
        except hub.GatedRepoError:
            raise InputError(f"{name} is gated on the hub: accept its terms there and log in (hf auth login)") from None
        except hub.RepositoryNotFoundError:
            raise InputError(f"{name}: no such folder here and no such model on the hub (or it is private)") from None
        except hub.RevisionNotFoundError:
            raise InputError(f"{name} has no revision {revision!r} on the hub") from None
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = f"HTTP {status}" if status else type(error).__name__
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name, True
    raise InputError(f"{name}: no such folder here, and the model hub cannot be reached ({reason}); {WAYS_ON}")


def fetched(checkpoint: Remote, file: str) -> Path | None:
    """Where a file of the hub is on this machine, downloaded if need be; None where there is no such file."""
    from transformers.utils import cached_file

    try:
        with quiet():
            path = cached_file(
                checkpoint.source, file, revision=checkpoint.commit, local_files_only=checkpoint.local_files_only,
                _raise_exceptions_for_missing_entries=False,
            )  # fmt: skip
    except OSError as error:
        if checkpoint.local_files_only:
            return None
        raise InputError(f"{checkpoint.name}: downloading {file} failed ({excerpt(error, 120)})") from None
    return Path(path) if path else None


def weight_files(checkpoint: Remote, allow_pickle: bool) -> tuple[str, ...]:
    """The weight files of a checkpoint on the hub: safetensors, or with `allow_pickle` .bin where there are none."""
    for name in (SAFE, PICKLED) if allow_pickle else (SAFE,):
        if single := fetched(checkpoint, name):
            return (str(single),)
        if index := fetched(checkpoint, f"{name}.index.json"):
            return tuple(str(path) for s in shards(index) if (path := fetched(checkpoint, s)))
    mend = "" if allow_pickle else "; add --allow-pickle to read its .bin"
    place = "the hub's cache here" if checkpoint.local_files_only else "the hub"
    raise InputError(f"{checkpoint.name}: {place} has no safetensors for it, only formats that can run code{mend}")
