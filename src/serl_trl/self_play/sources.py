"""Where instructions come from: the model writes them after few-shot draws, or the seeds are taken one after another."""

import logging
import random
from collections import deque
from collections.abc import Sequence

from .carriers import Candidate, Prompt, SamplingSettings
from .diversity import DiversityFilter
from .funnel import Funnel
from .nearness import NearnessGate
from .parsing import parse_instructions, squeeze
from .pool import InstructionPool
from .prompt import answer_prompt, few_shot_prompt, load_template
from .quality import rejection_reason
from .sampler import Sampler
from .settings import SelfPlaySettings


logger = logging.getLogger(__name__)


def check_enough_seeds(seeds: Sequence[str], settings: SelfPlaySettings) -> None:
    """Raise `ValueError` if there are fewer seeds than few-shot examples."""
    if len(seeds) < settings.num_few_shot_examples:
        raise ValueError(
            f"There are {len(seeds)} seeds for num_few_shot_examples={settings.num_few_shot_examples}. Add seeds, or set "
            f"num_few_shot_examples to at most {len(seeds)} (and max_kept_examples to no more)."
        )


def fit_gate(seeds: Sequence[str], level: float) -> NearnessGate | None:
    """Return the gate of `nearness_level`, or `None` if that is 0 or the seeds are such that no gate binds."""
    if level == 0.0:
        return None
    gate = NearnessGate(seeds, level)
    if gate.binds:
        return gate
    logger.warning(
        f"nearness_level is {level}, and yet no instruction is rejected as far from the seeds: the {len(seeds)} seeds are "
        "too few or too broad to tell their kind from others."
    )
    return None


def draw_seeds(source: "SelfInstruction | SeedPasses", wanted: int, funnel: Funnel) -> list[Candidate]:
    """Return the next `wanted` seeds as admitted candidates, in passes over all, each in another order; count them."""
    drawn: list[Candidate] = []
    for _ in range(wanted):
        epoch, place = divmod(source.seeds_drawn, len(source.seeds))
        if not drawn or place == 0:
            order = random.Random(f"{source.settings.seed}/1/{epoch}").sample(source.seeds, len(source.seeds))
        drawn.append(Candidate(source.next_id, source.sampler.step, funnel.rounds, order[place], [], fate="admitted"))
        source.next_id += 1
        source.seeds_drawn += 1
    for stage in ("candidates", "judged", "admitted", "seeds"):
        funnel.counts[stage] += wanted
    return drawn


