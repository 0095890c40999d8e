"""What can be found wrong before any model is loaded."""

import logging
import os

from accelerate import ParallelismConfig
from jinja2 import TemplateError
from transformers import PretrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

from ..answers.judging import read_true_answer
from ..engine.adapters import add_empty_adapter, check_adapter, empty_model
from ..engine.models import control_tokens, is_fsdp, is_sharded, request_turns, tokenize_prompts
from ..output_dir import check_output_dir
from ..seeds import Seeds
from ..self_play.prompt import PromptTemplate, answer_prompt, few_shot_prompt, load_template
from ..self_play.sources import check_enough_seeds
from .attempts import check_generation, check_optimizer, check_reports, check_rewards


logger = logging.getLogger(__name__)


def check_run(model, peft_config, reward_funcs, args) -> None:
    """Raise `ValueError` for a run that could not begin, or not as it is meant, whatever its seeds; see each check."""
    check_output_dir(args.output_dir)
    check_parallelism(model, peft_config, args)
    check_rewards(reward_funcs, args.reward_weights)
    check_optimizer(args)
    check_generation(args)
    check_reports(args)


def check_parallelism(model, peft_config, args) -> None:
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
    has_adapter = peft_config is not None or hasattr(model, "peft_config")
    version = int((args.fsdp_plugin_args or {}).get("fsdp_version") or os.environ.get("FSDP_VERSION", 1))
    on_first_process = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true"
    if version == 2 and on_first_process and args.beta != 0.0 and not has_adapter:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading is true: the first process alone reads the weights, and TRL shards the "
            f"reference model (beta is {args.beta}) without handing them on. Set fsdp_cpu_ram_efficient_loading to "
            "false, or beta to 0."
        )


def check_weights(model, config: PretrainedConfig, quantization_config, peft_config, args) -> None:
    """Raise `ValueError` for an adapter that the model has no place for, and weights that can't be sent to vLLM unharmed.

    The latter are packed ones, and some adapters'.
    """
    if peft_config is not None:
        adapted = add_empty_adapter(empty_model(config, args.trust_remote_code), peft_config)
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
            f"The base model of the adapter is loaded in {dtype} and sharded, and merging for vLLM would change it at "
            "every step. Set dtype to float32 (bf16=True still computes in bfloat16), or use DDP or ZeRO-2."
        )
    check_adapter(adapted if peft_config is not None else model)


def check_chat_template(tokenizer: PreTrainedTokenizerBase, name: str, template: PromptTemplate) -> None:
    """Raise `ValueError` if the prompts are conversations and the tokenizer can't format one."""
    if template.plain_answer:
        return
    if not tokenizer.chat_template:
        raise ValueError(
            f"The tokenizer of {name} has no chat template. Use an instruct model, set tokenizer.chat_template, or give the "
            "prompt_template a `plain_answer`."
        )
    try:
        tokenize_prompts(tokenizer, [[{"role": "user", "content": "How much is 2 + 3?"}]])
    except (TemplateError, ValueError) as error:
        raise ValueError(
            f"The chat template of {name} can't format a conversation of text: {error}. Set another."
        ) from error


def usable_seeds(seeds: Seeds, tokenizer: PreTrainedTokenizerBase, max_tokens: int, args) -> Seeds:
    """Return the seeds without those that hold a control token, which would end the turn that it stands in.

    Raises:
        ValueError:
            If there are too few, if the longest leave too little room in a context of `max_tokens`, if the labels are
            true answers and a seed (where votes are labels too: every seed) has none that can be read, or if the
            tokenizer can't format a conversation or is a processor.
    """
    if isinstance(tokenizer, ProcessorMixin):
        raise ValueError(
            f"processing_class is a {type(tokenizer).__name__}, and prompts are text. Pass its tokenizer."
        )
    check_chat_template(tokenizer, tokenizer.name_or_path, load_template(args.prompt_template))
    given, tokens = seeds.true_answers, control_tokens(tokenizer)
    clean = {text: answer for text, answer in given.items() if not any(token in text for token in tokens)}
    if len(clean) < len(given):
        logger.warning(f"{len(given) - len(clean)} of {len(given)} seeds left out: they hold a control token.")
    if not clean:
        raise ValueError("All seeds hold a control token of the model. Remove these tokens from them.")
    if args.label_source == "true_answer":
        _check_true_answers(clean, args.answer_format)
    elif args.evidence_seeds or args.label_source == "true_answer_or_vote":
        clean = _readable(clean, args.answer_format)
    if args.label_source == "true_answer_or_vote" and not any(clean.values()):
        raise ValueError(
            "label_source is 'true_answer_or_vote', and no seed has a true answer that can be read. Give some one, in a "
            "column `answer`, or set label_source to 'majority_vote'."
        )
    _check_room(list(clean), tokenizer, max_tokens, args)
    return Seeds(clean, seeds.name)


