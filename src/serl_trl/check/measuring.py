"""A check of a trainer: its model answers seeds, writes instructions and answers these; nothing is trained."""

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from ..engine.log_probabilities import Row, as_batch, token_logps, trained_logps
from ..engine.models import context_length, is_fsdp
from ..engine.sampling_settings import attributes
from ..engine.slow_weights import SlowWeights
from ..memory import optimizer_bytes
from ..self_play.carriers import Candidate, Group
from ..self_play.funnel import Funnel
from ..self_play.loop import SelfPlayLoader
from ..self_play.prompt import answer_prompt
from ..self_play.seed_evidence import SeedAnswers, answer_seeds, evidence_order, use_evidence, weigh
from ..training.loader import make_loader
from ..training.schedule import steps_per_batch
from .findings import Findings, Memory, affordable, estimate
from .text import CheckResult, conclude


SEEDS, CANDIDATES = 24, 48  # asked at first, and most that are answered
FIRST_ROUND = 16
SECONDS = 150.0  # after which no more are asked; a round that has begun is played to its end


def check_parallelism(args) -> None:
    """Raise `ValueError` where the weights are first put in their places when training begins."""
    if is_fsdp(args) or args.deepspeed_plugin is not None:
        raise ValueError(
            "A check samples before training has spread the weights over the processes by DeepSpeed or FSDP. Check "
            "with --accelerate_config single_gpu, or with several processes of DDP."
        )


def check_trainer(trainer) -> CheckResult:
    """Return what a training with a [`SeRLTrainer`] would begin with; weights, generators and loop stay as they are.

    Every process calls it, and gets the same verdict.

    Raises:
        ValueError: if DeepSpeed or FSDP would spread the weights.
    """
    args, began = trainer.args, time.perf_counter()
    check_parallelism(args)
    slow = SlowWeights(trainer.model_wrapped, args.slow_decay) if args.confirm_majority else None
    # Prepared for training, the model computes in autocast. vLLM computes as it does, and shares this process.
    autocast = nullcontext() if args.use_vllm else trainer.accelerator.autocast()
    trainer._last_loaded_step = -1  # vLLM takes the weights of a step once: those of now may be others
    with attributes(trainer.trust, {"slow_weights": slow}), trainer.trust.aside(), autocast:
        loader = make_loader(trainer)  # its ledger is never written, since no batch is handed over
        answers = asked_answers(trainer)
        asked = ask(loader, answers, began)
        training, memory = measure_training(trainer, asked.groups)
        prompts = loader.sampler.tokenize([answer_prompt(seed, loader.template) for seed in answers])
    gathered = loader.sampler.gather([(training, memory.measured)])
    training, measured = (max(values) for values in zip(*gathered, strict=True))
    of_run = args.num_groups / steps_per_batch(args), args.max_steps, args.instructions_per_iteration
    findings = Findings(
        settings=args,
        num_seeds=len(answers),
        seeds=asked.seeds,
        evidence=weigh(asked.seeds, args, answers),
        candidates=asked.candidates,
        funnel=asked.funnel,
        cost=estimate(asked.funnel, *of_run, training),
        memory=Memory(measured, memory.optimizer, memory.there),
        room=context_length(trainer.model.config, args) - max(map(len, prompts)),
        seconds=time.perf_counter() - began,
    )
    return conclude(findings)


def asked_answers(trainer) -> dict[str, str | None]:
    """Return the seeds with the true answers that a majority is compared with: none where these are the labels."""
    if trainer.args.label_source == "true_answer":
        return dict.fromkeys(trainer.seeds.instructions)
    return trainer.seeds.true_answers


@dataclass(frozen=True)
class Asked:
    """What the model was asked: seeds, and instructions of its own, with the groups and the counts of these."""

    seeds: list[SeedAnswers]
    candidates: list[Candidate]
    groups: list[Group]
    funnel: Funnel


