"""Seeds beside the model's own instructions: their share, their labels, and a resumed run."""

import pytest
from conftest import ledger_rows
from test_loop import Script, check_that_another_goes_on

from serl_trl.self_play import (
    Ledger,
    MajorityLabels,
    ScriptedSampler,
    SelfInstruction,
    SelfPlayLoader,
    SelfPlaySettings,
    TrueAnswerOrMajorityLabels,
)


SEEDS = ["Legs ?", *(f"How many legs do {n} spiders have" for n in "two three four five six seven eight nine".split())]
LABELLED = dict.fromkeys(SEEDS[:4], "3") | dict.fromkeys(SEEDS[4:])
# four groups of four completions a batch, one of them of a seed
SETTINGS = {"num_generations": 4, "generation_batch_size": 16, "instruction_requests": 1, "seed_share": 0.25}


def make_loader(folder, script=None, labels=None, slow_reply=None, **changes) -> SelfPlayLoader:
    sampler, settings = ScriptedSampler(script or Script(), 1000, slow_reply), SelfPlaySettings(**SETTINGS | changes)
    source = SelfInstruction(settings, SEEDS, sampler, max_tokens=10_000)
    return SelfPlayLoader(settings, source, labels or MajorityLabels(), sampler, Ledger(folder))


@pytest.mark.parametrize(("share", "seeds"), [(0.0, 0), (0.25, 1), (0.5, 2)])
def test_each_batch_has_its_share_of_seeds(tmp_path, share, seeds):
    loader = make_loader(tmp_path, seed_share=share)
    for _ in range(5):
        assert [group.is_seed for group in next(loader).groups].count(True) == seeds
    rows = ledger_rows(tmp_path)
    assert all((row["instruction"] in SEEDS) == (not row["parents"]) for row in rows)
    assert not set(SEEDS) & set(loader.source.pool.kept)  # they are few-shot examples already


def test_seeds_come_in_passes_and_no_filter_judges_them(tmp_path):
    loader = make_loader(tmp_path)
    batches = [next(loader) for _ in range(20)]
    seeds = [row for row in ledger_rows(tmp_path) if not row["parents"]]
    first, second = ([row["instruction"] for row in seeds[start : start + len(SEEDS)]] for start in (0, len(SEEDS)))
    assert sorted(first) == sorted(second) == sorted(SEEDS) and first != second  # the short one among them
    assert loader.totals.counts["seeds"] == len(seeds) == loader.source.seeds_drawn
    answered = sum(batch.metrics["self_instruction/admitted"] for batch in batches)
    assert answered == sum(row["fate"] not in ("rejected", "unused") for row in ledger_rows(tmp_path))


def test_requests_are_sized_by_what_the_model_writes(tmp_path):
    few, many = make_loader(tmp_path / "few", seed_share=0.25), make_loader(tmp_path / "many", seed_share=0.75)
    for _ in range(10):
        next(few), next(many)
    for loader in few, many:  # a request brings four instructions, whatever comes of seeds
        assert loader.past["candidates"] / loader.past["requests"] == pytest.approx(4.0, abs=0.05)


@pytest.mark.parametrize("batches", [1, 4])
def test_a_resumed_run_draws_the_same(tmp_path, batches):
    loader, other = make_loader(tmp_path / "one"), make_loader(tmp_path / "other")
    for _ in range(batches):
        next(loader)
    check_that_another_goes_on(tmp_path, loader, other, batches=6)


def test_an_interrupted_batch_draws_its_seeds_again(tmp_path):
    loader, whole = make_loader(tmp_path / "one"), make_loader(tmp_path / "whole")
    for _ in range(2):
        next(loader), next(whole)
    written, label = loader.sampler.reply.written, loader.label
    loader.surplus, whole.surplus = [], []
    loader.label = lambda *arguments: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(loader)
    loader.label, loader.sampler.reply.written = label, written
    for _ in range(3):
        assert next(loader).groups == next(whole).groups
    assert ledger_rows(tmp_path / "one") == ledger_rows(tmp_path / "whole")


def test_a_true_answer_labels_where_there_is_one_and_the_vote_elsewhere(tmp_path):
    loader = make_loader(tmp_path, labels=TrueAnswerOrMajorityLabels(LABELLED), seed_share=0.5)
    labels = {group.instruction: group.vote for _ in range(12) for group in next(loader).groups}
    assert set(SEEDS) <= set(labels)
    for instruction, vote in labels.items():
        true = LABELLED.get(instruction) is not None
        assert (vote.pseudo_label, vote.pass_rate) == (("3", 0.25) if true else ("0", 0.5))
        assert vote.rewards == ((0.0, 0.0, 0.0, 1.0) if true else (1.0, 1.0, 0.0, 0.0))


def test_slow_weights_are_asked_about_votes_only(tmp_path):
    def doubt(prompt, index):  # of all but the first seed without an answer
        return "\\boxed{0}" if prompt[-1]["content"].startswith((SEEDS[4], "Count")) else f"\\boxed{{{index + 10}}}"

    labels = TrueAnswerOrMajorityLabels(LABELLED)
    loader = make_loader(tmp_path, labels=labels, slow_reply=doubt, confirm_majority=True)
    for _ in range(8):
        next(loader)
    seeds = {row["instruction"]: row for row in ledger_rows(tmp_path) if not row["parents"] and row["answers"]}
    for seed, row in seeds.items():
        assert bool(row["slow_answers"]) == (LABELLED[seed] is None)
        assert (row["fate"] == "unconfirmed") == (LABELLED[seed] is None and seed != SEEDS[4])
    assert set(SEEDS) == set(seeds)


def test_a_model_that_writes_no_list_is_told_so(tmp_path):
    with pytest.raises(RuntimeError, match="The model wrote no list"):
        next(
            make_loader(
                tmp_path, lambda prompt, index: "\\boxed{0}" if "boxed" in prompt[-1]["content"] else "", max_rounds=2
            )
        )