def _check_true_answers(true_answers: dict[str, str | None], answer_format: str) -> None:
    for seed, answer in true_answers.items():
        if answer is None:
            raise ValueError(
                f"label_source is 'true_answer', and the seed {seed!r} has none. Give each row one, in a column "
                "`answer`, or set label_source to 'majority_vote'."
            )
        try:
            read_true_answer(answer, answer_format)
        except ValueError as error:
            raise ValueError(f"The seed {seed!r}: {error}") from error


def _readable(true_answers: dict[str, str | None], answer_format: str) -> dict[str, str | None]:
    """Return the seeds with those answers left out that can't be read, and say how many these are."""
    readable, unread = dict(true_answers), []
    for seed, answer in true_answers.items():
        try:
            if answer is not None:
                read_true_answer(answer, answer_format)
        except ValueError:
            readable[seed] = None
            unread.append(answer)
    if unread:
        logger.warning(
            f"{len(unread)} true answers of the seeds can't be read as answer_format {answer_format!r}, and count as none: "
            f"{unread[0]!r}, for example."
        )
    return readable


def _check_room(seeds: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int, args) -> None:
    if args.instruction_source == "self_instruction":
        check_enough_seeds(seeds, args)
    template, kwargs = load_template(args.prompt_template), args.chat_template_kwargs or {}
    if template.thinking_end in tokenizer.all_special_tokens:
        raise ValueError(
            f"thinking_end of the prompt_template is {template.thinking_end!r}, a special token, which no completion's text "
            "shows. Set it to a text that the model writes, or leave it out."
        )
    tokens = dict(zip(seeds, tokenizer(seeds)["input_ids"], strict=True))
    longest = sorted(seeds, key=lambda seed: len(tokens[seed]), reverse=True)[: args.num_few_shot_examples]
    needs = {"max_completion_length": (answer_prompt(longest[0], template), args.max_completion_length)}
    if args.instruction_source == "self_instruction":
        turns = request_turns(tokenizer, template, **kwargs)
        if turns < 3:
            what = "has no system role" if turns == 2 else "does not let the model go on with its turn"
            logger.warning(f"The chat template {what}: requests for instructions hold that part in the user's turn.")
        needs["max_instruction_length"] = (few_shot_prompt(longest, template, turns), args.max_instruction_length)
    for name, (prompt, new_tokens) in needs.items():
        try:
            prompt_tokens = len(tokenize_prompts(tokenizer, [prompt], **kwargs)[0])
        except TemplateError as error:
            raise ValueError(
                f"The model's chat template refuses the prompt ({error}). For a model without a system role, set "
                "prompt_template to a file without `answer_system`."
            ) from error
        room = max_tokens - prompt_tokens
        if new_tokens > room:
            shorter = "shorten the seeds" if name == "max_completion_length" else "lower num_few_shot_examples"
            raise ValueError(
                f"{name} is {new_tokens}, and the longest prompt has {prompt_tokens} tokens: together more than the "
                f"context of {max_tokens}. "
                + (f"Set {name} to at most {room}, or {shorter}" if room > 0 else shorter.capitalize())
                + ", or raise vllm_max_model_length if it is set."
            )
