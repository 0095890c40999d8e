"""`serl-trl plan`: what a model's training takes of a GPU's memory, what fits, and the recipe for it."""

import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from .cli import COMMANDS, command_parser, one_sentence
from .markdown import table
from .memory import GIB, ModelSizes, Workload, budget, model_sizes


# As PEFT's LoraConfig names them, and as a recipe does.
LORA = {"r": 32, "lora_alpha": 64, "lora_dropout": 0.0, "target_modules": "all-linear"}
LORA_SETTINGS = {f"lora_{name.removeprefix('lora_')}": value for name, value in LORA.items()}
LEARNING_RATES = {"full": 1e-6, "lora": 1e-5, "qlora": 1e-5}
NAMES = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
PROMPT_LENGTH = 512  # a request with eight few-shot examples is longer than an instruction
KEPT_FREE = 1.5 * GIB  # CUDA's context, and what the allocator can't use
ENGINE_EXTRA = 1.5 * GIB  # vLLM's own activations and CUDA graphs


@dataclass(frozen=True)
class Gpu:
    """A GPU: its memory in GiB as nvidia-smi shows it, examples, and whether it computes in bfloat16."""

    memory: float
    example: str
    bfloat16: bool = True


GPUS = {
    16: Gpu(15.0, "a T4", bfloat16=False),
    24: Gpu(22.5, "an L4, A10G or RTX 4090"),
    40: Gpu(39.5, "an A100"),
    80: Gpu(79.5, "an A100 or H100"),
}


@dataclass(frozen=True)
class Plan:
    """A method on a GPU: its workload, its bytes by part, and whether they fit."""

    work: Workload
    parts: dict[str, float]
    fits: bool


def planned_sizes(config, trust_remote_code: bool = False) -> ModelSizes:
    """Return the sizes of a model and of the adapter that is planned for it, from its `PretrainedConfig` alone."""
    from .engine.adapters import empty_model

    return model_sizes(empty_model(config, trust_remote_code), LORA["r"])


def make_plan(sizes: ModelSizes, gpu: Gpu, method: str, completion_length: int) -> Plan:
    """Return the plan with the largest batch that fits, or the one with the smallest if none does.

    vLLM samples, where it can: a quantized model can't be sent to it, and its present builds need a newer driver than
    the free T4 machines have. There transformers generation samples 64 completions at once.
    """
    by_vllm = gpu.bfloat16 and method != "qlora"
    work = Workload(
        method=method,
        per_device_train_batch_size=16,
        sequences=0 if by_vllm else 64,
        prompt_length=PROMPT_LENGTH,
        completion_length=completion_length,
        reference=True,
        engine=_engine(sizes, gpu, completion_length) if by_vllm else 0.0,
    )
    for batch in (16, 8, 4, 2, 1):
        work = replace(work, per_device_train_batch_size=batch)
        parts = budget(sizes, work)
        fits = sum(parts.values()) + KEPT_FREE <= gpu.memory * GIB
        if fits:
            break
    return Plan(work, parts, fits)


