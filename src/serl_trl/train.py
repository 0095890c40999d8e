"""Train a model by self-play: `serl-trl train --recipe qwen2.5_0.5b --seeds my_questions.jsonl --output_dir mine`.

Every setting of `SeRLConfig` and TRL's `ModelConfig` is an argument; a recipe sets their defaults, and the command line
has the last word.
"""

import os
import shlex
import signal
import sys
from dataclasses import MISSING, dataclass
from math import inf
from pathlib import Path

from .cli import COMMANDS, DRY_EXIT_CODE, command_parser, one_sentence
from .launch import launch, make_launch_parser, recipe_arguments, shipped, without
from .self_play.settings import check_bounds, check_numbers, setting


@dataclass
class SeRLScriptArguments:
    """What the script needs beside the trainer's and the model's settings."""

    seeds: str = setting(
        MISSING, "Your questions: a .jsonl, .json, .csv, .parquet or .txt file, or a dataset on the Hub."
    )
    seeds_column: str | None = setting(None, "Column of the questions, if it is not found.")
    eval_data: str | None = setting(None, "Questions with answers, to measure accuracy on.")
    push_instructions: bool = setting(
        False, "Also push what the model wrote, without the seeds' text, as HUB_MODEL_ID-instructions."
    )
    merge: bool = setting(False, "Also save the model with the adapter merged in, in output_dir/_merged.")


def main(script_args, training_args, model_args):
    """Run the whole job: seeds, model, trainer, train, save, push."""
    from transformers import ProgressCallback

    from .atomic_write import WriteError
    from .evaluation.model_index import evaluated_at
    from .hub.privacy import shown_command
    from .hub.push import push_or_exit
    from .hub.run_record import changed_settings
    from .output_dir import check_shared
    from .report.page import write_or_warn
    from .self_play.loop import DryBatchError
    from .training.good_weights import LostWeightsError
    from .training.saving import naming_disk
    from .training.summary import StepLines, summarize
    from .training.trust import NotReadyError

    with one_sentence():
        check_shared(training_args.output_dir)
        trainer = make_trainer(script_args, training_args, model_args)

    # Train
    if not training_args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(StepLines)
    try:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more would print a traceback of Python's shutdown
        sys.exit(130)
    except (DryBatchError, NotReadyError) as error:  # before a first step: nothing was trained
        trainer.accelerator.print(f"error: {error}", file=sys.stderr)
        sys.exit(DRY_EXIT_CODE)
    except (WriteError, LostWeightsError) as error:
        sys.exit(f"error: {error} {trainer.ending.where()}")

    # Evaluate, where there is something to evaluate on
    if trainer.eval_dataset is not None and not evaluated_at(trainer.state.log_history, trainer.state.global_step):
        trainer.evaluate()

    # Save
    try:
        with naming_disk("The model", training_args.output_dir):
            trainer.save_model(training_args.output_dir, _internal_call=True)  # pushes nothing yet
            trainer.create_model_card(command=shown_command(sys.argv), model_settings=changed_settings(model_args))
            trainer.save_state()  # last: with it the run counts as finished
    except WriteError as error:
        sys.exit(f"error: {error} {trainer.ending.where()}")
    if script_args.merge and trainer.accelerator.is_main_process:
        merge_or_say(training_args.output_dir, training_args.trust_remote_code)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.print("\n" + summarize(trainer, result.metrics["train_runtime"]))
    if trainer.is_world_process_zero() and (page := write_or_warn(training_args.output_dir)):
        print(f"Report          {page}")

    # Push
    if training_args.push_to_hub and trainer.is_world_process_zero():
        push_or_exit(
            training_args.output_dir,
            trainer.hub_model_id,
            private=training_args.hub_private_repo,
            push_instructions=script_args.push_instructions,
            revision=training_args.hub_revision,
        )

    # Say why, if the training ended before its time
    if trainer.ending.dry is not None:
        trainer.accelerator.print("\n" + trainer.ending.why())
        sys.exit(0 if trainer.ending.has_learnt else DRY_EXIT_CODE)
    if trainer.trust.ended is not None:
        trainer.accelerator.print("\n" + trainer.trust.ended)
        sys.exit(DRY_EXIT_CODE)


def merge_or_say(output_dir: str, trust_remote_code: bool) -> None:
    """Merge the saved adapter; a failure is said with the command that repeats it, and the run goes on to its push."""
    from .engine.adapters import save_merged

    try:
        print(f"Merged model in {save_merged(output_dir, trust_remote_code)}")
    except Exception as error:  # a full disk, or too little memory for the whole base
        call = f"from serl_trl.engine.adapters import save_merged; save_merged({output_dir!r}, {trust_remote_code})"
        print(
            f"error: The adapter is saved in {output_dir}, but not merged: {type(error).__name__}: {error}\n"
            f"To merge it: {shlex.join(['python', '-c', call])}",
            file=sys.stderr,
        )


