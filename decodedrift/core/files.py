"""Files and folders written whole or not at all, and the lock that keeps two processes off one folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError

LOCK = ".lock"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path`, on disk and not only in its cache, when everything went well."""
    part = path.with_name(path.name + ".part")
    try:
        with writing(path):
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # on a folder that is gone or read-only the first error is the one to tell
            part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk that is full or gone is the user's to mend, not a bug: it is said with the path."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); finished jobs are kept") from error


def disk_failed(error: BaseException) -> bool:
    """Whether an error is the disk's (full, over quota, read-only, broken) and so nobody else's failure."""
    return isinstance(error, OSError) and error.errno in DISK


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def writable(path: str | Path, option: str) -> Path:
    """A folder that exists and can be written."""
    folder = path_of(path, option)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{option} {folder}: this is a file, not a folder") from None
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be written ({error.strerror})") from None
    return folder


def linked(source: Path, part: Path) -> None:
    """A second name for a file: the same bytes need no second place."""
    try:
        os.link(source, part)
    except OSError:  # a file system without links
        shutil.copyfile(source, part)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder/.lock` as long as the context; the system frees it when the process ends, however it ends.

    The file goes when the lock does; it names who holds it, where the system lets another read it.

    Raises:
        InputError: another process holds it, or the file system knows no locks.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK
    lock = FileLock(path, blocking=False, fallback_to_soft=False)  # a soft lock would outlive a kill
    try:
        lock.acquire()
    except Timeout:
        holder = _holder(path)
        raise InputError(
            f"{folder}: another decodedrift{holder} is at work in this folder; wait for it, or name another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: gives no lock ({reason}); name a folder on another file system") from None
    try:
        with suppress(OSError):  # a full disk: the lock holds all the same, only its holder has no name
            path.write_text(f"{os.getpid()}\n")
        yield
    finally:
        with suppress(OSError):  # before the lock is let go: after it, the file could be the next one's
            path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        number = path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    return f" (process {number})" if number.isdigit() else ""


def file_name(text: str) -> str:
    """A name that is safe as one path component: what a run folder is called after its model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