def _engine(sizes: ModelSizes, gpu: Gpu, completion_length: int) -> float:
    """Return vLLM's bytes: its weights in 16 bits and the cache of 64 sequences, in steps of 5 % of the GPU."""
    cache = 64 * (PROMPT_LENGTH + completion_length) * sizes.layers * 2 * sizes.key_value * 2
    needed = 2 * (sizes.linear + sizes.other) + cache + ENGINE_EXTRA
    twentieth = gpu.memory * GIB / 20
    return (needed // twentieth + 1) * twentieth


def plan_settings(model: str, gpu: Gpu, plan: Plan, context: int) -> dict:
    """Return the settings of a plan that differ from the defaults."""
    work = plan.work
    settings = {"model_name_or_path": model} | ({"bf16": True} if gpu.bfloat16 else {"fp16": True, "bf16": False})
    if work.method != "full":
        settings |= {"use_peft": True, "dtype": "bfloat16" if gpu.bfloat16 else "float16", **LORA_SETTINGS}
    if work.method == "qlora":
        settings["load_in_4bit"] = True
    settings |= {
        "max_steps": 200,
        "learning_rate": LEARNING_RATES[work.method],
        "per_device_train_batch_size": work.per_device_train_batch_size,
        "max_completion_length": work.completion_length,
        "max_instruction_length": min(1024, work.completion_length),
    }
    if work.engine:
        settings["vllm_max_model_length"] = min(2 * PROMPT_LENGTH + work.completion_length, context)
        settings["vllm_gpu_memory_utilization"] = round(work.engine / GIB / gpu.memory, 2)
    else:
        settings |= {"use_vllm": False, "num_generations": 8, "generation_batch_size": work.sequences}
    return settings | {"logging_steps": 1, "save_steps": 50}


def plan_text(args: Namespace, sizes: ModelSizes, plans: dict[str, Plan]) -> str:
    """Return the budget of each method as a table, in GiB."""
    gpu, columns = GPUS[args.gpu], plans.values()
    parts = [name for name in plans["full"].parts if any(plan.parts[name] for plan in columns)]
    rows = [[name, *(f"{plan.parts[name] / GIB:.1f}" for plan in columns)] for name in parts]
    rows.append(["total", *(f"{sum(plan.parts.values()) / GIB:.1f}" for plan in columns)])
    rows.append(["per_device_train_batch_size", *(str(plan.work.per_device_train_batch_size) for plan in columns)])
    rows.append(["", *("fits" if plan.fits else "does not fit" for plan in columns)])
    return (
        f"{args.model}: {(sizes.linear + sizes.other) / 1e9:.2f} billion weights, on one GPU of {args.gpu} GB "
        f"({gpu.example}, {gpu.memory} GiB, {KEPT_FREE / GIB} of them kept free).\nAt the fullest moment, in GiB, for "
        f"prompts of {PROMPT_LENGTH} and completions of {args.max_completion_length} tokens:\n\n"
        f"{table([NAMES[name] for name in plans], rows)}"
    )


def run(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the arguments (`sys.argv` by default), print the budget and write the recipe."""
    parser = command_parser(prog=prog, usage="%(prog)s --model MODEL [...]", description=COMMANDS["plan"][1])
    parser.add_argument(
        "--model", required=True, help="A model on the Hub, or the folder of one; no weights are read."
    )
    parser.add_argument("--gpu", type=int, choices=GPUS, default=24, help="Memory of the GPU in GB.")
    parser.add_argument("--method", choices=NAMES, help="What to train. If unset, the first that fits.")
    parser.add_argument("--max_completion_length", type=int, default=512, help="Longest completion, in tokens.")
    parser.add_argument("--output", type=Path, default=Path("recipe.yaml"), help="Where the recipe is written.")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="Whether to run code that comes with the model."
    )
    args = parser.parse_args(arguments)
    with one_sentence():
        print(plan_and_write(args))
    if not args.output.exists():
        sys.exit(1)  # so that no training is started with it


def plan_and_write(args: Namespace) -> str:
    """Return the budget and what to do; write the recipe if a method fits."""
    from .engine.models import model_length, read_config  # here, since `--help` does without torch

    gpu = GPUS[args.gpu]
    if not args.output.parent.is_dir():
        raise ValueError(f"There is no folder {str(args.output.parent)!r}. Make it, or set --output to another.")
    if args.output.exists():
        raise ValueError(f"{str(args.output)!r} is there already. Set --output to a new file.")
    methods = [name for name in NAMES if gpu.bfloat16 or name != "qlora"]  # TRL holds QLoRA's adapter in bfloat16
    if args.method and args.method not in methods:
        raise ValueError(
            f"--method is qlora for {gpu.example}, which has no bfloat16; TRL holds QLoRA's adapter in it. Set --method "
            "to lora."
        )
    config = read_config(args.model, trust_remote_code=args.trust_remote_code)
    context = model_length(config)
    if context <= PROMPT_LENGTH:
        raise ValueError(
            f"The model's context is {context} tokens, and {PROMPT_LENGTH} are for the prompt. Take a model with a longer one."
        )
    if not 1 <= args.max_completion_length <= context - PROMPT_LENGTH:
        raise ValueError(
            f"--max_completion_length is {args.max_completion_length}. Set it from 1 to {context - PROMPT_LENGTH}: the "
            f"model's context is {context} tokens, and {PROMPT_LENGTH} are for the prompt."
        )
    sizes = planned_sizes(config, args.trust_remote_code)
    plans = {name: make_plan(sizes, gpu, name, args.max_completion_length) for name in methods}
    text = plan_text(args, sizes, plans)
    fitting = next((name for name, plan in plans.items() if plan.fits and args.method in (None, name)), None)
    if fitting is None:
        wanted = f"{NAMES[args.method]} does not fit" if args.method else "None of them fits"
        return f"{text}\n\n{wanted}. Take a larger GPU, a smaller model, or shorter completions."
    recipe = yaml.safe_dump(plan_settings(args.model, gpu, plans[fitting], context), sort_keys=False)
    args.output.write_text(f"# serl-trl plan: {NAMES[fitting]} on {gpu.example}\n{recipe}")
    return (
        f"{text}\n\nThe recipe for {NAMES[fitting]} is in {args.output}:\n\n"
        f"serl-trl train --config {args.output} --accelerate_config single_gpu \\\n"
        "    --seeds my_questions.jsonl --output_dir outputs/mine"
    )
