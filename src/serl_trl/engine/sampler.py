"""Sampling through the trainer's engine: vLLM colocate, vLLM server or transformers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from ..self_play.carriers import Completion, Group, Prompt, SamplingSettings
from .log_probabilities import log_probabilities
from .models import tokenize_prompts
from .sampling_settings import sampling_settings


class EngineError(RuntimeError):
    """Sampling failed on one process; all of them raise this, so that none waits for another."""


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

    def tokenize(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        return tokenize_prompts(self.trainer.processing_class, prompts, **self.trainer.chat_template_kwargs)

    def sample(
        self, prompt_ids: Sequence[list[int]], num_completions: int, settings: SamplingSettings | None = None
    ) -> list[list[Completion]]:
        trainer = self.trainer
        if trainer.model.training:
            trainer.ending.check()
        repeated = [ids for ids in prompt_ids for _ in range(num_completions)]
        own = self._share(repeated, num_completions)
        # Transformers pads all it is given into one batch: no larger ones than the generation batch. vLLM schedules.
        chunk = len(own) if trainer.use_vllm else trainer.args.generation_batch_size // self.num_processes
        token_ids, logprobs = [], []
        was_training = trainer.model.training
        with self._failing_together(), sampling_settings(trainer, settings):
            for start in range(0, len(own), chunk):
                ids, logps = trainer._generate_single_turn(own[start : start + chunk], None, {}, num_completions)
                token_ids += ids
                logprobs += logps or [None] * len(ids)
                trainer.model.train(was_training)  # continuous batching ends in training mode
        # Only instructions are sampled by settings of their own. They go into prompts: no special token may be lost there.
        completions = as_completions(
            trainer.processing_class, token_ids, trainer.eos_token_ids, logprobs, keep_special=settings is not None
        )
        completions = self.gather(completions)
        return [completions[start : start + num_completions] for start in range(0, len(repeated), num_completions)]

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        trainer = self.trainer
        with trainer.trust.slow_weights.swapped():
            trainer._last_loaded_step = -1  # vLLM takes the weights of a step once: these are others
            try:
                yield
            finally:
                trainer._last_loaded_step = -1

    def with_logprobs(self, groups: list[Group]) -> list[Group]:
        if not groups or groups[0].completions[0].logprobs is not None:
            return groups
        rows = [(group.prompt_ids, completion.token_ids) for group in groups for completion in group.completions]
        logprobs = iter(self.gather(log_probabilities(self.trainer, self._share(rows, 1))))
        return [
            replace(group, completions=tuple(replace(c, logprobs=tuple(next(logprobs))) for c in group.completions))
            for group in groups
        ]

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        """Let all processes fail where one does, so that none waits for it."""
        error = None
        try:
            yield
        except Exception as raised:
            if self.num_processes == 1:
                raise
            error = raised
        own = None if error is None else f"process {self.rank}: {type(error).__name__}: {error}"
        failures = [failure for failure in self.gather([own]) if failure is not None]
        if failures:
            raise EngineError("; ".join(failures)) from error

    def _share(self, rows: list, group_size: int) -> list:
        """Return this process's part: as many rows as the others have, in whole groups over all, copies at the end."""
        rows = list(rows)
        while len(rows) % self.num_processes:
            rows += rows[-group_size:]
        share = len(rows) // self.num_processes
        return rows[self.rank * share : (self.rank + 1) * share]


def eos_tokens(tokenizer: PreTrainedTokenizerBase, of_model: int | list[int] | None) -> list[int]:
    """Return all tokens that end a completion: those of the model's generation settings, and the tokenizer's own."""
    of_model = of_model if isinstance(of_model, list) else [of_model]
    return sorted({*of_model, tokenizer.eos_token_id} - {None})


def as_completions(
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Sequence[Sequence[int]],
    eos_token_ids: Sequence[int],
    logprobs: Sequence[Sequence[float] | None] | None = None,
    keep_special: bool = False,
) -> list[Completion]:
    """Return the completions of these tokens; one that ends in no end token and no padding is truncated, as in TRL.

    With `keep_special`, the text shows the special tokens before its end; else it shows none.
    """
    ends = {*eos_token_ids, tokenizer.pad_token_id}
    shown = [_without_end(ids, ends) for ids in token_ids] if keep_special else token_ids
    texts = tokenizer.batch_decode(shown, skip_special_tokens=not keep_special)
    return [
        Completion(text, tuple(ids), not ids or ids[-1] not in ends, None if logps is None else tuple(logps))
        for text, ids, logps in zip(texts, token_ids, logprobs or [None] * len(token_ids), strict=True)
    ]


def _without_end(token_ids: Sequence[int], ends: set[int | None]) -> Sequence[int]:
    length = len(token_ids)
    while length and token_ids[length - 1] in ends:
        length -= 1
    return token_ids[:length]
