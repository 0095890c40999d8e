"""The settings of the loop: of self-instruction, self-rewarding and the filters."""

import json
import sys
from dataclasses import dataclass, field
from math import inf
from numbers import Integral, Real
from types import NoneType
from typing import get_args, get_type_hints

import numpy as np

from ..answers.formats import default_template
from ..answers.judging import MAX_VOTE_SECONDS, check_format
from .difficulty import reachable_pass_rates
from .quality import BLOCKED_WORDS


INSTRUCTIONS_PER_STEP = 16  # SeRL, its published scripts
# What a method sets where a setting is left out: the paper's rule, and the one that trusts a majority only with evidence
# (docs/method.md has the reason and the figure of each number).
METHODS = {
    "paper": {
        "min_pass_rate": 0.2,
        "max_pass_rate": 0.8,
        "nearness_level": 0.0,
        "first_generations": 0,
        "confirm_majority": False,
        "evidence_seeds": 0,
        "sentinel_checks": 0,
    },
    "trusted": {
        "min_pass_rate": 0.2,
        "max_pass_rate": 0.9,
        "nearness_level": 1.0,
        "first_generations": 8,
        "confirm_majority": True,
        "evidence_seeds": 64,
        "sentinel_checks": 8,
    },
}
LARGEST = sys.float_info.max  # the highest bound of a number that must be finite
_KINDS = {float: ("a number", Real), int: ("a whole number", Integral), bool: ("true or false", bool)}


