"""Sampling the completions to evaluate, with vLLM or transformers; what is sampled depends on the seed alone.

Both engines are a function from the tokens of all prompts, and the numbers of those that are done, to the completions of
each of the others as they are made. A resumed evaluation so draws what an uninterrupted one would have drawn.
"""

import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..engine.adapters import load_merged
from ..self_play.carriers import Completion
from .arguments import EvaluationArguments
from .preparation import base_model


Sample = Callable[[list[list[int]], Collection[int]], Iterator[tuple[int, list[Completion]]]]


def load_engine(args: EvaluationArguments, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Sample:
    """Load the model into the engine of the settings; `max_length` is the longest prompt with its completion, in tokens."""
    return _load_vllm(args, tokenizer, max_length) if args.use_vllm else _load_transformers(args, tokenizer)


def derived_seed(seed: int, number: int) -> int:
    """Return the seed of one prompt's completions, far from that of every other prompt."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _load_model(args: EvaluationArguments) -> PreTrainedModel:
    kwargs = {"dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
    load = AutoModelForCausalLM.from_pretrained if base_model(args.model) is None else load_merged
    return load(args.model, **kwargs)


def _load_transformers(args: EvaluationArguments, tokenizer: PreTrainedTokenizerBase) -> Sample:
    model = _load_model(args).to(torch.accelerator.current_accelerator() or "cpu").eval()
    ends = model.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
    # The model's own generation settings, such as top_k or repetition_penalty, apply in neither engine nor training.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id, disable_compile=True
    )
    return partial(_sample_transformers, args, model, tokenizer, ends)


def _sample_transformers(args, model, tokenizer, ends: set[int], prompt_ids: list[list[int]], done: Collection[int]):
    """Sample in fixed batches of whole groups, each with its own seed; a batch that is done in part is sampled again."""
    groups = max(args.batch_size // args.num_samples, 1)
    for start in range(0, len(prompt_ids), groups):
        batch = prompt_ids[start : start + groups]
        if all(start + row in done for row in range(len(batch))):
            continue
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(derived_seed(args.seed, start))
            token_ids = _generate(args, model, tokenizer, batch)
        texts_and_ids = [_until(ids, ends) for ids in token_ids]
        texts = tokenizer.batch_decode([ids for ids, _ in texts_and_ids], skip_special_tokens=True)
        completions = [
            Completion(text, tuple(ids), truncated)
            for text, (ids, truncated) in zip(texts, texts_and_ids, strict=True)
        ]
        for row in range(len(batch)):
            if start + row not in done:
                yield start + row, completions[row * args.num_samples : (row + 1) * args.num_samples]


@torch.inference_mode()
def _generate(args, model, tokenizer, batch: list[list[int]]) -> list[list[int]]:
    """Return the sampled tokens, (batch * num_samples, completion_length), padded after the end."""
    padded = tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt").to(model.device)
    sampling = {"do_sample": False}
    if args.temperature > 0:
        sampling = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
    output = model.generate(
        **padded, **sampling, max_new_tokens=args.max_completion_length, num_return_sequences=args.num_samples
    )
    return output[:, padded["input_ids"].shape[1] :].tolist()


def _until(ids: list[int], ends: set[int]) -> tuple[list[int], bool]:
    """Return the tokens up to the first end, and whether there is none."""
    end = next((position for position, token in enumerate(ids) if token in ends), None)
    return (ids, True) if end is None else (ids[: end + 1], False)


def _load_vllm(args: EvaluationArguments, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Sample:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # Ctrl-C would end its process in a traceback
    on_cpu = {}
    if torch.accelerator.current_accelerator() is None:
        # Compiling takes longer than it saves there, and vLLM would take most of the machine's memory (docs/runs.md).
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
        # A prompt that is computed in parts can't have a seed of its own there ("CPU Generator does not use offset").
        on_cpu = {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(max_length, 8192),
        }
    from vllm import LLM

    with TemporaryDirectory() as folder:
        model = args.model
        if base_model(model) is not None:
            model = folder
            _load_model(args).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        llm = LLM(
            model,
            dtype=args.dtype,
            max_model_len=max_length,
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            trust_remote_code=args.trust_remote_code,
            seed=args.seed,
            **on_cpu,
        )
    return partial(_sample_vllm, args, llm, tokenizer)


def _sample_vllm(args, llm, tokenizer, prompt_ids: list[list[int]], done: Collection[int]):
    """Hand all prompts to vLLM at once, each with its own seed, and yield them in the order that they are finished."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for number, ids in enumerate(prompt_ids):
        if number not in done:
            params = SamplingParams(
                n=args.num_samples,
                temperature=args.temperature,
                top_p=args.top_p,
                max_tokens=args.max_completion_length,
                seed=derived_seed(args.seed, number),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            llm.llm_engine.add_request(str(number), {"prompt_token_ids": ids}, params)
    while llm.llm_engine.has_unfinished_requests():
        for output in llm.llm_engine.step():
            texts = tokenizer.batch_decode([one.token_ids for one in output.outputs], skip_special_tokens=True)
            yield (
                int(output.request_id),
                [
                    Completion(text, tuple(one.token_ids), one.finish_reason == "length")
                    for text, one in zip(texts, output.outputs, strict=True)
                ],
            )
