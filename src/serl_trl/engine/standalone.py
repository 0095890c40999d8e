"""Sampling from a model by itself, with vLLM or transformers; what is sampled depends on the seed alone.

Either engine is a function from the tokens of all prompts, the number of completions, and the numbers of the prompts that
are done, to the completions of each of the others as they are made. A resumed evaluation so draws what an uninterrupted
one would have drawn, on any number of GPUs with vLLM.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..self_play.carriers import Completion, Prompt
from .adapters import load_merged
from .models import base_model, read_tokenizer, tokenize_prompts
from .replicas import Replicas
from .sampler import as_completions, eos_tokens
from .vllm_cpu import seeded_cpu_settings


class StandaloneSampler:
    """What an evaluation needs of a [`Sampler`], for a model by itself, which is loaded when it first samples.

    `args` are [`EvaluationArguments`]. Raises `ValueError` if the model has no tokenizer.
    """

    rank, num_processes = 0, 1

    def __init__(self, args):
        self.args, self.tokenizer = args, read_tokenizer(args.model, args.trust_remote_code)
        self._longest = 0  # tokens of the longest prompt
        self._engine: Callable | None = None
        self._opened = ExitStack()

    def tokenize(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        prompt_ids = tokenize_prompts(self.tokenizer, prompts, **(self.args.chat_template_kwargs or {}))
        self._longest = max(self._longest, *map(len, prompt_ids))
        return prompt_ids

    def sample(self, prompt_ids: Sequence[list[int]], num_completions: int) -> list[list[Completion]]:
        groups = dict(self.stream(prompt_ids, num_completions))
        return [groups[number] for number in range(len(prompt_ids))]

    def stream(
        self, prompt_ids: Sequence[list[int]], num_completions: int, done: Collection[int] = ()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield the number and the completions of each prompt whose number is not in `done`, as they are finished."""
        self._engine = self._engine or self._load()
        return self._engine(prompt_ids, num_completions, done)

    def gather(self, objects: list) -> list:
        return objects

    def close(self) -> None:
        """End all processes that were started."""
        self._opened.close()

    def _load(self) -> Callable:
        args, model = self.args, self.args.model
        if not args.use_vllm:
            return load_transformers(args, self.tokenizer)
        if base_model(model) is not None:
            model = self._opened.enter_context(TemporaryDirectory())
            _load_model(args).save_pretrained(model)
            self.tokenizer.save_pretrained(model)
        load = partial(load_vllm, args, self.tokenizer, model, self._longest + args.max_completion_length)
        if args.vllm_data_parallel_size == 1:
            return load()
        replicas = Replicas(load, args.vllm_data_parallel_size, args.vllm_tensor_parallel_size)
        return self._opened.enter_context(closing(replicas))


def _device() -> torch.device:
    """Return the accelerator that is here; a build of torch for GPUs may run where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def derived_seed(seed: int, number: int) -> int:
    """Return the seed of one prompt's completions, far from that of every other prompt."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _load_model(args) -> PreTrainedModel:
    load = AutoModelForCausalLM.from_pretrained if base_model(args.model) is None else load_merged
    return load(args.model, dtype=args.dtype, trust_remote_code=args.trust_remote_code)


def load_transformers(args, tokenizer: PreTrainedTokenizerBase) -> Callable:
    """Load the model into transformers."""
    model = _load_model(args).to(_device()).eval()
    # The model's own generation settings, such as top_k or repetition_penalty, apply in neither engine nor training.
    model.generation_config = GenerationConfig(
        eos_token_id=eos_tokens(tokenizer, model.generation_config.eos_token_id),
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=args.max_completion_length,
        disable_compile=True,
    )
    if args.temperature > 0:
        model.generation_config.update(do_sample=True, temperature=args.temperature, top_p=args.top_p, top_k=0)
    return partial(_sample_transformers, args, model, tokenizer)


def _sample_transformers(args, model, tokenizer, prompt_ids, num_completions, done):
    """Sample in fixed batches of whole groups, each with its own seed; a batch that is done in part is sampled again."""
    groups = max(args.batch_size // num_completions, 1)
    for start in range(0, len(prompt_ids), groups):
        batch = prompt_ids[start : start + groups]
        missing = set(range(len(batch))) - {number - start for number in done}
        if not missing:
            continue
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(derived_seed(args.seed, start))
            completions = _generate(model, tokenizer, batch, num_completions)
        for row in sorted(missing):
            yield start + row, completions[row * num_completions : (row + 1) * num_completions]


@torch.inference_mode()
def _generate(model, tokenizer, batch: list[list[int]], num_completions: int) -> list[Completion]:
    padded = tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt").to(model.device)
    output = model.generate(**padded, num_return_sequences=num_completions)  # (batch * num_completions, length)
    ends = model.generation_config.eos_token_id
    token_ids = []
    for ids in output[:, padded["input_ids"].shape[1] :].tolist():
        end = next((position for position, token in enumerate(ids) if token in ends), len(ids))
        token_ids.append(ids[: end + 1])  # what follows is padding
    return as_completions(tokenizer, token_ids, ends)


def load_vllm(args, tokenizer: PreTrainedTokenizerBase, model: str, max_length: int) -> Callable:
    """Load a model into vLLM; `max_length` is the longest prompt with its completion, in tokens."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # Ctrl-C would end its process in a traceback
    settings = (seeded_cpu_settings(max_length) if _device().type == "cpu" else {}) | {
        "dtype": args.dtype,
        "max_model_len": max_length,
        "gpu_memory_utilization": args.vllm_gpu_memory_utilization,
        "tensor_parallel_size": args.vllm_tensor_parallel_size,
        "trust_remote_code": args.trust_remote_code,
        "seed": args.seed,
    }
    from vllm import LLM

    engine = LLM(model, **settings).llm_engine
    ends = eos_tokens(tokenizer, engine.model_config.try_get_generation_config().get("eos_token_id"))
    return partial(_sample_vllm, args, engine, tokenizer, ends)


def _sample_vllm(args, engine, tokenizer, ends, prompt_ids, num_completions, done):
    """Hand all prompts to vLLM at once, each with its own seed, and yield them in the order that they are finished."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for number, ids in enumerate(prompt_ids):
        if number not in done:
            params = SamplingParams(
                n=num_completions,
                temperature=args.temperature,
                top_p=args.top_p,
                max_tokens=args.max_completion_length,
                seed=derived_seed(args.seed, number),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            engine.add_request(str(number), {"prompt_token_ids": ids}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            yield int(output.request_id), as_completions(tokenizer, [one.token_ids for one in output.outputs], ends)
