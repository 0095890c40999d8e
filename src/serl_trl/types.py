"""The plain data that flows between the stages: what was sampled, what was voted, what is trained on."""

from dataclasses import dataclass, field


Message = dict[str, str]  # {"role": "user", "content": "What is 2 + 3?"}


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


@dataclass(frozen=True)
class Vote:
    """The majority vote of one group of n completions (SeRL, self-rewarding).

    Attributes:
        answers (`tuple[str | None, ...]`): Shape (n,), the answer of each completion, `None` where it abstained.
        rewards (`tuple[float, ...]`): Shape (n,), 1.0 where the answer equals the majority's, else 0.0.
        pseudo_label (`str | None`):
            The majority's answer; `None` if no answer was parsed or no two completions agree.
        pass_rate (`float`): Share of the group that gave the majority answer, in [0, 1]: the mean of `rewards`.
    """

    answers: tuple[str | None, ...]
    rewards: tuple[float, ...]
    pseudo_label: str | None
    pass_rate: float


@dataclass
class Candidate:
    """One instruction that the model wrote, and what became of it: a row of the ledger.

    Attributes:
        id (`int`): Running number in the run.
        step (`int`): Optimizer steps that the weights that wrote it had seen.
        round (`int`): Round of the generation batch, from 1.
        instruction (`str`): The text, white space squeezed.
        parents (`list[str]`): The few-shot examples that it was written from.
        verdict (`str`): `"admitted"`, `"rejected"`, or `"unused"` (the batch was full before its turn).
        reason (`str | None`): Why it was rejected, a slug.
        nearest (`str | None`): The most similar earlier instruction, by ROUGE-L.
        rouge_l (`float | None`): ROUGE-L F1 with `nearest`, in [0, 1].
        answers, votes: As `Vote.answers` and `Vote.rewards`, shape (num_generations,); empty if not admitted.
        pseudo_label, pass_rate: As in `Vote`; `None` if not admitted.
        fate (`str | None`):
            `"trained"`, `"surplus"` (waits for the next generation batch), `"expired"`, `"out_of_band"`,
            `"no_pseudo_label"`, or `"empty_completion"`; `None` if not admitted, or undecided because the run stopped.
        trained_step (`int | None`): Optimizer steps done when its group was handed to the trainer.
    """

    id: int
    step: int
    round: int
    instruction: str
    parents: list[str]
    verdict: str = "unused"
    reason: str | None = None
    nearest: str | None = None
    rouge_l: float | None = None
    answers: list[str | None] = field(default_factory=list)
    votes: list[float] = field(default_factory=list)
    pseudo_label: str | None = None
    pass_rate: float | None = None
    fate: str | None = None
    trained_step: int | None = None


@dataclass(frozen=True)
class Group:
    """An instruction with its `num_generations` completions and their vote: the unit of training.

    Attributes:
        candidate_id (`int`): The candidate that it grew from.
        instruction (`str`): The instruction's text.
        prompt (`list[Message]`): The conversation that the completions continue.
        prompt_ids (`tuple[int, ...]`): Shape (prompt_length,), the prompt's tokens as they were sampled from.
        completions (`tuple[Completion, ...]`): Shape (num_generations,).
        vote (`Vote`): Their vote.
        stale (`bool`): Whether it was sampled for the previous generation batch, by older weights.
    """

    candidate_id: int
    instruction: str
    prompt: list[Message]
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    vote: Vote
    stale: bool = False

    @classmethod
    def from_dict(cls, values: dict) -> "Group":
        """Return the group that `dataclasses.asdict` and JSON turned into `values`."""
        vote = {name: tuple(value) if isinstance(value, list) else value for name, value in values["vote"].items()}
        completions = tuple(
            Completion(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.items()})
            for row in values["completions"]
        )
        prompt_ids = tuple(values["prompt_ids"])
        return cls(**values | {"prompt_ids": prompt_ids, "completions": completions, "vote": Vote(**vote)})
