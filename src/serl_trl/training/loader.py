"""The loop of a run, put together as its settings say."""

from ..engine.models import context_length, control_tokens, request_turns
from ..engine.sampler import TrainerSampler
from ..self_play import (
    Ledger,
    MajorityLabels,
    SeedPasses,
    SelfInstruction,
    SelfPlayLoader,
    TrueAnswerLabels,
    TrueAnswerOrMajorityLabels,
    load_template,
)


def make_loader(trainer) -> SelfPlayLoader:
    """Return the loop that feeds a [`SeRLTrainer`], on its seeds and through its engine."""
    args, seeds, sampler = trainer.args, trainer.seeds, TrainerSampler(trainer)
    if args.instruction_source == "seeds":
        source = SeedPasses(args, seeds.instructions, sampler)
    else:
        max_tokens = context_length(trainer.model.config, args)
        forbidden = control_tokens(trainer.processing_class)
        template = load_template(args.prompt_template)
        turns = request_turns(trainer.processing_class, template, **trainer.chat_template_kwargs)
        source = SelfInstruction(args, seeds.instructions, sampler, max_tokens, forbidden, turns)
    if args.label_source == "true_answer":
        labels = TrueAnswerLabels(seeds.true_answers, args.answer_format, args.max_vote_seconds)
    elif args.label_source == "true_answer_or_vote":
        labels = TrueAnswerOrMajorityLabels(seeds.true_answers, args.answer_format, args.max_vote_seconds)
    else:
        labels = MajorityLabels(args.answer_format, args.max_vote_seconds)
    ledger = Ledger(args.output_dir, is_writer=trainer.accelerator.is_main_process)
    return SelfPlayLoader(args, source, labels, sampler, ledger, show_progress=not args.disable_tqdm)
