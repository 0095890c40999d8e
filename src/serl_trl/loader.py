"""The whole loop of SeRL on one page: an iterable of generation batches that the model makes for itself."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from tqdm.auto import tqdm

from .funnel import Funnel, Yield
from .ledger import Ledger
from .sampler import Sampler
from .self_instruction.diversity import DiversityFilter
from .self_instruction.parsing import parse_instructions, squeeze
from .self_instruction.pool import InstructionPool
from .self_instruction.prompt import answer_prompt, few_shot_prompt, load_template
from .self_instruction.quality import rejection_reason
from .self_rewarding.difficulty import is_in_band
from .self_rewarding.voting import majority_vote, true_answer_vote
from .serl_config import SeRLConfig
from .types import Candidate, Completion, Group, SamplingSettings, Vote


@dataclass(frozen=True)
class Batch:
    """One generation batch: whole groups in order, the same on every process, and the metrics of making it."""

    groups: list[Group]
    metrics: dict[str, float]


class SelfPlayLoader:
    """Iterable of generation batches; every process iterates it in step and gets the same groups.

    Groups beyond a batch's need are trained in the next one, before fresh ones, and expire after that.

    Args:
        config ([`SeRLConfig`]): The run's settings.
        seeds (`Sequence[str]`): Seed instructions, at least `num_few_shot_examples`.
        sampler ([`Sampler`]): Where completions come from.
        ledger ([`Ledger`]): Where every candidate is written down.
        max_tokens (`int`): Context length of the model, in tokens; an instruction that doesn't fit is rejected.
        control_tokens (`Sequence[str]`, *optional*): An instruction with one of them would break the chat template.
        true_answers (`dict[str, str]`, *optional*): The true answer of each seed, for `label_source="true_answer"`.
        iteration (`int`): The self-play iteration, from 1; each draws differently.

    Raises:
        RuntimeError: by `next`, if `max_rounds` rounds don't fill a batch; it shows the funnel and what to change.
    """

    def __init__(
        self,
        config: SeRLConfig,
        seeds: Sequence[str],
        sampler: Sampler,
        ledger: Ledger,
        max_tokens: int,
        control_tokens: Sequence[str] = (),
        true_answers: dict[str, str] | None = None,
        iteration: int = 1,
    ):
        self.config, self.sampler, self.ledger = config, sampler, ledger
        self.seeds, self.true_answers, self.iteration = list(seeds), true_answers or {}, iteration
        self.max_tokens, self.control_tokens = max_tokens, control_tokens
        self.template = load_template(config.prompt_template)
        self.num_groups = config.generation_batch_size // config.num_generations
        self.pool = InstructionPool([squeeze(seed) for seed in seeds], config.max_kept_instructions)
        self.filter = DiversityFilter(self.pool.seeds, config.diversity_threshold)
        self.surplus: list[Group] = []
        self.yields, self.totals = Yield(), Funnel()
        self.batch_index = 0
        self.next_candidate_id = 0
        self.previous: list[Candidate] = []  # the last batch's candidates: the fate of its surplus is open

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        funnel = Funnel()
        rng = random.Random(f"{self.config.seed}/{self.iteration}/{self.batch_index}")
        groups = [replace(group, stale=True) for group in self.surplus]
        written, waiting = [], []  # all candidates of this batch, and those not judged yet
        with self.progress_bar() as progress:
            while len(groups) < self.num_groups:
                self.check_rounds(funnel)
                progress.update(len(groups) - progress.n)
                wanted = self.yields.groups_to_answer(self.num_groups - len(groups), funnel)
                if self.config.instruction_source == "seeds":
                    admitted = self.draw_seeds(wanted, funnel)
                    written = written + admitted
                else:
                    if len(waiting) < wanted:
                        fresh = self.write_candidates(wanted - len(waiting), rng, funnel)
                        written, waiting = written + fresh, waiting + fresh
                    admitted, waiting = self.admit(waiting, wanted, funnel)
                if admitted:
                    completions = self.answer(admitted, funnel)
                    votes = self.vote(admitted, completions, funnel)
                    groups += self.keep_in_band(admitted, completions, votes, funnel)
                self.ledger.write(self.batch_index, written)
            progress.update(self.num_groups - progress.n)
        return self.hand_over(groups, written, funnel)

    def write_candidates(self, wanted: int, rng: random.Random, funnel: Funnel) -> list[Candidate]:
        """Ask the model for new instructions after few-shot examples; return those that its replies list."""
        config, candidates = self.config, []
        with funnel.timed("self_instruction"):
            requests = self.yields.requests(wanted, funnel, config.instruction_requests)
            draws = [self.draw_examples(rng) for _ in range(requests)]
            prompt_ids = self.sampler.tokenize([few_shot_prompt(examples, self.template) for examples in draws])
            settings = SamplingSettings(
                config.instruction_temperature,
                config.instruction_top_p,
                config.instruction_presence_penalty,
                config.max_instruction_length,
            )
            replies = [reply for (reply,) in self.sampler.sample(prompt_ids, 1, settings)]
            for examples, reply in zip(draws, replies, strict=True):
                texts = parse_instructions(reply.text)
                for text in texts:
                    candidate = Candidate(self.next_candidate_id, self.sampler.step, funnel.rounds, text, examples)
                    self.next_candidate_id += 1
                    candidates.append(candidate)
                if texts and reply.truncated:
                    funnel.reject(candidate, "cut_off")
            funnel.count_replies(replies, candidates)
        return candidates

    def draw_seeds(self, wanted: int, funnel: Funnel) -> list[Candidate]:
        """Return the next seeds as they are, each pass over them in another order: the loop without self-instruction."""
        drawn = []
        for _ in range(wanted):
            epoch, place = divmod(self.next_candidate_id, len(self.seeds))
            if not drawn or place == 0:
                rng = random.Random(f"{self.config.seed}/{self.iteration}/{epoch}")
                order = rng.sample(self.seeds, len(self.seeds))
            step = self.sampler.step
            drawn.append(Candidate(self.next_candidate_id, step, funnel.rounds, order[place], [], verdict="admitted"))
            self.next_candidate_id += 1
        for stage in ("candidates", "judged", "admitted"):
            funnel.counts[stage] += wanted
        return drawn

    def draw_examples(self, rng: random.Random) -> list[str]:
        """Draw few-shot examples, without the longest ones if the prompt would not fit."""
        config = self.config
        examples = self.pool.few_shot_examples(rng, config.num_few_shot_examples, config.max_kept_examples)
        while not self.fits(few_shot_prompt(examples, self.template), config.max_instruction_length):
            examples.remove(max(examples, key=len))
        return examples

    def fits(self, prompt: list, max_new_tokens: int) -> bool:
        """Return whether the model's context holds the prompt and that many tokens after it."""
        return len(self.sampler.tokenize([prompt])[0]) + max_new_tokens <= self.max_tokens

    def admit(self, waiting: list[Candidate], wanted: int, funnel: Funnel) -> tuple[list[Candidate], list[Candidate]]:
        """Judge candidates by quality, then diversity, until `wanted` are admitted; return these and the rest."""
        admitted: list[Candidate] = []
        with funnel.timed("self_instruction"):
            while waiting and len(admitted) < wanted:
                candidate, *waiting = waiting
                funnel.counts["judged"] += 1
                if candidate.verdict == "rejected":
                    continue
                if reason := self.unsound(candidate.instruction):
                    funnel.reject(candidate, reason)
                    continue
                candidate.nearest, candidate.rouge_l = self.filter.nearest(candidate.instruction)
                same = candidate.instruction in self.filter.texts and self.filter.threshold < 1.0  # 1 lets all pass
                if candidate.rouge_l > self.filter.threshold or same:
                    funnel.reject(candidate, "too_similar")
                    continue
                candidate.verdict = "admitted"
                self.filter.add([candidate.instruction])
                admitted.append(candidate)
            funnel.counts["admitted"] += len(admitted)
        return admitted, waiting

    def unsound(self, instruction: str) -> str | None:
        """Return why an instruction is rejected by itself, or `None`."""
        config = self.config
        if any(token in instruction for token in self.control_tokens):
            return "control_token"
        reason = rejection_reason(
            instruction,
            min_words=config.min_words,
            max_words=config.max_words,
            blocked_words=config.blocked_words,
            ascii_only=config.ascii_only,
        )
        if reason is None and not self.fits(answer_prompt(instruction, self.template), config.max_completion_length):
            reason = "too_many_tokens"
        return reason

    def answer(self, admitted: list[Candidate], funnel: Funnel) -> list[tuple[list[int], list[Completion]]]:
        """Let the model answer each instruction `num_generations` times; return prompt tokens and completions."""
        with funnel.timed("sampling"):
            prompts = [answer_prompt(candidate.instruction, self.template) for candidate in admitted]
            prompt_ids = self.sampler.tokenize(prompts)
            groups = self.sampler.sample(prompt_ids, self.config.num_generations)
            funnel.count_completions(groups)
        return list(zip(prompt_ids, groups, strict=True))

    def vote(
        self, admitted: list[Candidate], answered: list[tuple[list[int], list[Completion]]], funnel: Funnel
    ) -> list[Vote]:
        """Vote on each group in one process only and share the verdict: time-outs could differ between processes."""
        with funnel.timed("vote"):
            own = [
                (index, self.vote_on(admitted[index].instruction, completions))
                for index, (_, completions) in enumerate(answered)
                if index % self.sampler.num_processes == self.sampler.rank
            ]
            votes = [vote for _, vote in sorted(self.sampler.gather(own), key=lambda pair: pair[0])]
            funnel.count_votes(votes)
        return votes

    def vote_on(self, instruction: str, completions: list[Completion]) -> Vote:
        """Return the vote on one group: the majority's, or that of the true answer."""
        texts = [completion.text for completion in completions]
        settings = {
            "truncated": [completion.truncated for completion in completions],
            "answer_format": self.config.answer_format,
        }
        if self.config.label_source == "true_answer":
            return true_answer_vote(texts, self.true_answers[instruction], **settings)
        return majority_vote(texts, **settings)

    def keep_in_band(
        self,
        admitted: list[Candidate],
        answered: list[tuple[list[int], list[Completion]]],
        votes: list[Vote],
        funnel: Funnel,
    ) -> list[Group]:
        """Return the groups whose difficulty is right, and note each candidate's vote."""
        groups = []
        for candidate, (prompt_ids, completions), vote in zip(admitted, answered, votes, strict=True):
            candidate.answers, candidate.votes = list(vote.answers), list(vote.rewards)
            candidate.pseudo_label, candidate.pass_rate = vote.pseudo_label, vote.pass_rate
            if vote.pseudo_label is None:
                candidate.fate = "no_pseudo_label"
            elif not is_in_band(vote, self.config.min_pass_rate, self.config.max_pass_rate):
                candidate.fate = "out_of_band"
            elif not all(completion.token_ids for completion in completions):
                candidate.fate = "empty_completion"  # TRL reads each completion's last token
            else:
                prompt = answer_prompt(candidate.instruction, self.template)
                groups.append(
                    Group(candidate.id, candidate.instruction, prompt, tuple(prompt_ids), tuple(completions), vote)
                )
        funnel.counts["in_band"] += len(groups)
        return groups

    def hand_over(self, groups: list[Group], written: list[Candidate], funnel: Funnel) -> Batch:
        """Return the batch; put surplus by, settle fates in the ledger, and keep what is trained for few-shot."""
        batch, rest = groups[: self.num_groups], groups[self.num_groups :]
        step = self.sampler.step
        fates = {group.candidate_id: ("trained", step) for group in batch}
        fates |= {group.candidate_id: ("expired" if group.stale else "surplus", None) for group in rest}
        for candidate in self.previous + written:
            if candidate.id in fates:
                candidate.fate, candidate.trained_step = fates[candidate.id]
        if any(group.stale for group in groups):
            self.ledger.write(self.batch_index - 1, self.previous)
        self.ledger.write(self.batch_index, written)
        funnel.count_batch(batch, rest)
        with funnel.timed("sampling"):
            self.surplus = self.sampler.with_logprobs([group for group in rest if not group.stale])
        self.pool.keep(group.instruction for group in batch)
        self.previous = written
        self.batch_index += 1
        self.yields.remember(funnel)
        self.totals.add(funnel)
        metrics = {"self_play/iteration": float(self.iteration)} | funnel.metrics() | self.pool.metrics()
        return Batch(batch, metrics)

    def check_rounds(self, funnel: Funnel) -> None:
        """Begin a round, unless too many have passed without filling the batch."""
        if funnel.rounds == self.config.max_rounds:
            raise RuntimeError(
                f"{funnel.rounds} rounds of self-instruction (max_rounds) did not fill generation batch "
                f"{self.batch_index} of {self.num_groups} groups:\n{funnel.describe()}\n"
                f"{funnel.advice(self.config.min_pass_rate, self.config.max_pass_rate)}"
            )
        funnel.rounds += 1

    def progress_bar(self) -> tqdm:
        """Return a bar over the groups of this batch, on the first process."""
        hidden = self.config.disable_tqdm or self.sampler.rank != 0
        name = f"Self-play, generation batch {self.batch_index + 1}"
        return tqdm(total=self.num_groups, desc=name, unit="group", leave=False, disable=hidden)

    def state_dict(self) -> dict:
        """Return all that the next batches depend on, as JSON takes it."""
        return {
            "batch_index": self.batch_index,
            "next_candidate_id": self.next_candidate_id,
            "kept": list(self.pool.kept),
            "admitted": self.filter.texts[len(self.pool.seeds) :],
            "surplus": [asdict(group) for group in self.surplus],
            "yields": self.yields.counts,
            "totals": vars(self.totals),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on after `state`: the next batch is the one that would have come, and the ledger ends before it."""
        self.batch_index, self.next_candidate_id = state["batch_index"], state["next_candidate_id"]
        self.pool.kept.clear()
        self.pool.keep(state["kept"])
        self.filter = DiversityFilter(self.pool.seeds + state["admitted"], self.config.diversity_threshold)
        self.surplus = [Group.from_dict(group) for group in state["surplus"]]
        self.yields, self.totals = Yield(state["yields"]), Funnel.from_dict(state["totals"])
        self.previous = self.ledger.resume(self.batch_index)
