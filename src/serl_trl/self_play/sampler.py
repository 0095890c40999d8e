"""Where completions come from: what the loop needs of an engine, and one that answers from a script."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from zlib import crc32

from .carriers import Completion, Group, Prompt, SamplingSettings


class Sampler(Protocol):
    """What the loop needs of an engine; every process calls each method with the same arguments.

    Attributes:
        step (`int`): Optimizer steps that the sampling weights have seen.
        rank (`int`): This process, from 0.
        num_processes (`int`): All of them.
    """

    step: int
    rank: int
    num_processes: int

    def tokenize(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the tokens of each conversation or text, up to where the model goes on; all are of one kind."""

    def sample(
        self, prompt_ids: Sequence[list[int]], num_completions: int, settings: SamplingSettings | None = None
    ) -> list[list[Completion]]:
        """Return `num_completions` completions of each prompt, sampled as in training unless `settings` are given.

        `settings` are for instructions, whose text shows the special tokens in it.
        """

    def slow_weights(self) -> AbstractContextManager:
        """Let `sample` take the slow weights, an average of the trained ones, for the length of the block."""

    def with_logprobs(self, groups: list[Group]) -> list[Group]:
        """Return the groups with log-probabilities under the present weights where the engine gave none."""

    def gather(self, objects: list) -> list:
        """Return the objects of all processes, in rank order."""


def judge_once(sampler: Sampler, items: Iterable[tuple], judge: Callable) -> list:
    """Return `judge(*item)` for each item, from one process only and the same on all: time-outs could differ."""
    own = [(index, judge(*item)) for index, item in enumerate(items) if index % sampler.num_processes == sampler.rank]
    return [judged for _, judged in sorted(sampler.gather(own), key=lambda pair: pair[0])]


class ScriptedSampler:
    """A [`Sampler`] that answers from a function, for tests and dry runs.

    Args:
        reply (`Callable`): From the conversation and the completion's number in its group to the completion's text.
        max_words (`int`): Longer completions are cut there and count as truncated.
        slow_reply (`Callable`, *optional*): Like `reply`, for the slow weights; by default these answer alike.
    """

    def __init__(
        self,
        reply: Callable[[Prompt, int], str],
        max_words: int = 1000,
        slow_reply: Callable[[Prompt, int], str] | None = None,
    ):
        self.reply, self.max_words, self.slow_reply = reply, max_words, slow_reply or reply
        self.step, self.rank, self.num_processes = 0, 0, 1
        self.calls: list[tuple[int, int]] = []  # (prompts, completions of each) of every call
        self._prompts: dict[int, Prompt] = {}

    def tokenize(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        texts = [
            prompt if isinstance(prompt, str) else " ".join(message["content"] for message in prompt)
            for prompt in prompts
        ]
        self._prompts |= {crc32(text.encode()): prompt for text, prompt in zip(texts, prompts, strict=True)}
        return [[crc32(text.encode())] * len(text.split()) for text in texts]  # as many tokens as words, all the same

    def sample(
        self, prompt_ids: Sequence[list[int]], num_completions: int, settings: SamplingSettings | None = None
    ) -> list[list[Completion]]:
        self.calls.append((len(prompt_ids), num_completions))
        prompts = [self._prompts[ids[0]] for ids in prompt_ids]
        return [[self._complete(self.reply(prompt, n)) for n in range(num_completions)] for prompt in prompts]

    @contextmanager
    def slow_weights(self):
        own, self.reply = self.reply, self.slow_reply
        try:
            yield
        finally:
            self.reply = own

    def with_logprobs(self, groups: list[Group]) -> list[Group]:
        return groups

    def gather(self, objects: list) -> list:
        return objects

    def _complete(self, text: str) -> Completion:
        words = len(text.split())
        return Completion(text, tuple(range(min(words, self.max_words))), truncated=words > self.max_words)
