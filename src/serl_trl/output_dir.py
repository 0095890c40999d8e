"""Whether a run can write where it is to."""

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile


def check_output_dir(output_dir: str | os.PathLike) -> None:
    """Raise `ValueError` if nothing can be written into a folder, or into the one that it will be made in."""
    folder = _existing(output_dir)
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir is {str(output_dir)!r}, and nothing can be written into {str(folder)!r} ({error.strerror}). Set "
            "it to another folder."
        ) from error


def check_shared(output_dir: str | os.PathLike) -> None:
    """Raise `ValueError` if another machine's processes do not see the folder of the first one's; all processes call it.

    Checkpoints have a part of each process, and the ledger is read by all: a run without that would wait at its end.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object

    if PartialState().num_processes == 1:
        return
    folder, found = Path(output_dir).absolute(), [None]
    with ExitStack() as stack:
        if PartialState().is_main_process:
            file = stack.enter_context(NamedTemporaryFile(dir=_existing(folder)))
            found[0] = os.path.relpath(file.name, folder)  # the folders' names may differ from machine to machine
        broadcast_object_list(found)
        if not all(gather_object([os.path.exists(os.path.normpath(folder / found[0]))])):
            raise ValueError(
                f"output_dir is {str(output_dir)!r}, which another machine does not have. Set it to a folder that all "
                "machines share."
            )


def _existing(output_dir: str | os.PathLike) -> Path:
    """Return the folder, or the nearest one that it will be made in."""
    folder = Path(output_dir).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder
