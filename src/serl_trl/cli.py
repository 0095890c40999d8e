"""The console script `serl-trl`."""

import sys


USAGE = """usage: serl-trl train [--config RECIPE.yaml] --seeds MY_QUESTIONS.jsonl [...]
       serl-trl iterate --iterations 3 -- serl-trl train [...]
       serl-trl eval --model MODEL --data MY_QUESTIONS_WITH_ANSWERS.jsonl [...]
       serl-trl push RUN [--hub_model_id ME/MINE] [--push_instructions] [--public]
       serl-trl plan --model MODEL [--gpu 16|24|40|80] [...]

  train   make a model better from your own questions (serl-trl train --help lists every setting)
  iterate run the training command after `--` several times, each time from the last model
  eval    measure a model on questions with answers: pass@k and maj@k, with intervals (likewise)
  push    put the model of a finished run on the Hub, private unless you say --public
  plan    say what training takes of a GPU's memory, and write the recipe that fits
"""


def main() -> None:
    """Run `serl-trl COMMAND ARGUMENTS`."""
    command, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "train":
        from .train import run

        run(arguments, prog="serl-trl train")
    elif command == "iterate":
        from .training.iterations import run

        run(arguments, prog="serl-trl iterate")
    elif command == "eval":
        from .evaluation.job import run

        run(arguments, prog="serl-trl eval")
    elif command == "push":
        from .hub.push import run

        run(arguments, prog="serl-trl push")
    elif command == "plan":
        from .plan import run

        run(arguments, prog="serl-trl plan")
    else:
        sys.exit(f"{USAGE}\nerror: unknown command {command!r}")
