"""What became of the candidates of a generation batch: its metrics, and what the next round has to ask for."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..answers.voting import Vote
from .carriers import Candidate, Completion, Group


_UNSOUND = "Edit the prompt_template: most instructions are unsound."

# Why a candidate is rejected, in the order of judging, and what to change where that takes most of them.
REASONS = {
    "cut_off": "Raise max_instruction_length.",
    "control_token": _UNSOUND,
    "too_short": "Lower min_words.",
    "too_long": "Raise max_words.",
    "blocked_word": "Shorten blocked_words.",
    "write_a_program": _UNSOUND,
    "leading_punctuation": _UNSOUND,
    "non_ascii": "Set ascii_only to False.",
    "too_many_tokens": "Raise vllm_max_model_length if it is set, or lower max_words or max_completion_length.",
    "far_from_seeds": "Raise nearness_level, or add seeds like what the model writes: most of it is unlike the seeds.",
    "too_similar": "Raise instruction_temperature or diversity_threshold, or add seeds.",
}

TOO_EASY = "Raise max_pass_rate, or use harder seeds: the model nearly always agrees with itself."
SAMPLED = ("instruction", "completion", "confirming", "checking")  # what the sampled tokens are of
STAGES = ("self_instruction", "sampling", "vote", "confirmation")  # whose seconds are counted
FADE = 0.5  # what a batch's counts are worth one batch later
# In the first batch: a guess that counts as much as one small batch.
_GUESS = {"requests": 1.0, "candidates": 8.0, "judged": 8.0, "admitted": 4.0, "answered": 2.0, "kept": 1.0}


@dataclass
class Funnel:
    """Counts of one generation batch, from requests to groups in the band.

    Attributes:
        rounds (`int`): Rounds begun.
        counts (`Counter`):
            `requests`, `candidates`, `judged`, `admitted`, `answered`, `in_band` and `kept` along the funnel;
            `completions`, `unparsed`, `truncated` and `timeouts` among the answers; `instruction_tokens`,
            `completion_tokens`, `confirming_tokens` and `checking_tokens` (of seeds) sampled; `trained_tokens`;
            `surplus` groups of the batch before among the trained, and `dropped` ones. `candidates`, `judged` and
            `admitted` count the `seeds` that are answered, which no filter judges.
        rejected (`Counter`): Candidates rejected, by reason.
        pass_rates (`Counter`): Groups voted on, by pass rate.
        seconds (`Counter`): Seconds by stage.
        past (`dict[str, float]`): Counts of the batches before, fading, or a guess: they size the rounds of this one.
    """

    rounds: int = 0
    counts: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)
    pass_rates: Counter = field(default_factory=Counter)
    seconds: Counter = field(default_factory=Counter)
    past: dict[str, float] = field(default_factory=lambda: dict(_GUESS))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to `seconds[stage]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def reject(self, candidate: Candidate, reason: str) -> None:
        """Mark a candidate as rejected, for one of [`REASONS`]."""
        assert reason in REASONS, reason  # else it would be counted and never logged
        candidate.fate, candidate.reason = "rejected", reason
        self.rejected[reason] += 1

    def count_replies(self, replies: Sequence[Completion], candidates: Sequence[Candidate]) -> None:
        """Count replies to requests for instructions, and the candidates in them."""
        self.counts["requests"] += len(replies)
        self.counts["candidates"] += len(candidates)
        self.counts["instruction_tokens"] += sum(len(reply.token_ids) for reply in replies)

    def count_completions(self, groups: Sequence[Sequence[Completion]]) -> None:
        """Count completions sampled as answers."""
        completions = [completion for group in groups for completion in group]
        self.counts["answered"] += len(groups)
        self.counts["completions"] += len(completions)
        self.counts["truncated"] += sum(completion.truncated for completion in completions)
        self.counts["completion_tokens"] += sum(len(completion.token_ids) for completion in completions)

    def count_votes(self, votes: Sequence[Vote]) -> None:
        """Count groups that were labelled."""
        self.pass_rates.update(vote.pass_rate for vote in votes)
        self.counts["unparsed"] += sum(answer is None for vote in votes for answer in vote.answers)
        self.counts["timeouts"] += sum(sum(vote.timed_out) for vote in votes)

    def count_confirming(self, replies: Sequence[Sequence[Completion]]) -> None:
        """Count what the slow weights answered."""
        self.counts["confirming_tokens"] += sum(len(reply.token_ids) for group in replies for reply in group)

    def count_batch(self, batch: Sequence[Group], dropped: int) -> None:
        """Count what is trained, and the surplus that neither this batch nor the next one needs."""
        self.counts["surplus"] += sum(group.surplus for group in batch)
        self.counts["dropped"] += dropped
        self.counts["trained_tokens"] += sum(len(c.token_ids) for group in batch for c in group.completions)

    def groups_to_answer(self, missing: int) -> int:
        """Return how many instructions to answer so that `missing` groups pass in most cases.

        These are those expected to pass and one standard deviation more: a second round of a few instructions takes
        nearly as long as the first, and what is over is trained in the next batch.
        """
        ratio = self._ratio("kept", "answered")
        wanted = math.ceil((missing + math.sqrt(missing * (1.0 - ratio))) / ratio)
        return min(wanted, 8 * missing)  # bounded: a dry start must not ask for everything at once

    def requests(self, candidates: int, fewest: int) -> int:
        """Return how many requests may be expected to bring `candidates` that are admitted, at least `fewest`."""
        per_request = self._ratio("candidates", "requests") * self._ratio("admitted", "judged")
        return min(max(math.ceil(candidates / per_request), fewest), 16 * fewest)  # bounded, likewise

    def faded(self) -> dict[str, float]:
        """Return the counts that size the next batch's rounds; the guess is forgotten."""
        past = dict.fromkeys(_GUESS, 0.0) if self.past == _GUESS else self.past
        return {name: FADE * (count + self.without_seeds(name)) for name, count in past.items()}

    def without_seeds(self, stage: str) -> int:
        """Return the count of a stage, of the model's own instructions alone up to `admitted`."""
        return self.counts[stage] - self.counts["seeds"] * (stage in ("candidates", "judged", "admitted"))

    def _ratio(self, part: str, whole: str) -> float:
        parts, wholes = (self.past[stage] + self.without_seeds(stage) for stage in (part, whole))
        return max(parts / wholes, 1e-3)

    def metrics(self) -> dict[str, float]:
        """Return the log keys of one generation batch."""
        counts, completions = self.counts, self.counts["completions"]
        metrics = {
            "self_instruction/candidates": counts["candidates"],
            # All reasons each time, since TRL averages a key over the batches that have it.
            **{f"self_instruction/rejected/{reason}": self.rejected[reason] for reason in REASONS},
            "self_instruction/admitted": counts["admitted"],
            "self_instruction/rounds": self.rounds,
            "self_instruction/tokens": counts["instruction_tokens"],
            "self_rewarding/tokens": counts["completion_tokens"],
            "self_rewarding/confirming_tokens": counts["confirming_tokens"],
            "self_rewarding/trained_tokens": counts["trained_tokens"],
            "self_rewarding/timeouts": counts["timeouts"],
            "self_rewarding/surplus_groups": counts["surplus"],
            "self_rewarding/dropped_groups": counts["dropped"],
            **{f"time/{stage}": self.seconds[stage] for stage in STAGES},
        }
        if completions:  # a batch of nothing but surplus has no rates
            metrics |= {
                "self_rewarding/pass_rate": self.mean_pass_rate,
                "self_rewarding/in_band_ratio": counts["in_band"] / self.pass_rates.total(),
                "self_rewarding/unparsed_ratio": counts["unparsed"] / completions,
                "self_rewarding/truncated_ratio": counts["truncated"] / completions,
            }
        if counts["in_band"]:
            metrics["self_rewarding/confirmed_ratio"] = counts["kept"] / counts["in_band"]
        return {name: float(value) for name, value in metrics.items()}

    @property
    def mean_pass_rate(self) -> float:
        """Mean over the groups voted on, in [0, 1]; 0 without any."""
        return sum(rate * groups for rate, groups in self.pass_rates.items()) / max(self.pass_rates.total(), 1)

    def to_dict(self) -> dict:
        """Return a copy of the counts as JSON takes them; seconds are a process's, and begin anew."""
        counters = {name: Counter(getattr(self, name)) for name in ("counts", "rejected", "pass_rates")}
        return {"rounds": self.rounds} | counters

    @classmethod
    def from_dict(cls, values: dict) -> "Funnel":
        """Return the funnel whose `to_dict` JSON turned into `values`."""
        pass_rates = {float(rate): groups for rate, groups in values["pass_rates"].items()}
        return cls(values["rounds"], Counter(values["counts"]), Counter(values["rejected"]), Counter(pass_rates))

    def add(self, other: "Funnel") -> None:
        """Add the counts of another batch, for the totals of a run."""
        self.rounds += other.rounds
        for name in ("counts", "rejected", "pass_rates", "seconds"):
            getattr(self, name).update(getattr(other, name))

    def describe(self) -> str:
        """Return the whole funnel in a few lines."""
        rejected = ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common()) or "none"
        rates = Counter()
        for rate, groups in self.pass_rates.items():
            rates[f"{rate:.2f}"] += groups
        return "\n".join(
            [
                f"  rounds {self.rounds}, requests {self.counts['requests']}",
                f"  candidates {self.counts['candidates']}, rejected: {rejected}",
                f"  admitted and answered {self.counts['admitted']}, in the band {self.counts['in_band']}, "
                f"kept {self.counts['kept']}",
                f"  unparsed {self.counts['unparsed']} and truncated {self.counts['truncated']} of "
                f"{self.counts['completions']} completions",
                f"  groups by pass rate: {', '.join(f'{rate}: {rates[rate]}' for rate in sorted(rates)) or 'none'}",
            ]
        )

    def advice(self, min_pass_rate: float, max_pass_rate: float) -> str:
        """Return which setting to change, judging by where most was lost."""
        counts = self.counts
        too_hard = sum(groups for rate, groups in self.pass_rates.items() if rate < min_pass_rate)
        if counts["requests"] and not self.without_seeds("candidates"):
            return "The model wrote no list: use an instruct model, or edit the prompt_template."
        if counts["truncated"] > counts["completions"] / 2:
            return "Raise max_completion_length: truncated completions have no vote."
        if counts["unparsed"] > counts["completions"] / 2:
            return "Change the answer_request of the prompt_template: most completions have no readable answer."
        if self.without_seeds("admitted") < self.without_seeds("judged") / 4:
            return REASONS[max(self.rejected, key=self.rejected.get)]
        if too_hard > self.pass_rates.total() / 2:
            return "Lower min_pass_rate or temperature, or use easier seeds: the model seldom agrees with itself."
        too_easy = sum(groups for rate, groups in self.pass_rates.items() if rate > max_pass_rate)
        if too_easy > self.pass_rates.total() / 2:
            return TOO_EASY
        if counts["kept"] < counts["in_band"] / 2:
            return "Use a stronger model or easier seeds: slow weights confirm few majorities."
        return "Raise max_rounds: the batch was filling, too slowly."
