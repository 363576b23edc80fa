"""Files out: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from frog.errors import FrogError, UsageError


def write_whole(data: bytes, path: str | Path) -> None:
    """Write to a temporary name beside ``path``, then rename: an earlier file stays intact.

    Raises :class:`~frog.errors.FrogError` when the disk is full, :class:`~frog.errors.UsageError`
    when the folder does not exist or must not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: must be a file, got a folder: give a file name in it")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path}: its folder must exist, got {path.parent}: make it, or choose another"
        ) from None
    except PermissionError:
        raise UsageError(f"{path}: its folder must be writable: choose another") from None
    except OSError as error:
        raise FrogError(
            f"{path}: could not be written ({error.strerror}); nothing was lost"
        ) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FrogError(
            f"{path}: could not be written ({error.strerror}); the earlier file is untouched: "
            "free some space and run again"
        ) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
