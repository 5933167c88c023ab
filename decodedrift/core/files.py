"""Files and folders written whole or not at all, and the lock that keeps two processes off one folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
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

    flock where there is one, on Windows `msvcrt.locking`. The file goes when the lock does: it names who held it.

    Raises:
        InputError: another process holds it, or the file system knows no locks.
    """
    path = folder / LOCK
    while True:
        handle = _opened(path)
        try:
            _take(handle, path)
            if os.path.samestat(os.fstat(handle), os.stat(path)):  # else its holder has just taken the file away
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        with suppress(OSError):  # a full disk: the lock holds all the same, only its holder has no name
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def _opened(path: Path) -> int:
    with writing(path):
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _take(handle: int, path: Path) -> None:
    try:
        _locker()(handle)
    except (BlockingIOError, PermissionError):
        holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() if hasattr(os, "pread") else ""
        said = f" (process {holder})" if holder.isdigit() else ""
        raise InputError(
            f"{path.parent}: another decodedrift{said} is at work in this folder; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path.parent}: its file system gives no locks ({error.strerror}); name a folder on another one"
        ) from None


def _locker() -> Callable[[int], None]:
    """Takes a lock on an open file at once, or raises BlockingIOError or PermissionError."""
    try:
        import fcntl
    except ImportError:
        import msvcrt  # Windows

        return lambda handle: msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, no-any-return]
    return lambda handle: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def file_name(text: str) -> str:
    """A name that is safe as one path component: what a run folder is called after its model."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
