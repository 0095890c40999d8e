"""The command `serl-trl eval`."""

import sys

from transformers import HfArgumentParser

from ..cli import COMMANDS, command_parser, one_sentence
from .arguments import EvaluationArguments
from .report import report


def run(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the arguments (`sys.argv` by default), evaluate and print the report."""
    parser = command_parser(
        EvaluationArguments,
        parser_class=HfArgumentParser,
        prog=prog,
        usage="%(prog)s --model MODEL --data FILE [FILE ...] [...]",
        description=COMMANDS["eval"][1],
    )
    settings = vars(parser.parse_args(arguments))
    folder = settings["output_dir"]
    with one_sentence():
        args = EvaluationArguments(**settings)
        from .job import evaluate  # it loads torch

        try:
            results = evaluate(args)
        except KeyboardInterrupt:
            print(f"\nInterrupted. What was sampled is in {folder}; run the same command again to go on.")
            sys.exit(130)
    print(f"\n{report(results)}\n\nThe same with all rows: {folder}/results.json. Completions: *.jsonl beside it.")
