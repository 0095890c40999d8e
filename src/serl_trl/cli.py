"""The console script `serl-trl`."""

import sys


USAGE = """usage: serl-trl train [--config RECIPE.yaml] --seeds MY_QUESTIONS.jsonl [...]

  train   make a model better from your own questions (serl-trl train --help lists every setting)
"""


def main() -> None:
    """Run `serl-trl train ARGUMENTS`."""
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "train":
        from .train import run

        run(arguments, prog="serl-trl train")
    else:
        sys.exit(f"{USAGE}\nerror: unknown command {command!r}")
