"""What can be found wrong before any model is loaded."""

import logging
import os
from pathlib import Path

from accelerate import ParallelismConfig
from accelerate.utils import DistributedType
from datasets import Dataset
from jinja2 import TemplateError
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from .adapters import add_empty_adapter, check_adapter, empty_model
from .checkpoint import STATE_FILE
from .ledger import LEDGER_FOLDER
from .self_instruction.prompt import answer_prompt, few_shot_prompt, load_template, tokenize_prompts
from .self_rewarding.answers import parse_true_answer
from .serl_config import SeRLConfig


logger = logging.getLogger(__name__)


def is_complete(checkpoint: str | os.PathLike) -> bool:
    """Return whether the checkpoint was written to its end, by this trainer."""
    return all((Path(checkpoint) / name).is_file() for name in (TRAINER_STATE_NAME, STATE_FILE))


def last_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the latest complete checkpoint of a run; an interrupted save leaves an incomplete one."""
    complete = [path for path in Path(output_dir).glob("checkpoint-[0-9]*") if is_complete(path)]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default="")) or None


def resolve_checkpoint(resume_from_checkpoint: str | bool | None, args: SeRLConfig) -> str | None:
    """Return the checkpoint to go on from, or `None` for a new run in a folder that holds no other.

    Args:
        resume_from_checkpoint (`str` or `bool`, *optional*): A folder, or `True` (`"true"`) for the last one.
        args ([`SeRLConfig`]): The settings.

    Raises:
        ValueError:
            If `output_dir` holds another run, if there is no such checkpoint, or if it is already at `max_steps`.
    """
    last = last_checkpoint(args.output_dir)
    holds_ledger = any((Path(args.output_dir) / LEDGER_FOLDER).glob("*.parquet"))
    if not resume_from_checkpoint:
        if last is not None:
            raise ValueError(
                f"output_dir {args.output_dir!r} holds another run. Set resume_from_checkpoint to {last!r} to go on "
                "with it, or output_dir to a new folder."
            )
        if holds_ledger:
            raise ValueError(
                f"output_dir {args.output_dir!r} holds the ledger of another run, and no checkpoint to go on from. "
                "Set output_dir to a new folder, or remove it."
            )
        return None
    checkpoint = last if str(resume_from_checkpoint).lower() == "true" else str(resume_from_checkpoint)
    if checkpoint is None or not is_complete(checkpoint):
        raise ValueError(
            f"There is no complete checkpoint of self-play in {checkpoint or args.output_dir!r}. "
            + (f"The last one is {last!r}." if last else "Start without resume_from_checkpoint, in a new output_dir.")
        )
    if holds_ledger and Path(checkpoint).resolve().parent != Path(args.output_dir).resolve():
        raise ValueError(
            f"{checkpoint!r} is not a checkpoint of the run in output_dir {args.output_dir!r}, whose ledger would be "
            "overwritten. Set output_dir to the checkpoint's own folder, or to a new one."
        )
    step = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME)).global_step
    if step >= args.max_steps:
        raise ValueError(
            f"{checkpoint!r} is at step {step}, and max_steps is {args.max_steps}: nothing is left to train. Raise "
            "max_steps to go on."
        )
    return checkpoint


def is_fsdp(args: SeRLConfig) -> bool:
    """Return whether FSDP will wrap the model."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


def is_sharded(args: SeRLConfig) -> bool:
    """Return whether each process will hold a part of each weight only: FSDP or ZeRO-3."""
    return is_fsdp(args) or (args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3)


def check_iterations(args: SeRLConfig, optimizers: tuple) -> None:
    """Raise `ValueError` for what several self-play iterations can't be combined with."""
    if args.num_self_play_iterations == 1:
        return
    if any(optimizers):
        raise ValueError(
            f"optimizers are given, and num_self_play_iterations is {args.num_self_play_iterations}: each iteration "
            "makes its own. Leave them out, or run one iteration at a time."
        )
    if args.deepspeed_plugin is not None or is_fsdp(args):
        raise ValueError(
            f"num_self_play_iterations is {args.num_self_play_iterations}, and DeepSpeed or FSDP wraps the model, which "
            "has not been shown to survive a second iteration. Run one at a time: set model_name_or_path to the last "
            "one's output_dir."
        )


def check_parallelism(model, peft_config, args: SeRLConfig) -> None:
    """Raise `ValueError` for ways to spread a model over processes that would silently train something else."""
    parallelism = args.parallelism_config
    if parallelism is None and os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false") == "true":
        parallelism = ParallelismConfig()  # from what `accelerate launch` sets
    sizes = {name: getattr(parallelism, name, 1) for name in ("tp_size", "cp_size", "sp_size")}
    if (args.model_init_kwargs or {}).get("tp_plan") or (getattr(model, "tp_size", None) or 1) > 1:
        sizes["tp_size"] = getattr(model, "tp_size", None) or args.world_size
    for name, size in sizes.items():
        if size > 1:
            raise ValueError(
                f"{name} is {size}: such processes compute on the same rows together, and self-play gives each process "
                "rows of its own. Set it to 1 and shard with FSDP2 or ZeRO-3; vllm_tensor_parallel_size can be larger."
            )
    if not is_fsdp(args):
        return
    if args.distributed_state.distributed_type == DistributedType.MULTI_CPU:
        raise ValueError(
            "FSDP is set, and accelerate passes it over on the CPU, silently. Use accelerate_configs/multi_gpu.yaml, "
            "which trains with DDP there."
        )
    has_adapter = peft_config is not None or hasattr(model, "peft_config")
    version = int((args.fsdp_plugin_args or {}).get("fsdp_version") or os.environ.get("FSDP_VERSION", 1))
    on_first_process = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true"
    if version == 2 and on_first_process and args.beta != 0.0 and not has_adapter:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading is true: the first process alone reads the weights, and TRL shards the "
            f"reference model (beta is {args.beta}) without handing them on. Set fsdp_cpu_ram_efficient_loading to "
            "false, or beta to 0."
        )


