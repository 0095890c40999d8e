"""Recipes and accelerate configurations by name, and training through `accelerate launch`."""

import os
import socket
import sys
from argparse import SUPPRESS, ArgumentParser
from pathlib import Path

import yaml

from .cli import command_parser


def shipped(folder: str, name: str) -> Path:
    """Return the path of one of the package's `"recipes"` or `"accelerate_configs"`, by its name without `.yaml`.

    Raises:
        ValueError: if there is none of that name, with the names that there are.
    """
    package = Path(__file__).parent
    root = package if (package / folder).is_dir() else package.parents[1]  # an editable install: the clone's
    path = root / folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in (root / folder).glob("*.yaml")))
        option, other = ("--recipe", "--config") if folder == "recipes" else ("--accelerate_config",) * 2
        raise ValueError(f"{option} is {name!r}. Set it to one of {names}, or {other} to the path of a file.")
    return path


def make_launch_parser() -> ArgumentParser:
    """Return the parser of the options that say how to train; they are read before the settings."""
    parser = command_parser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--recipe", metavar="NAME", help="A recipe that comes with serl-trl.")
    settings.add_argument(
        "--config", metavar="PATH", help="A YAML file of settings; the command line has the last word."
    )
    parser.add_argument(
        "--accelerate_config",
        "--accelerate-config",
        metavar="NAME|PATH",
        help="Train through `accelerate launch` with this configuration: one that comes with serl-trl, or a file. "
        "Options of accelerate launch, such as --num_processes, may follow.",
    )
    return parser


def recipe_arguments(options: dict[str, str]) -> list[str]:
    """Return `--config PATH` for a recipe or a file, which are the same to TRL; `ValueError` if it can't be read."""
    path = shipped("recipes", options["recipe"]) if "recipe" in options else options.get("config")
    if path is None:
        return []
    read_mapping(path)
    return ["--config", str(path)]


def read_mapping(path: str | Path) -> dict:
    """Return the settings in a YAML file; raise `ValueError` with its name if it holds none."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The settings in {str(path)!r} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} is no YAML mapping of settings. Write each as `name: value`.")
    return content


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def without(arguments: list[str], unknown: list[str]) -> list[str]:
    """Return the arguments that a parser knew: all but those that it left over, in the same order."""
    known, left = [], list(unknown)
    for argument in arguments:
        if left[:1] == [argument]:
            del left[0]
        else:
            known.append(argument)
    return known


def launch(path: str | Path, launcher: list[str], training: list[str], parser, module: str) -> None:
    """Become `accelerate launch`, which starts this command in its processes.

    Args:
        path (`str` or `Path`): The accelerate configuration.
        launcher, training (`list[str]`): Further arguments of `accelerate launch`, and those of this command.
        parser: Ends the command if accelerate does not know an argument.
        module (`str`): This command's.

    Raises:
        ValueError: if the configuration is none.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    content = read_mapping(path)
    try:
        load_config_from_file(str(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is no configuration of accelerate: {error}") from error
    arguments = ["--config_file", str(path), "--quiet", *launcher, "--module", module, *training]
    accelerate = launch_command_parser()
    accelerate.error = parser.error
    given = accelerate.parse_args(arguments)
    machines = given.num_machines or content.get("num_machines") or 1
    if machines == 1 and given.main_process_port is None and "main_process_port" not in content:
        arguments = ["--main_process_port", str(free_port()), *arguments]  # accelerate's own may be another run's
    os.execv(sys.executable, [sys.executable, "-m", "accelerate.commands.launch", *arguments])
