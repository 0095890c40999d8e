"""Which checkpoint of a run is complete: a look at its files, without torch."""

import os
from pathlib import Path


STATE_FILE = "serl_state.json"
TRAINER_STATE_FILE = "trainer_state.json"  # Trainer's; at the top of a run's folder, the run is finished


def is_complete(checkpoint: str | os.PathLike) -> bool:
    """Return whether the checkpoint was written to its end, by this trainer."""
    return all((Path(checkpoint) / name).is_file() for name in (TRAINER_STATE_FILE, STATE_FILE))


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the latest complete checkpoint of a run; an interrupted save leaves an incomplete one."""
    complete = [path for path in Path(output_dir).glob("checkpoint-[0-9]*") if is_complete(path)]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default="")) or None