def check_weights(model, config: PretrainedConfig, quantization_config, peft_config, args: SeRLConfig) -> None:
    """Raise `ValueError` for weights that can't be sent to vLLM unharmed: packed ones, and some adapters'."""
    if not args.use_vllm:
        return
    kwargs = args.model_init_kwargs or {}
    if quantization_config or kwargs.get("quantization_config") or getattr(config, "quantization_config", None):
        raise ValueError(
            "The model is quantized, and its packed weights can't be sent to vLLM (TRL#4973). Set use_vllm to False "
            "for transformers generation, or load the model without quantization."
        )
    if peft_config is None and not hasattr(model, "peft_config"):
        return
    dtype = str(kwargs.get("dtype") or "float32") if isinstance(model, str) else str(model.dtype)
    if is_sharded(args) and dtype.removeprefix("torch.") != "float32":
        # Where the weights are sharded, TRL's merge into the base itself is left as it is (see `merged_parameters`).
        raise ValueError(
            f"The base model of the adapter is loaded in {dtype} and sharded, and merging for vLLM would wear it off. "
            "Set dtype to float32 (bf16=True still computes in bfloat16), or use DDP or ZeRO-2."
        )
    if peft_config is not None:
        model = add_empty_adapter(empty_model(config, args.trust_remote_code), peft_config)
    check_adapter(model)


def check_chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise `ValueError` if the tokenizer can't format a conversation."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"The tokenizer of {name} has no chat template. Use an instruct model, or set tokenizer.chat_template."
        )


def model_length(config: PretrainedConfig) -> int:
    """Return the context of the model, in tokens."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31


def context_length(config: PretrainedConfig, args: SeRLConfig) -> int:
    """Return the tokens that a prompt and its completion may have together."""
    length = model_length(config)
    return min(length, args.vllm_max_model_length or length) if args.use_vllm else length


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts that the tokenizer reads as control tokens, such as `<|im_end|>`."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*added, *tokenizer.all_special_tokens} - {""})


def drop_control_tokens(seeds: list[str], tokens: list[str]) -> list[str]:
    """Return the seeds without a control token, which would end the turn that it stands in; report the others."""
    clean = [seed for seed in seeds if not any(token in seed for token in tokens)]
    if len(clean) < len(seeds):
        logger.warning(f"{len(seeds) - len(clean)} of {len(seeds)} seeds left out: they hold a control token.")
    return clean


def true_answers(rows: Dataset, args: SeRLConfig) -> dict[str, str]:
    """Return the true answer of each seed where they are the labels, else nothing.

    Raises:
        ValueError: if a seed has no answer, or one that cannot be read.
    """
    if args.label_source != "true_answer":
        return {}
    answers = rows["answer"] if "answer" in rows.column_names else [None] * len(rows)
    for seed, answer in zip(rows["instruction"], answers, strict=True):
        if answer is None:
            raise ValueError(
                f"label_source is 'true_answer', and the seed {seed!r} has none. Give each row one, in a column "
                "`answer`, or set label_source to 'majority_vote'."
            )
        try:
            parse_true_answer(answer, args.answer_format)
        except ValueError as error:
            raise ValueError(f"The seed {seed!r}: {error}") from error
    return dict(zip(rows["instruction"], answers, strict=True))


def check_seeds(seeds: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int, args: SeRLConfig) -> None:
    """Raise `ValueError` if there are too few seeds, or the longest leave too little room in the context."""
    if not seeds:
        raise ValueError("All seeds hold a control token of the model. Remove these tokens from them.")
    if args.instruction_source == "self_instruction" and len(seeds) < args.num_few_shot_examples:
        raise ValueError(
            f"There are {len(seeds)} seeds for num_few_shot_examples={args.num_few_shot_examples}. Add seeds, or set "
            f"num_few_shot_examples to at most {len(seeds)} (and max_kept_examples to no more)."
        )
    template = load_template(args.prompt_template)
    longest = sorted(seeds, key=len, reverse=True)[: args.num_few_shot_examples]
    needs = {"max_completion_length": (answer_prompt(longest[0], template), args.max_completion_length)}
    if args.instruction_source == "self_instruction":
        needs["max_instruction_length"] = (few_shot_prompt(longest, template), args.max_instruction_length)
    for name, (prompt, new_tokens) in needs.items():
        try:
            prompt_tokens = len(tokenize_prompts(tokenizer, [prompt], **(args.chat_template_kwargs or {}))[0])
        except TemplateError as error:
            raise ValueError(
                f"The model's chat template refuses the prompt ({error}). For a model without a system role, set "
                "prompt_template to a file whose `system` is empty."
            ) from error
        if prompt_tokens + new_tokens > max_tokens:
            raise ValueError(
                f"{name} is {new_tokens}, and the longest prompt has {prompt_tokens} tokens: together more than the "
                f"context of {max_tokens}. Set {name} to at most {max(max_tokens - prompt_tokens, 1)}, raise "
                "vllm_max_model_length if it is set, or shorten the seeds."
            )


def load_model_config(model, args: SeRLConfig) -> PretrainedConfig:
    """Return the configuration of a model given by name or as an instance."""
    if not isinstance(model, str):
        return model.config
    return read_config(model, (args.model_init_kwargs or {}).get("revision"), args.trust_remote_code)


def read_config(model: str, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a model given by name; raise `ValueError` if there is none."""
    try:
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"The model {model!r} is neither a folder here nor to be had from the Hub: {reason}"
        ) from error
