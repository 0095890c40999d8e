"""The samples of an evaluation: a line of settings, then a line for each instruction as its completions are made.

It holds what was sampled and nothing that was read in it, so that answers can be read again by better rules.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..atomic_write import atomic_write
from ..self_play.carriers import Completion


def as_sample(completions: Sequence[Completion]) -> dict[str, list]:
    """Return what is kept of the completions of one instruction."""
    return {
        "completions": [completion.text for completion in completions],
        "truncated": [completion.truncated for completion in completions],
    }


def read_samples(path: Path, settings: dict) -> dict[int, dict]:
    """Return the rows of an interrupted evaluation by their number, without a last line that a kill left half written.

    Raises:
        ValueError: if the file holds something else, or samples of other settings (what differs is named).
    """
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        before = json.loads(lines[0])["settings"]
        rows = {row["number"]: row for row in map(json.loads, lines[1:])}
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is in the way: it holds no samples of an evaluation. Set output_dir to another folder."
        ) from error
    if different := setting_differences(before, settings):
        raise ValueError(
            f"{str(path)!r} was made with {', '.join(different)}. Set that back to go on with it, or output_dir to a "
            "new folder."
        )
    return rows


def setting_differences(before: dict, now: dict) -> list[str]:
    """Return what differs between two settings, each as "temperature 1.0 instead of 0.6"."""
    names = dict.fromkeys([*before, *now])
    return [f"{n} {before.get(n)!r} instead of {now.get(n)!r}" for n in names if before.get(n) != now.get(n)]


def start_samples(path: Path, settings: dict, rows: Iterable[dict]) -> None:
    """Write the settings and the rows so far, whole or not at all; further rows are appended."""
    with atomic_write(path) as unfinished:
        lines = [{"settings": settings}, *rows]
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
