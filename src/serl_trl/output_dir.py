"""Whether a run can write where it is to."""

import os
from pathlib import Path
from tempfile import TemporaryFile


def check_output_dir(output_dir: str | os.PathLike) -> None:
    """Raise `ValueError` if nothing can be written into a folder, or into the one that it will be made in."""
    folder = Path(output_dir).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir is {str(output_dir)!r}, and nothing can be written into {str(folder)!r} ({error.strerror}). Set "
            "it to another folder."
        ) from error
