"""The console script `serl-trl`, and what its commands have in common.

A command is a module with `run(arguments, prog)`. It is imported when it is called, so that `--help` waits for no torch.
"""

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module


# Name of the command: its module, and what it does.
COMMANDS = {
    "train": (".train", "Make a model better from your own questions."),
    "check": (".check.command", "Say in some minutes, without training, whether a run is worth a night."),
    "iterate": (".iterate", "Run a training command several times, each time from the last one's model."),
    "eval": (".evaluation.command", "Measure a model on questions with answers: pass@k and maj@k, with intervals."),
    "report": (".report.command", "Write a page about a run: its gain, warnings, curves and instructions."),
    "push": (".hub.push", "Put the model of a finished run on the Hub, private unless you say --public."),
    "plan": (".plan", "Say what training takes of a GPU's memory, and write the recipe that fits."),
}

# Of a training that is not ready to begin, that finds no more instructions (unless it has learnt its seeds), or that the
# second alarm ended.
DRY_EXIT_CODE = 3


def command_parser(*dataclasses, parser_class: type[ArgumentParser] = ArgumentParser, **settings) -> ArgumentParser:
    """Return a parser with defaults in its help, and one sentence for a bad argument without the usage before it."""
    settings = {"allow_abbrev": False} | settings  # an option must be known by its whole name to be kept from a card
    parser = parser_class(*dataclasses, formatter_class=ArgumentDefaultsHelpFormatter, **settings)
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    return parser


@contextmanager
def one_sentence() -> Iterator[None]:
    """Let bad input, or Ctrl-C, end the command with one sentence and an exit code, not with a traceback."""
    from yaml import YAMLError

    try:
        yield
    except (ImportError, OSError, ValueError, YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Interrupted before it began.", file=sys.stderr)
        sys.exit(130)


def main() -> None:
    """Run `serl-trl NAME ARGUMENTS`."""
    description = "Self-play reinforcement learning (SeRL) on TRL. `serl-trl NAME --help` lists a command's settings."
    parser = command_parser(prog="serl-trl", usage="%(prog)s NAME ...", description=description)
    names = parser.add_subparsers(title="commands", metavar="NAME", dest="name")
    for name, (_, sentence) in COMMANDS.items():
        names.add_parser(name, help=sentence, add_help=False)
    name = parser.parse_args(sys.argv[1:2] or ["--help"]).name
    import_module(COMMANDS[name][0], __package__).run(sys.argv[2:], prog=f"serl-trl {name}")


if __name__ == "__main__":
    main()
