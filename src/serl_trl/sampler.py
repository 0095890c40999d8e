"""Sampling through the trainer's engine: vLLM colocate, vLLM server or transformers. The only file that knows which."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object, is_peft_model
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from .adapters import merged_parameters
from .checks import context_length, is_sharded
from .self_instruction.prompt import tokenize_prompts
from .types import Completion, Group, Message, SamplingSettings


class Sampler(Protocol):
    """What the loader needs of an engine; every process calls each method with the same arguments.

    Attributes:
        step (`int`): Optimizer steps that the sampling weights have seen.
        rank (`int`): This process, from 0.
        num_processes (`int`): All of them.
    """

    step: int
    rank: int
    num_processes: int

    def tokenize(self, prompts: Sequence[list[Message]]) -> list[list[int]]:
        """Return the tokens of each conversation, up to where the model goes on."""

    def sample(
        self, prompt_ids: Sequence[list[int]], num_completions: int, settings: SamplingSettings | None = None
    ) -> list[list[Completion]]:
        """Return `num_completions` completions of each prompt, sampled as in training unless `settings` are given."""

    def with_logprobs(self, groups: list[Group]) -> list[Group]:
        """Return the groups with log-probabilities under the present weights where the engine gave none."""

    def gather(self, objects: list) -> list:
        """Return the objects of all processes, in rank order."""


class TrainerSampler:
    """A [`Sampler`] that samples through the trainer's own generation, whatever the engine.

    Args:
        trainer ([`SeRLTrainer`]): The trainer.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.rank = trainer.accelerator.process_index
        self.num_processes = trainer.accelerator.num_processes

    @property
    def step(self) -> int:
        return self.trainer.state.global_step

    def gather(self, objects: list) -> list:
        return gather_object(objects)

    def tokenize(self, prompts: Sequence[list[Message]]) -> list[list[int]]:
        return tokenize_prompts(self.trainer.processing_class, prompts, **self.trainer.chat_template_kwargs)

    def sample(
        self, prompt_ids: Sequence[list[int]], num_completions: int, settings: SamplingSettings | None = None
    ) -> list[list[Completion]]:
        trainer = self.trainer
        repeated = [ids for ids in prompt_ids for _ in range(num_completions)]
        own = self._share(repeated, num_completions)
        # Transformers pads all it is given into one batch: no larger ones than the generation batch. vLLM schedules.
        chunk = len(own) if trainer.use_vllm else trainer.args.generation_batch_size // self.num_processes
        token_ids, logprobs = [], []
        with sampling_settings(trainer, settings):
            for start in range(0, len(own), chunk):
                ids, logps = trainer._generate_single_turn(own[start : start + chunk], None, {}, num_completions)
                token_ids += ids
                logprobs += logps or [None] * len(ids)
        texts = trainer.processing_class.batch_decode(token_ids, skip_special_tokens=True)
        ends = {*trainer.eos_token_ids, trainer.processing_class.pad_token_id}
        completions = [
            Completion(text, tuple(ids), not ids or ids[-1] not in ends, None if logps is None else tuple(logps))
            for text, ids, logps in zip(texts, token_ids, logprobs, strict=True)
        ]
        completions = self.gather(completions)
        return [completions[start : start + num_completions] for start in range(0, len(repeated), num_completions)]

    def with_logprobs(self, groups: list[Group]) -> list[Group]:
        if not groups or groups[0].completions[0].logprobs is not None:
            return groups
        rows = [(group.prompt_ids, completion.token_ids) for group in groups for completion in group.completions]
        logprobs = iter(self.gather(self.trainer.log_probabilities(self._share(rows, 1))))
        return [
            replace(group, completions=tuple(replace(c, logprobs=tuple(next(logprobs))) for c in group.completions))
            for group in groups
        ]

    def _share(self, rows: list, group_size: int) -> list:
        """Return this process's part: as many rows as the others have, in whole groups over all, copies at the end."""
        rows = list(rows)
        while len(rows) % self.num_processes:
            rows += rows[-group_size:]
        share = len(rows) // self.num_processes
        return rows[self.rank * share : (self.rank + 1) * share]


class ScriptedSampler:
    """A [`Sampler`] that answers from a function, for tests and dry runs.

    Args:
        reply (`Callable`): From the conversation and the completion's number in its group to the completion's text.
        max_words (`int`): Longer completions are cut there and count as truncated.
    """

    def __init__(self, reply: Callable[[list[Message], int], str], max_words: int = 1000):
        self.reply, self.max_words = reply, max_words
        self.step, self.rank, self.num_processes = 0, 0, 1
        self.calls: list[tuple[int, int]] = []  # (prompts, completions of each) of every call
        self._prompts: dict[int, list[Message]] = {}

    def tokenize(self, prompts: Sequence[list[Message]]) -> list[list[int]]:
        texts = [" ".join(message["content"] for message in prompt) for prompt in prompts]
        self._prompts |= {crc32(text.encode()): prompt for text, prompt in zip(texts, prompts, strict=True)}
        return [[crc32(text.encode())] * len(text.split()) for text in texts]  # as many tokens as words, all the same

    def sample(
        self, prompt_ids: Sequence[list[int]], num_completions: int, settings: SamplingSettings | None = None
    ) -> list[list[Completion]]:
        self.calls.append((len(prompt_ids), num_completions))
        prompts = [self._prompts[ids[0]] for ids in prompt_ids]
        return [[self._complete(self.reply(prompt, n)) for n in range(num_completions)] for prompt in prompts]

    def with_logprobs(self, groups: list[Group]) -> list[Group]:
        return groups

    def gather(self, objects: list) -> list:
        return objects

    def _complete(self, text: str) -> Completion:
        words = len(text.split())
        return Completion(text, tuple(range(min(words, self.max_words))), truncated=words > self.max_words)


