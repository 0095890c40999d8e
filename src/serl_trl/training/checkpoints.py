"""Which checkpoint of a run is whole: a look at its files and their checksums, without torch."""

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import xxhash

from ..atomic_write import atomic_write, sync


STATE_FILE = "serl_state.json"
TRAINER_STATE_FILE = "trainer_state.json"  # Trainer's; at the top of a run's folder, the run is finished
MANIFEST_FILE = "serl_manifest.json"
ITERATION_VARIABLE = "SERL_ITERATION"  # set in the environment of a training that `serl-trl iterate` started


def is_complete(checkpoint: str | os.PathLike) -> bool:
    """Return whether the checkpoint was written to its end, by this trainer; [`find_damage`] reads its files too."""
    return (Path(checkpoint) / MANIFEST_FILE).is_file()


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was saved, by its name; -1 if it has another."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def list_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Return the checkpoints of a run, whole or not, the latest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if checkpoint_step(path) >= 0]
    return sorted(folders, key=checkpoint_step, reverse=True)


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the latest complete checkpoint of a run; an interrupted save leaves an incomplete one."""
    return next((str(path) for path in list_checkpoints(output_dir) if is_complete(path)), None)


def final_state(folder: Path) -> dict | None:
    """Return Trainer's state in a folder, or `None`: that of a checkpoint, or of a run, which is finished with it."""
    try:
        state = json.loads((folder / TRAINER_STATE_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not written, or cut off while it was written
        return None
    return state if isinstance(state, dict) and {"global_step", "log_history"} <= state.keys() else None


def write_manifest(checkpoint: str | os.PathLike) -> None:
    """Write down the files of a checkpoint, with sizes in bytes and checksums, when all of them are on the disk."""
    checkpoint, files = Path(checkpoint), {}
    for path in sorted(checkpoint.rglob("*")):
        sync(path)
        if path.is_file():
            files[path.relative_to(checkpoint).as_posix()] = {"bytes": path.stat().st_size, "xxh3": _checksum(path)}
    with atomic_write(checkpoint / MANIFEST_FILE) as path:
        path.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    sync(checkpoint.parent)


def read_manifest(checkpoint: str | os.PathLike) -> dict[str, dict]:
    """Return `bytes` and `xxh3` of each file of a checkpoint, as written by [`write_manifest`]."""
    return json.loads((Path(checkpoint) / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]


def find_damage(checkpoint: str | os.PathLike) -> str | None:
    """Return the first file that is not as the manifest says, and what is wrong with it; `None` for a whole checkpoint.

    Sizes are compared first: checksums read the whole checkpoint.
    """
    if not Path(checkpoint).is_dir():
        return "there is no such folder"
    if not is_complete(checkpoint):
        return f"{MANIFEST_FILE}, which is written last, is missing"
    try:
        files = [(name, saved["bytes"], saved["xxh3"]) for name, saved in read_manifest(checkpoint).items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_FILE} can't be read"
    for name in {STATE_FILE, TRAINER_STATE_FILE} - {name for name, _, _ in files}:
        return f"{MANIFEST_FILE} does not list {name}"
    for name, size, _ in files:
        path = Path(checkpoint) / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    for name, _, checksum in files:
        if _checksum(Path(checkpoint) / name) != checksum:
            return f"{name} has changed since it was saved"
    step = json.loads((Path(checkpoint) / TRAINER_STATE_FILE).read_text(encoding="utf-8"))["global_step"]
    if checkpoint_step(Path(checkpoint)) not in (-1, step):
        return f"it was saved at step {step}, under another name"
    return None


def _checksum(path: Path) -> str:
    status = path.stat()
    return _read_checksum(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)  # a run is checked before its model is loaded, and again where it starts
def _read_checksum(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
