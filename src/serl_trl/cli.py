"""The console script `serl-trl`."""

import sys


USAGE = """usage: serl-trl train [--config RECIPE.yaml] --seeds MY_QUESTIONS.jsonl [...]
       serl-trl eval --model MODEL --data MY_QUESTIONS_WITH_ANSWERS.jsonl [...]

  train   make a model better from your own questions (serl-trl train --help lists every setting)
  eval    measure a model on questions with answers: pass@k and maj@k, with intervals (likewise)
"""


def main() -> None:
    """Run `serl-trl train ARGUMENTS` or `serl-trl eval ARGUMENTS`."""
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "train":
        from .train import run

        run(arguments, prog="serl-trl train")
    elif command == "eval":
        from .evaluation.job import run

        run(arguments, prog="serl-trl eval")
    else:
        sys.exit(f"{USAGE}\nerror: unknown command {command!r}")