class SelfInstruction:
    """The model lists new instructions after few-shot examples; unsound, far and similar ones are rejected (SeRL).

    A share `seed_share` of the groups is of seeds: these are taken as they are, by `draw_seeds`.

    Args:
        settings ([`SelfPlaySettings`]): The run's settings.
        seeds (`Sequence[str]`): The user's instructions, at least `num_few_shot_examples`.
        sampler ([`Sampler`]): Where replies come from.
        max_tokens (`int`): Context length of the model, in tokens; an instruction that doesn't fit is rejected.
        control_tokens (`Sequence[str]`, *optional*): An instruction with one of them would break the chat template.
        request_turns (`int`, *optional*, defaults to 3): The turns of a request, as in [`few_shot_prompt`].

    Raises:
        ValueError: if there are too few seeds; by `draw`, if not one example fits `max_tokens`.
    """

    def __init__(
        self,
        settings: SelfPlaySettings,
        seeds: Sequence[str],
        sampler: Sampler,
        max_tokens: int,
        control_tokens: Sequence[str] = (),
        request_turns: int = 3,
    ):
        check_enough_seeds(seeds, settings)
        self.settings, self.sampler, self.max_tokens = settings, sampler, max_tokens
        self.seeds, self.seed_share = list(seeds), settings.seed_share
        self.control_tokens, self.request_turns = control_tokens, request_turns
        self.template = load_template(settings.prompt_template)
        self.pool = InstructionPool([squeeze(seed) for seed in seeds], settings.max_kept_instructions)
        self.gate = fit_gate(self.pool.seeds, settings.nearness_level)
        self.filter = DiversityFilter(self.pool.seeds, settings.diversity_threshold)
        self.max_kept_examples = settings.max_kept_examples  # none, once the model's own instructions drift
        self.next_id = self.seeds_drawn = 0
        self.keep([])
        self.begin_batch(0)

    def begin_batch(self, batch_index: int) -> None:
        """Begin a generation batch, the `batch_index`-th from 0: its draws depend on that number and the seed alone."""
        if self.next_id != self.state["next_id"]:  # the batch before was interrupted
            self.load_state_dict(self.state, self.admitted[: self.state["admitted"]])
        self.rng = random.Random(f"{self.settings.seed}/1/{batch_index}")  # the 1: as in the runs of docs/runs.md
        self.waiting: deque[Candidate] = deque()  # written for this batch and not judged yet

    def draw(self, wanted: int, funnel: Funnel) -> tuple[list[Candidate], list[Candidate]]:
        """Return at most `wanted` candidates to answer, and all that were written for it; count both."""
        written = []
        with funnel.timed("self_instruction"):
            if len(self.waiting) < wanted:
                written = self.write_candidates(wanted - len(self.waiting), funnel)
                self.waiting += written
            return self.admit(wanted, funnel), written

    def write_candidates(self, wanted: int, funnel: Funnel) -> list[Candidate]:
        """Ask the model for new instructions after few-shot examples; return those that its replies list."""
        settings, candidates = self.settings, []
        requests = funnel.requests(wanted, settings.instruction_requests)
        draws = [self.draw_examples() for _ in range(requests)]
        prompt_ids = self.sampler.tokenize([self.request(examples) for examples in draws])
        sampling = SamplingSettings(
            settings.instruction_temperature,
            settings.instruction_top_p,
            settings.instruction_presence_penalty,
            settings.max_instruction_length,
        )
        replies = [reply for (reply,) in self.sampler.sample(prompt_ids, 1, sampling)]
        for examples, reply in zip(draws, replies, strict=True):
            texts = parse_instructions(reply.text)
            for text in texts:
                candidates.append(Candidate(self.next_id, self.sampler.step, funnel.rounds, text, examples))
                self.next_id += 1
            if texts and reply.truncated:
                funnel.reject(candidates[-1], "cut_off")
        funnel.count_replies(replies, candidates)
        return candidates

    def draw_examples(self) -> list[str]:
        """Draw few-shot examples, without the longest ones if the prompt would not fit."""
        settings = self.settings
        examples = self.pool.few_shot_examples(self.rng, settings.num_few_shot_examples, self.max_kept_examples)
        while not self.fits(self.request(examples), settings.max_instruction_length):
            if len(examples) == 1:
                raise ValueError(
                    f"max_instruction_length is {settings.max_instruction_length}, and not even a prompt of one example "
                    f"fits the context of {self.max_tokens} tokens with it. Lower it, or shorten the seeds."
                )
            examples.remove(max(examples, key=len))
        return examples

    def request(self, examples: Sequence[str]) -> Prompt:
        """Return the request for new instructions after these examples."""
        return few_shot_prompt(examples, self.template, self.request_turns)

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Return whether the model's context holds the prompt and that many tokens after it."""
        return len(self.sampler.tokenize([prompt])[0]) + max_new_tokens <= self.max_tokens

    def admit(self, wanted: int, funnel: Funnel) -> list[Candidate]:
        """Judge the waiting candidates by quality, nearness and diversity until `wanted` are admitted; return these."""
        admitted: list[Candidate] = []
        while self.waiting and len(admitted) < wanted:
            candidate = self.waiting.popleft()
            funnel.counts["judged"] += 1
            if candidate.fate == "rejected":
                continue
            instruction = candidate.instruction
            if reason := self.unsound(instruction) or self.far(instruction) or self.too_similar(candidate):
                funnel.reject(candidate, reason)
                continue
            candidate.fate = "admitted"
            self.filter.add([instruction])
            admitted.append(candidate)
        funnel.counts["admitted"] += len(admitted)
        return admitted

    def unsound(self, instruction: str) -> str | None:
        """Return why an instruction is rejected by itself, or `None`."""
        settings = self.settings
        if any(token in instruction for token in self.control_tokens):
            return "control_token"
        reason = rejection_reason(
            instruction,
            min_words=settings.min_words,
            max_words=settings.max_words,
            blocked_words=settings.blocked_words,
            ascii_only=settings.ascii_only,
        )
        if reason is None and not self.fits(answer_prompt(instruction, self.template), settings.max_completion_length):
            reason = "too_many_tokens"
        return reason

    def far(self, instruction: str) -> str | None:
        """Return `"far_from_seeds"` if there is a gate and it does not admit an instruction, else `None`."""
        return "far_from_seeds" if self.gate and not self.gate.admits(instruction) else None

    def too_similar(self, candidate: Candidate) -> str | None:
        """Return `"too_similar"` if an earlier instruction is, else `None`; note the nearest one."""
        candidate.nearest, candidate.rouge_l = self.filter.nearest(candidate.instruction)
        return None if self.filter.is_different(candidate.instruction, candidate.rouge_l) else "too_similar"

    def leave_out(self, seeds: Sequence[str]) -> None:
        """Draw no few-shot examples from these seeds, as long as there are enough others."""
        out = set(map(squeeze, seeds))
        left = [seed for seed in self.pool.seeds if seed not in out]
        self.pool.examples = left if len(left) >= self.settings.num_few_shot_examples else self.pool.seeds

    @property
    def admitted(self) -> list[str]:
        """The run's own instructions, in the order in which they were admitted: that of their ids."""
        return self.filter.texts[len(self.pool.seeds) :]

    def keep(self, instructions: Sequence[str]) -> None:
        """End a batch that trains on these; what the next ones depend on is `state`, with the ledger."""
        self.pool.keep(instructions)
        admitted = len(self.filter.texts) - len(self.pool.seeds)
        self.state = {"next_id": self.next_id, "admitted": admitted, "kept": list(self.pool.kept)}
        self.state["seeds_drawn"] = self.seeds_drawn

    def metrics(self) -> dict[str, float]:
        return self.pool.metrics()

    def load_state_dict(self, state: dict, admitted: Sequence[str]) -> None:
        """Go on after `state`, with the instructions admitted before it."""
        if len(admitted) != state["admitted"]:
            raise ValueError(
                f"The ledger holds {len(admitted)} admitted instructions where the checkpoint was saved, and that "
                f"counted {state['admitted']}: it is another run's. Bring back its own, or begin a new run in a new output_dir."
            )
        self.next_id, self.seeds_drawn = state["next_id"], state["seeds_drawn"]
        self.pool.kept.clear()
        self.filter = DiversityFilter([*self.pool.seeds, *admitted], self.settings.diversity_threshold)
        self.keep(state["kept"])


class SeedPasses:
    """The seeds as they are, each pass over them in another order: the loop without self-instruction.

    Args:
        settings ([`SelfPlaySettings`]): The run's settings.
        seeds (`Sequence[str]`): The user's instructions.
        sampler ([`Sampler`]): Where they are answered.
    """

    seed_share = 1.0

    def __init__(self, settings: SelfPlaySettings, seeds: Sequence[str], sampler: Sampler):
        self.settings, self.seeds, self.sampler = settings, list(seeds), sampler
        self.next_id = self.seeds_drawn = 0
        self.keep([])

    def begin_batch(self, batch_index: int) -> None:
        self.load_state_dict(self.state, [])  # the batch before may have been interrupted

    def keep(self, instructions: Sequence[str]) -> None:
        self.state = {"next_id": self.next_id}

    def metrics(self) -> dict[str, float]:
        return {"pool/seeds": float(len(self.seeds))}

    def load_state_dict(self, state: dict, admitted: Sequence[str]) -> None:
        self.next_id = self.seeds_drawn = state["next_id"]
        self.keep([])
