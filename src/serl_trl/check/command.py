"""`serl-trl check`: some minutes before a night of training, with its arguments; nothing is trained or written."""

import sys
from tempfile import TemporaryDirectory

from ..cli import one_sentence
from ..train import make_trainer
from ..train import run as run_command


def main(script_args, training_args, model_args) -> None:
    """Check a run, and end with exit code 1 where it should not begin."""
    from ..output_dir import check_output_dir
    from ..training.beginning import resolve_checkpoint
    from .measuring import check_parallelism

    with TemporaryDirectory() as folder:
        with one_sentence():
            if training_args.resume_from_checkpoint:
                raise ValueError(
                    f"resume_from_checkpoint is {training_args.resume_from_checkpoint!r}, and a check looks at the "
                    "start. Leave it out."
                )
            check_parallelism(training_args)
            check_output_dir(training_args.output_dir)
            resolve_checkpoint(None, training_args)
            training_args.output_dir = folder  # Trainer makes the folder, and TRL one in it
            training_args.push_to_hub = script_args.push_instructions = False  # Trainer would make the repository
            trainer = make_trainer(script_args, training_args, model_args)
        trainer.accelerator.print("The model answers seeds and writes instructions: some minutes.", file=sys.stderr)
        try:
            result = trainer.check()
        except KeyboardInterrupt:
            trainer.accelerator.print("Interrupted. Nothing was trained or written.", file=sys.stderr)
            sys.exit(130)
    trainer.accelerator.print(result)
    if not result.go:
        sys.exit(1)


def run(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the arguments of `serl-trl train` (`sys.argv` by default) and check, also through `accelerate launch`."""
    run_command(arguments, prog, command="check", job=main)


if __name__ == "__main__":
    run()
