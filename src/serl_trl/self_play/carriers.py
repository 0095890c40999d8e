"""The plain data that flows between the stages: what was sampled, what became of a candidate, what is trained on."""

from dataclasses import dataclass, field

from ..answers.voting import Vote


Message = dict[str, str]  # {"role": "user", "content": "What is 2 + 3?"}
Prompt = list[Message] | str  # a conversation; for a model without a chat template a text


@dataclass(frozen=True)
class SamplingSettings:
    """How one call of the engine samples, where it differs from the trainer's own settings.

    Attributes:
        temperature (`float`): Sampling temperature, > 0.
        top_p (`float`): Nucleus mass, in (0, 1].
        presence_penalty (`float`): Subtracted once from the logit of every token already generated, in [-2, 2].
        max_tokens (`int`): Longest completion, in tokens.
    """

    temperature: float
    top_p: float
    presence_penalty: float
    max_tokens: int


@dataclass(frozen=True)
class Completion:
    """One sampled completion, e.g. `Completion(text="\\boxed{5}", token_ids=(12, 9, 2), truncated=False)`.

    Attributes:
        text (`str`): Decoded without special tokens.
        token_ids (`tuple[int, ...]`): Shape (completion_length,), the end-of-turn token included.
        truncated (`bool`): Whether it hit the length limit instead of ending by itself.
        logprobs (`tuple[float | None, ...]`, *optional*):
            Shape (completion_length,): log-probability of each token under the weights that sampled it, in nats;
            `None` for a token that the engine could not score. Absent when the engine reports none.
    """

    text: str
    token_ids: tuple[int, ...]
    truncated: bool
    logprobs: tuple[float | None, ...] | None = None


@dataclass
class Candidate:
    """One instruction, and what became of it: a row of the ledger.

    Attributes:
        id (`int`): Running number in the run.
        step (`int`): Optimizer steps that the weights that wrote it had seen.
        round (`int`): Round of the generation batch, from 1.
        instruction (`str`): The text, white space squeezed.
        parents (`list[str]`): The few-shot examples that it was written from; none for a seed.
        fate (`str`):
            `"unused"` (the batch was full before its turn), `"rejected"`, `"admitted"` (the run stopped before it was
            answered), `"no_pseudo_label"`, `"out_of_band"`, `"empty_completion"`, `"unconfirmed"` (by the slow weights),
            `"surplus"` (beyond what its batch needed, and not trained in the next one either) or `"trained"`.
        reason (`str | None`): Why it was rejected, one of [`REASONS`](funnel.py).
        nearest (`str | None`): The most similar earlier instruction, by ROUGE-L; `None` if none has a word in common.
        rouge_l (`float | None`): ROUGE-L F1 with `nearest`, in [0, 1].
        answers, rewards, timed_out: As in [`Vote`], shape (num_generations,); empty if it was not answered.
        completions (`list[str]`): Their texts, with `keep_completions`.
        pseudo_label, pass_rate: As in [`Vote`]; `None` if it was not answered.
        slow_answers (`list[str | None]`): What the slow weights answered; empty if they were not asked.
        trained_step (`int | None`): Optimizer steps done when its group was handed to the trainer.
    """

    id: int
    step: int
    round: int
    instruction: str
    parents: list[str]
    fate: str = "unused"
    reason: str | None = None
    nearest: str | None = None
    rouge_l: float | None = None
    answers: list[str | None] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    timed_out: list[bool] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    pseudo_label: str | None = None
    pass_rate: float | None = None
    slow_answers: list[str | None] = field(default_factory=list)
    trained_step: int | None = None

    @property
    def is_seed(self) -> bool:
        """Whether it is one of the user's, which have no few-shot examples."""
        return not self.parents


@dataclass(frozen=True)
class Group:
    """An instruction with its `num_generations` completions and their vote: the unit of training.

    Attributes:
        candidate_id (`int`): The candidate that it grew from.
        instruction (`str`): The instruction's text.
        prompt (`list[Message]` or `str`): The conversation, or the text, that the completions continue.
        prompt_ids (`tuple[int, ...]`): Shape (prompt_length,), the prompt's tokens as they were sampled from.
        completions (`tuple[Completion, ...]`): Shape (num_generations,).
        vote (`Vote`): What the completions answer, and their rewards.
        surplus (`bool`): Whether it was sampled for the generation batch before, by older weights.
        is_seed (`bool`): Whether the instruction is one of the user's.
    """

    candidate_id: int
    instruction: str
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    vote: Vote
    surplus: bool = False
    is_seed: bool = False

    def columns(self, index: int) -> dict:
        """Return what reward functions are told of a completion, by its place in the group: the vote, and all answers."""
        vote = self.vote
        return {
            "prompt": self.prompt,
            "vote_reward": vote.rewards[index],
            "instruction": self.instruction,
            "pseudo_label": vote.pseudo_label,
            "pass_rate": vote.pass_rate,
            "votes": list(vote.answers),
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Group":
        """Return the group that `asdict` and JSON turned into `values`."""
        vote = Vote(**{name: _tuple(value) for name, value in values["vote"].items()})
        completions = [
            Completion(**{name: _tuple(value) for name, value in row.items()}) for row in values["completions"]
        ]
        return cls(
            **values | {"prompt_ids": tuple(values["prompt_ids"]), "completions": tuple(completions), "vote": vote}
        )


@dataclass(frozen=True)
class Batch:
    """One generation batch: whole groups in order, the same on every process, and the metrics of making it."""

    groups: list[Group]
    metrics: dict[str, float]


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value