def make_trainer(script_args, training_args, model_args):
    """Return the trainer; raise `ValueError` if seeds, model and settings don't go together."""
    from transformers.trainer_utils import IntervalStrategy
    from transformers.utils import is_peft_available
    from trl import get_peft_config, get_quantization_config

    from .engine.adapters import check_mergeable
    from .engine.models import base_model
    from .hub.push import HUB_ERRORS, reason
    from .seeds import read_seeds
    from .serl_trainer import SeRLTrainer
    from .training.beginning import resolve_checkpoint

    if training_args.hub_token:
        os.environ["HF_TOKEN"] = training_args.hub_token  # for all that the Hub is asked for, the first model too
    resolve_checkpoint(training_args.resume_from_checkpoint, training_args)

    # Seeds
    seeds = read_seeds(script_args.seeds, script_args.seeds_column)

    # Model
    if not isinstance(model_args.model_name_or_path, str):
        raise ValueError(
            f"model_name_or_path is {model_args.model_name_or_path}. Name a model on the Hub, or the folder of one."
        )
    for settings in (script_args, model_args):
        check_numbers(settings)
    check_bounds(model_args, {"lora_r": (1, inf), "lora_alpha": (1, inf), "lora_dropout": (0.0, 1.0)})
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }

    has_adapter = model_args.use_peft or base_model(model_args.model_name_or_path) is not None
    if script_args.merge and not has_adapter:
        raise ValueError("merge is True, and there is no adapter to merge. Set use_peft to True, or leave merge out.")
    if has_adapter and not is_peft_available():
        raise ValueError("The model has an adapter, but PEFT is not installed. Run `pip install 'serl-trl[peft]'`.")

    # Evaluation: at the start, every eval_steps (by default, a tenth of the run), and at the end
    if script_args.eval_data and training_args.eval_strategy == "no":
        training_args.eval_strategy, training_args.eval_on_start = IntervalStrategy.STEPS, True
        training_args.eval_steps = training_args.eval_steps or 0.1

    peft_config = get_peft_config(model_args)
    if peft_config is not None:
        peft_config.revision = model_args.model_revision  # so that the saved adapter names the base it belongs to

    # Trainer
    check_push(script_args, training_args)
    try:
        trainer = SeRLTrainer(
            model=model_args.model_name_or_path,
            args=training_args,
            train_dataset=seeds,
            eval_dataset=script_args.eval_data,
            quantization_config=get_quantization_config(model_args),
            peft_config=peft_config,
        )
    except HUB_ERRORS as error:  # push_to_hub makes the repository now
        raise ValueError(f"The Hub: {reason(error)}") from error
    if script_args.merge:
        check_mergeable(trainer.accelerator.unwrap_model(trainer.model))
    # Again, now that the adapter is known.
    resolve_checkpoint(training_args.resume_from_checkpoint, training_args, trainer.run_facts)
    return trainer


def check_push(script_args, training_args) -> None:
    """Raise `ValueError` if the settings of a push don't go together, or the Hub is not reached with a known token."""
    from .hub.push import check_account

    if script_args.push_instructions and not training_args.push_to_hub:
        raise ValueError("push_instructions is True, but push_to_hub is not. Set push_to_hub to True.")
    if script_args.push_instructions and training_args.instruction_source == "seeds":
        raise ValueError(
            "push_instructions is True, and the instructions are the seeds (instruction_source is 'seeds'), which are "
            "never pushed. Leave push_instructions out."
        )
    if not training_args.push_to_hub:
        return
    if int(os.environ.get("RANK", 0)) == 0:
        check_account(training_args.hub_token)


def make_parser(prog: str | None = None, command: str = "train"):
    """Return the parser of the script's three groups of arguments."""
    from trl import ModelConfig, TrlParser

    from .serl_config import SeRLConfig

    return command_parser(
        (SeRLScriptArguments, SeRLConfig, ModelConfig),
        parser_class=TrlParser,
        prog=prog,
        usage="%(prog)s [--recipe NAME | --config PATH] --seeds FILE --output_dir FOLDER ...",
        description=COMMANDS[command][1],
        parents=[make_launch_parser()],
    )


def run(arguments: list[str] | None = None, prog: str | None = None, command: str = "train", job=main) -> None:
    """Parse the arguments (`sys.argv` by default) and do a command's `job`, here or through `accelerate launch`."""
    options, settings = make_launch_parser().parse_known_args(arguments)
    options = vars(options)
    with one_sentence():
        recipe = recipe_arguments(options)
        accelerate_config = options.get("accelerate_config")
        if accelerate_config is not None and not Path(accelerate_config).is_file():
            accelerate_config = shipped("accelerate_configs", accelerate_config)
        parser = make_parser(prog, command)
        *parsed, unknown_in_recipe, unknown = parser.parse_args_and_config(
            [*recipe, *settings], return_remaining_strings=True, separate_remaining_strings=True
        )
        if len(parsed) > 3:
            raise ValueError(f"{recipe[1]} sets config, recipe or accelerate_config. Give these on the command line.")
        if unknown_in_recipe:
            raise ValueError(f"{recipe[1]} has {' '.join(unknown_in_recipe)}, which is no setting. Leave it out.")
        if accelerate_config:
            chosen = ["--recipe", options["recipe"]] if "recipe" in options else recipe
            module = __package__ + COMMANDS[command][0]
            launch(accelerate_config, unknown, [*chosen, *without(settings, unknown)], parser, module)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    job(*parsed)


if __name__ == "__main__":
    run()
