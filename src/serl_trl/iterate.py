"""Self-play iterations: run one training command several times, each time from the last iteration's model.

Each iteration is a process of its own, under the launcher that the command names. So it starts with a fresh optimizer,
a fresh reference model and an empty kept pool, as in SeRL.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from .atomic_write import atomic_write
from .cli import COMMANDS, DRY_EXIT_CODE, command_parser, one_sentence
from .launch import make_launch_parser, read_mapping, recipe_arguments
from .markdown import escaped
from .output_dir import check_output_dir
from .training.checkpoints import ITERATION_VARIABLE, TRAINER_STATE_FILE, final_state, last_checkpoint


def read_settings(command: list[str]) -> tuple[Path, int]:
    """Return `output_dir` and `seed` of a training command, from its options, its recipe or its `--config`.

    Raises:
        ValueError: if the command names no `output_dir` that can be written, or a checkpoint to resume from.
    """
    parser = make_launch_parser()
    for name in ("output_dir", "seed", "resume_from_checkpoint"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    options = vars(parser.parse_known_args(command)[0])
    path = recipe_arguments(options)[1:]
    config = read_mapping(path[0]) if path else {}
    settings = {"seed": 42} | config | options
    if settings.get("resume_from_checkpoint"):
        raise ValueError(
            f"resume_from_checkpoint is {settings['resume_from_checkpoint']!r}. Leave it out: each iteration goes on "
            "from its own last checkpoint."
        )
    if not settings.get("output_dir"):
        raise ValueError("output_dir is missing. Set it in the command: the iterations are saved in folders in it.")
    if not str(settings["seed"]).isdecimal():
        raise ValueError(f"seed is {settings['seed']!r}. Set it to a whole number.")
    check_output_dir(settings["output_dir"])
    return Path(settings["output_dir"]), int(settings["seed"])


def resume_options(folder: Path) -> list[str]:
    """Say how the run in `folder` starts, and return the options for it.

    A run without a complete checkpoint starts again, and what it left is kept beside it.
    """
    if checkpoint := last_checkpoint(folder):
        print(f"{folder} goes on from {checkpoint}.", flush=True)
        (folder / TRAINER_STATE_FILE).unlink(missing_ok=True)  # if it is there, it was cut off
        return ["--resume_from_checkpoint", "true"]
    if folder.exists():
        number = 1
        while Path(f"{folder}-unfinished-{number}").exists():
            number += 1
        aside = folder.rename(f"{folder}-unfinished-{number}")
        print(f"{folder} starts again: it had no complete checkpoint. What it wrote is now in {aside}.", flush=True)
    else:
        print(f"{folder} starts.", flush=True)
    return []


def run_child(command: list[str]) -> tuple[int, int | None]:
    """Run a command; return its exit code, and the signal that asked this process to stop meanwhile, if one did.

    The child has a process group of its own, so that it gets Ctrl-C once: from here, and not from the terminal too.
    """
    received = []

    def pass_on(number, frame):
        received.append(number)
        if child.poll() is None:
            os.killpg(child.pid, number)

    child = subprocess.Popen(command, process_group=0, env=os.environ | {ITERATION_VARIABLE: "1"})
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    code = child.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    return (128 - code if code < 0 else code), (received or [None])[0]


def summarize(folders: list[Path]) -> str:
    """Return a Markdown table with a row for each finished iteration."""
    lines = [
        "| iteration | steps | first reward | last reward | mean pass rate | pass@1 | model |",
        "|" + " --- |" * 7,
    ]
    for number, folder in enumerate(folders, start=1):
        state = final_state(folder)
        rewards, pass_rates, accuracies = (
            [entry[key] for entry in state["log_history"] if entry.get(key) is not None]
            for key in ("reward", "self_rewarding/pass_rate", "eval_pass@1")
        )
        means = [sum(pass_rates) / len(pass_rates)] if pass_rates else []
        parts = (rewards[:1], rewards[-1:], means, accuracies[-1:])
        cells = [f"{part[0]:.3f}" if part else "-" for part in parts]
        lines.append(f"| {' | '.join([str(number), str(state['global_step']), *cells, escaped(str(folder))])} |")
    return "\n".join(lines) + "\n"


def iterate(iterations: int, command: list[str]) -> int:
    """Run the iterations that are not finished, write `summary.md`, and return the exit code.

    `command` is any one that ends in the arguments of `train.py`.

    Raises:
        ValueError: As in [`read_settings`], if `iterations` is below 1, or if there is no such command.
    """
    from .report.page import write_or_warn  # it loads matplotlib

    if iterations < 1:
        raise ValueError(f"iterations is {iterations}. Set it to at least 1.")
    if shutil.which(command[0]) is None:
        raise ValueError(f"There is no command {command[0]!r}. Write it after `--` as it is typed, without quotes.")
    output_dir, seed = read_settings(command)
    folders = [output_dir / f"iteration-{number}" for number in range(1, iterations + 1)]
    finished = [final_state(folder) is not None for folder in folders]
    if sorted(finished, reverse=True) != finished:
        missing, later = folders[finished.index(False)], folders[len(finished) - 1 - finished[::-1].index(True)]
        raise ValueError(
            f"{later} is finished and {missing}, which it was trained from, is not. Bring that folder back, or move "
            "the later ones away."
        )
    for index, folder in enumerate(folders):
        if final_state(folder) is not None:
            print(f"{folder} is finished.", flush=True)
            continue
        # The last of equal options counts. Each iteration draws by a seed of its own.
        options = ["--output_dir", str(folder), "--seed", str(seed + index), *resume_options(folder)]
        if index > 0:
            options += ["--model_name_or_path", str(folders[index - 1])]
        code, signal_number = run_child([*command, *options])
        if signal_number is not None:
            print(f"\nInterrupted in {folder}. Run the same command again to go on.", file=sys.stderr)
            return 128 + signal_number
        if code != 0 and final_state(folder) is not None:  # a dry batch, a failed merge or push
            print(f"{folder} ended with exit code {code} after its model was saved. The next goes on from it.")
        elif code != 0:
            advice = "Change what it says, and run" if code == DRY_EXIT_CODE else "Run"
            print(f"error: {folder} ended with exit code {code}. {advice} the same command to go on.", file=sys.stderr)
            return code
        if final_state(folder) is None:
            raise ValueError(f"The command ended well and left no run in {folder}. Is it one that trains?")
        write_or_warn(output_dir)
    summary = summarize(folders)
    with atomic_write(output_dir / "summary.md") as path:
        path.write_text(summary, encoding="utf-8")
    print(f"\n{summary}\nAll {iterations} iterations are finished. The final model is in {folders[-1]}.")
    return 0


def run(arguments: list[str], prog: str) -> None:
    """Run `serl-trl iterate`; bad input ends in one sentence, not in a traceback."""
    parser = command_parser(prog=prog, usage="%(prog)s --iterations N -- COMMAND", description=COMMANDS["iterate"][1])
    parser.add_argument("--iterations", type=int, required=True, help="How many iterations there are in all.")
    parser.add_argument("command", nargs="+", help="The command that trains once, such as `serl-trl train ...`.")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}. Put `--` before the command.")
    with one_sentence():
        sys.exit(iterate(options.iterations, options.command))
