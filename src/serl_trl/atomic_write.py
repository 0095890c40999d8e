"""Files that a reader, a full disk or a power cut never finds half done."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class WriteError(OSError):
    """A file of a run can't be written; the message names the disk."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    Raises:
        WriteError: if the disk takes no more; what was written of the file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        raise WriteError(f"{path} can't be written ({error}). {describe_disk(path.parent)}") from error
    finally:
        with suppress(OSError):  # of a disk that can only be read now
            unfinished.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when the disk itself holds a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_disk(folder: Path) -> str:
    """Say on which disk a folder is, and how much of it is free."""
    mount = Path(folder).resolve()
    while not os.path.ismount(mount):
        mount = mount.parent
    return f"The disk of {folder} (mounted at {mount}) has {shutil.disk_usage(mount).free / 1e6:,.1f} MB free."