def setting(default, help: str):
    """Return a field of a dataclass of settings, with the help text that the command line shows."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def number_settings(settings) -> dict[str, set[type]]:
    """Return the names of the settings whose annotation is a number or a boolean, with the types in it."""
    hints = {name: set(get_args(hint) or [hint]) for name, hint in get_type_hints(type(settings)).items()}
    return {name: types for name, types in hints.items() if types <= {int, float, bool, NoneType}}


def check_numbers(settings) -> None:
    """Raise `ValueError` for the first number of a dataclass that is none: text, a list or nothing, as YAML may give.

    NumPy's numbers become Python's, which JSON takes.
    """
    for name, types in number_settings(settings).items():
        value = getattr(settings, name)
        if isinstance(value, np.generic):
            value = value.item()
            setattr(settings, name, value)
        kind, taken = next(_KINDS[known] for known in _KINDS if known in types)
        fits = bool in types if isinstance(value, bool) else isinstance(value, taken)
        if not fits and not (value is None and NoneType in types):
            raise ValueError(f"{name} is {value!r}. Set it to {kind}.")


def as_object(name: str, value: dict | str | None) -> dict | None:
    """Return the value of a setting that may be written as a JSON object; raise `ValueError` if it is none."""
    try:
        content = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {value!r}, which is no JSON ({error.msg}). Set it to an object.") from error
    if not isinstance(content, dict | None):
        raise ValueError(f"{name} is {value!r}. Set it to an object of names and values.")
    return content


def check_choices(settings, choices: dict[str, tuple]) -> None:
    """Raise `ValueError` for the first setting that is none of its values."""
    for name, values in choices.items():
        if getattr(settings, name) not in values:
            raise ValueError(f"{name} is {getattr(settings, name)!r}. Set it to one of {', '.join(map(str, values))}.")


def check_bounds(settings, bounds: dict[str, tuple[float, float]]) -> None:
    """Raise `ValueError` for the first setting outside of its bounds, both inclusive; `None` is unset."""
    for name, (lowest, highest) in bounds.items():
        value = getattr(settings, name)
        if value is not None and not lowest <= value <= highest:  # NaN is within none
            finite = "a finite number of " if highest == LARGEST else ""
            within = f"to {finite}at least {lowest}" if highest >= LARGEST else f"within [{lowest}, {highest}]"
            raise ValueError(f"{name} is {value}. Set it {within}.")


def check_whole_groups(generation_batch_size: int, num_generations: int) -> None:
    """Raise `ValueError` if a generation batch is not made of whole groups."""
    if generation_batch_size < 1 or generation_batch_size % num_generations:
        raise ValueError(
            f"generation_batch_size is {generation_batch_size}, which num_generations ({num_generations}) doesn't "
            "divide. Set it to a multiple: each group is trained whole."
        )


@dataclass
class SelfPlaySettings:
    """What [`SelfPlayLoader`] needs to know; [`SeRLConfig`] has the same settings beside those of the trainer.

    Raises:
        ValueError: with the setting, its value and what to set instead.
    """

    seed: int = setting(42, "Random seed of the run.")
    num_generations: int = setting(16, "Completions sampled for each instruction.")
    generation_batch_size: int | None = setting(
        None, f"Completions of a generation batch. If unset, {INSTRUCTIONS_PER_STEP} groups."
    )
    max_completion_length: int = setting(1024, "Longest completion, in tokens.")
    answer_format: str = setting(
        "math",
        "How answers are read: 'math' for numbers and formulas, 'choice' for a letter from A to J, 'text' for a few words, "
        "'number', 'json', or a function of yours as 'module:function'.",
    )
    prompt_template: str | None = setting(
        None,
        "Name of a shipped template, or path of a YAML file like it. If unset, that of answer_format; of a function of yours "
        "'text'.",
    )

    # Self-instruction
    num_few_shot_examples: int = setting(8, "Few-shot examples in each request for new instructions.")
    max_kept_examples: int = setting(2, "Most few-shot examples taken from the kept pool; the rest are seeds.")
    max_kept_instructions: int = setting(2000, "Size of the kept pool: the latest instructions trained on.")
    instruction_requests: int = setting(
        4, "Fewest requests for new instructions in a round; more as the yield demands."
    )
    instruction_temperature: float = setting(0.8, "Temperature of self-instruction, > 0.")
    instruction_top_p: float = setting(0.95, "Nucleus mass of self-instruction, in (0, 1].")
    instruction_presence_penalty: float = setting(2.0, "Presence penalty of self-instruction, in [-2, 2].")
    max_instruction_length: int = setting(1024, "Longest reply to a request for new instructions, in tokens.")
    min_words: int = setting(4, "Fewest words of an instruction.")
    max_words: int = setting(150, "Most words of an instruction.")
    blocked_words: list[str] = setting(list(BLOCKED_WORDS), "Whole words that reject an instruction.")
    ascii_only: bool = setting(True, "Whether an instruction must start with an ASCII character.")
    seed_share: float = setting(
        0.0,
        "Share of a generation batch's groups whose instructions are seeds, in [0, 1); the rest are the model's own.",
    )
    nearness_level: float | None = setting(
        None,
        "How wide the gate around the seeds is, in [0, 100]: 1 is near, 0 no gate. If unset, as `method` says.",
    )
    diversity_threshold: float = setting(
        0.7, "Highest ROUGE-L F1 with an earlier instruction, in [0, 1]; 1 lets all pass."
    )

    # Self-rewarding
    method: str | None = setting(
        None,
        "'paper' trains on every majority in the band, 'trusted' (the trainer's default) on those that slow weights "
        "confirm; it sets the settings that say so.",
    )
    min_pass_rate: float | None = setting(
        None, "Lowest share of a group that gives the majority answer, inclusive. If unset, as `method` says."
    )
    max_pass_rate: float | None = setting(
        None, "Highest share of a group that gives the majority answer, inclusive. If unset, as `method` says."
    )
    first_generations: int | None = setting(
        None,
        "Completions of an instruction that are sampled first; if these agree so often that the group is out of the band, "
        "no more are. 0: all at once. If unset, as `method` says.",
    )
    confirm_majority: bool | None = setting(
        None, "Whether slow weights must confirm a majority before it is trained on. If unset, as `method` says."
    )
    evidence_seeds: int | None = setting(
        None,
        "Most seeds that the start answers before training, as evidence for its majority; 0 asks for none. If unset, as "
        "`method` says.",
    )
    sentinel_checks: int | None = setting(
        None,
        "How often in a run the model answers these seeds again, at least 8 steps apart, to go back where it has lost; 0: "
        "never. If unset, as `method` says.",
    )
    slow_decay: float = setting(
        0.98, "Decay a step of the slow weights, an average of the trained ones, in [0, 1]; 1 keeps the start."
    )
    max_vote_seconds: float = setting(
        MAX_VOTE_SECONDS, "Longest vote on a group, in seconds; an answer that takes too long abstains."
    )
    keep_completions: bool = setting(False, "Whether the ledger keeps the text of each completion.")
    max_rounds: int = setting(
        16, "Most rounds of self-instruction for a generation batch; one that they do not fill ends the training."
    )

    def __post_init__(self):
        check_numbers(self)
        check_choices(self, {"method": (None, *METHODS)})
        check_format(self.answer_format)
        self.method = self.method or "paper"
        if self.evidence_seeds == 0 and self.sentinel_checks is None:
            self.sentinel_checks = 0  # nothing is watched
        for name, value in METHODS[self.method].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.sentinel_checks and not self.evidence_seeds:
            raise ValueError(
                f"sentinel_checks is {self.sentinel_checks}, and evidence_seeds is 0: no seeds are watched. Set "
                "evidence_seeds, e.g. to 64, or leave sentinel_checks out."
            )
        check_bounds(self, {"num_generations": (2, inf), "seed": (0, 2**32 - 1)})  # NumPy takes no larger seed
        if self.generation_batch_size is None:
            self.generation_batch_size = INSTRUCTIONS_PER_STEP * self.num_generations
        check_whole_groups(self.generation_batch_size, self.num_generations)
        if self.prompt_template is None:
            self.prompt_template = default_template(self.answer_format)
        if not 0.0 <= self.min_pass_rate < self.max_pass_rate <= 1.0:
            raise ValueError(
                f"min_pass_rate and max_pass_rate are {self.min_pass_rate} and {self.max_pass_rate}. Set them so that "
                "0 <= min_pass_rate < max_pass_rate <= 1, e.g. to 0.2 and 0.8."
            )
        if not reachable_pass_rates(self.num_generations, self.min_pass_rate, self.max_pass_rate):
            rates = ", ".join(f"{rate:.3g}" for rate in reachable_pass_rates(self.num_generations, 0.0, 1.0))
            raise ValueError(
                f"No vote of num_generations={self.num_generations} completions has a pass rate in "
                f"[{self.min_pass_rate}, {self.max_pass_rate}]: they can be {rates}. Raise num_generations or widen "
                "the bounds."
            )
        if not 0 <= self.max_kept_examples <= self.num_few_shot_examples or self.num_few_shot_examples < 1:
            raise ValueError(
                f"max_kept_examples is {self.max_kept_examples} with num_few_shot_examples="
                f"{self.num_few_shot_examples}. Set 0 <= max_kept_examples <= num_few_shot_examples, e.g. 2 and 8."
            )
        words = self.blocked_words
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"blocked_words is {words!r}. Make it a list of words.")
        bounds = {
            "diversity_threshold": (0.0, 1.0),
            "evidence_seeds": (0, inf),
            "first_generations": (0, inf),
            "sentinel_checks": (0, 1000),
            "instruction_top_p": (1e-6, 1.0),
            "instruction_temperature": (1e-6, LARGEST),
            "instruction_presence_penalty": (-2.0, 2.0),
            "instruction_requests": (1, inf),
            "max_completion_length": (1, inf),
            "max_instruction_length": (1, inf),
            "max_kept_instructions": (0, sys.maxsize),
            "max_rounds": (1, inf),
            "max_vote_seconds": (0.1, 3600.0),
            "min_words": (1, self.max_words),
            "nearness_level": (0.0, 100.0),
            "seed_share": (0.0, 1.0),
            "slow_decay": (0.0, 1.0),
        }
        check_bounds(self, bounds)
        seed_groups = round(self.seed_share * self.num_groups)
        if self.seed_share and not 0 < seed_groups < self.num_groups:
            raise ValueError(
                f"seed_share is {self.seed_share}: that is {seed_groups} of the {self.num_groups} groups of a generation "
                "batch. Set it so that some are of seeds and some are not, or to 0 for none."
            )

    @property
    def num_groups(self) -> int:
        """Groups of a generation batch."""
        return self.generation_batch_size // self.num_generations
