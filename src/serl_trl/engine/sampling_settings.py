"""How one call of the trainer's engine samples, where settings or generators are not the trainer's own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, set_seed

from ..self_play.carriers import SamplingSettings


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
        with attributes(engine, changed):
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
        with attributes(trainer, changed), _presence_penalty(trainer, settings.presence_penalty):
            yield


@contextmanager
def attributes(target: Any, values: dict[str, Any]) -> Iterator[None]:
    """Set attributes for the length of the block."""
    before = {name: vars(target)[name] for name in values.keys() & vars(target).keys()}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name in values:
            if name in before:
                setattr(target, name, before[name])
            else:
                delattr(target, name)  # its class has it


@contextmanager
def own_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Let the block draw from global generators seeded with `seed`; after it they are as they were before."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


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
    generate = model.generate

    def generate_with_penalty(*args, **kwargs):
        processor = PresencePenalty(penalty, kwargs["input_ids"].shape[1])
        return generate(*args, logits_processor=LogitsProcessorList([processor]), **kwargs)

    with attributes(model, {"generate": generate_with_penalty}):
        yield