@contextmanager
def engine_for_device(args) -> Iterator[None]:
    """Let TRL start vLLM on the CPU in float32, like the trainer, and without compiling.

    TRL hands neither setting on. Sampling is 4 times and starting 7 times faster than as vLLM does by itself on a CPU
    without bfloat16 arithmetic (benchmarks/vllm_cpu.py, docs/runs.md).
    """
    if not (args.use_vllm and args.vllm_mode == "colocate" and args.device.type == "cpu"):
        yield
        return
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; vLLM would take most of the machine's memory
    from trl.generation import vllm_generation

    with _attributes(vllm_generation, {"LLM": partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)}):
        yield


def prepare_engine(trainer) -> None:
    """Let weights reach vLLM as they are, and make the seed count again after vLLM reset all generators."""
    if not trainer.use_vllm:
        return
    if is_peft_model(trainer.model) and not is_sharded(trainer.args):
        trainer.vllm_generation._iter_named_params = MethodType(merged_parameters, trainer.vllm_generation)
    if trainer.vllm_mode == "server":
        _check_server(trainer)
        return
    # vLLM seeds `random`, NumPy and torch with the rank at its start. Equal within a tensor-parallel group, whose
    # ranks must draw alike, and different between groups.
    seed = trainer.args.seed * 10007 + trainer.accelerator.process_index // trainer.vllm_tensor_parallel_size
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if trainer.accelerator.device.type == "cpu":
        trainer.vllm_generation.sync_weights = MethodType(_reload_weights, trainer.vllm_generation)


def _check_server(trainer) -> None:
    """Raise `ValueError` if the vLLM server's context is shorter than ours.

    It refuses a prompt whose tokens and `max_tokens` exceed it together. Only the first process would hear of that, in
    the midst of training, and the others wait for it in vain.
    """
    length = [None]
    if trainer.accelerator.is_main_process:
        length = [trainer.vllm_generation.vllm_client.get_server_info()["model_config"]["max_model_len"]]
    (length,) = broadcast_object_list(length)
    needed = context_length(trainer.model.config, trainer.args)
    if length < needed:
        raise ValueError(
            f"The vLLM server has a context of {length} tokens, and prompt and completion may have {needed} together. "
            f"Set vllm_max_model_length to {length}, or start the server with --max-model-len {needed}."
        )


def _reload_weights(vllm_generation) -> None:
    """Push the weights by vLLM's layerwise reload: on the CPU its kernels repack them, and a plain load is lost."""
    weights = ((name, weight.detach()) for name, weight in vllm_generation._iter_named_params())
    vllm_generation.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    model = vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    head, embeddings = getattr(model, "lm_head", None), vllm_generation.model.get_input_embeddings()
    if head is not None and vllm_generation.model.get_output_embeddings().weight is embeddings.weight:
        # The reload passes a head over that is tied to the embeddings: the weight is new, its repacked copy is not.
        head.quant_method.process_weights_after_loading(head)
    vllm_generation.llm.reset_prefix_cache()


@contextmanager
def sampling_settings(trainer, settings: SamplingSettings | None) -> Iterator[None]:
    """Let the trainer's engine sample with `settings` for the length of the block."""
    if settings is None:
        yield
    elif trainer.use_vllm:
        engine = trainer.vllm_generation
        extra = {**engine.generation_kwargs, "presence_penalty": settings.presence_penalty}
        changed = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_completion_length": settings.max_tokens,
            "structured_outputs_regex": None,  # it shapes answers, not lists of instructions
            "generation_kwargs": extra,
        }
        with _attributes(engine, changed):
            yield
    else:
        kwargs = {
            **trainer.generation_kwargs,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_new_tokens": settings.max_tokens,
        }
        changed = {
            "generation_kwargs": kwargs,
            "generation_config": GenerationConfig(**kwargs, disable_compile=True),
        }
        with _attributes(trainer, changed), _presence_penalty(trainer, settings.presence_penalty):
            yield


@contextmanager
def _attributes(target: Any, values: dict[str, Any]) -> Iterator[None]:
    """Set attributes for the length of the block."""
    before = {name: getattr(target, name) for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


class PresencePenalty(LogitsProcessor):
    """Lower the logit of each token that was already generated, once; the prompt's tokens don't count (as in vLLM).

    Args:
        penalty (`float`): What is subtracted, in [-2, 2].
        prompt_length (`int`): Tokens of the padded prompt.
    """

    def __init__(self, penalty: float, prompt_length: int):
        self.penalty, self.prompt_length = penalty, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        # input_ids: (batch, prompt + generated), scores: (batch, vocabulary)
        present = torch.zeros_like(scores).scatter(1, input_ids[:, self.prompt_length :], 1.0)
        return scores - self.penalty * present


@contextmanager
def _presence_penalty(trainer, penalty: float) -> Iterator[None]:
    """Apply a presence penalty in transformers generation, which has none of its own and ignores it silently."""
    if not penalty:
        yield
        return
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    generate, own = model.generate, "generate" in vars(model)

    def generate_with_penalty(*args, **kwargs):
        processor = PresencePenalty(penalty, kwargs["input_ids"].shape[1])
        return generate(*args, logits_processor=LogitsProcessorList([processor]), **kwargs)

    model.generate = generate_with_penalty
    try:
        yield
    finally:
        if own:
            model.generate = generate
        else:
            del model.generate