def ask(loader: SelfPlayLoader, true_answers: Mapping[str, str | None], began: float) -> Asked:
    """Let the model answer seeds and instructions, as many as `SECONDS` since `began` are enough for."""
    settings, sampler = loader.settings, loader.sampler

    def elapsed() -> float:
        return max(sampler.gather([time.perf_counter() - began]))

    order = evidence_order(settings, true_answers)[: settings.evidence_seeds or SEEDS]
    first, rest = order[:SEEDS], order[SEEDS:]
    seeds = answer_seeds(loader, first, true_answers)
    for_seeds = now = elapsed()
    evidence = weigh(seeds, settings, true_answers)
    if settings.evidence_seeds and evidence.weakness(settings.max_pass_rate) is None:
        use_evidence(loader, evidence)
    funnel, candidates, groups, wanted = Funnel(), [], [], FIRST_ROUND
    loader.source.begin_batch(0)
    while wanted and funnel.rounds < settings.max_rounds:
        funnel.rounds += 1
        of_seeds = wanted * loader.num_seed_groups // loader.num_groups
        kept, written = loader.play_round(wanted - of_seeds, funnel, of_seeds)
        candidates, groups = candidates + written, groups + kept
        now, done = elapsed(), funnel.counts["answered"]
        wanted = affordable(CANDIDATES - done, done, now - for_seeds, SECONDS - now)
        if not done and now < SECONDS:
            wanted = FIRST_ROUND  # a run would go on asking, too
    if more := affordable(len(rest), len(first), for_seeds, SECONDS - now):
        seeds += answer_seeds(loader, rest[:more], true_answers)
    return Asked(seeds, candidates, groups, funnel)


def measure_training(trainer, groups: Sequence[Group]) -> tuple[float, Memory]:
    """Return the seconds of a step's forward and backward passes, and this process's memory; weights stay the same.

    One micro-batch is measured, and counts as often as there are. Without groups, or where memory is not enough, the
    seconds are 0.
    """
    args, seconds, ran_out = trainer.args, 0.0, False
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    optimizer = sum(optimizer_bytes(parameter.numel(), parameter.element_size()) for parameter in trained)
    if groups:
        enable_checkpointing(trainer)
        trainer.model.train()
        try:
            for rows in micro_batches(groups, args.per_device_train_batch_size):
                forward, both = measure_passes(trainer, rows)
            extra = (args.beta != 0.0) + trainer.corrects_by_engine  # the reference's, and of the weights that sampled
            of_batch = args.steps_per_generation * (args.num_iterations * both + extra * forward)
            seconds = of_batch / float(steps_per_batch(args))
        except torch.OutOfMemoryError:
            ran_out = True
        trainer.model.zero_grad(set_to_none=True)
    measured, there = measure_memory(trainer.accelerator.device)
    return seconds, Memory(there if ran_out else measured, optimizer, there)


def enable_checkpointing(trainer) -> None:
    """Enable gradient checkpointing as Trainer does when training begins."""
    if trainer.args.gradient_checkpointing:
        settings = dict(trainer.args.gradient_checkpointing_kwargs or {})
        own = {name: settings.pop(name) for name in ("every_n_layers", "offload") if name in settings}
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings or None, **own)


def micro_batches(groups: Sequence[Group], size: int) -> tuple[list[Row], list[Row]]:
    """Return two micro-batches of `size` completions: the longest, which take most memory, and some of all lengths."""
    rows = [(group.prompt_ids, completion.token_ids) for group in groups for completion in group.completions]
    rows *= -(-size // len(rows))
    longest = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))[-size:]
    return longest, rows[:: len(rows) // size][:size]


def measure_passes(trainer, rows: Sequence[Row]) -> tuple[float, float]:
    """Return the seconds of a forward pass over rows, and of one with its backward pass."""
    batch = as_batch(trainer, rows)

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if trainer.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    forward = timed(lambda: token_logps(trainer, batch))
    return forward, timed(lambda: trained_logps(trainer, batch).mean().backward())


def measure_memory(device: torch.device) -> tuple[float, float]:
    """Return the most bytes taken so far, of a GPU by all that runs there, else by this process, and all there are."""
    if device.type == "cuda":
        free, there = torch.cuda.mem_get_info(device)
        return there - free + torch.cuda.max_memory_reserved(device) - torch.cuda.memory_reserved(device), there
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, there
