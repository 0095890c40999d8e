"""An instruction is answered in two steps, and the second is left out where the model is sure."""

import pytest
from conftest import ledger_rows
from test_loop import SEEDS, Script, make_loader

from serl_trl.self_play import MajorityLabels, TrueAnswerLabels
from serl_trl.self_play.carriers import Candidate
from serl_trl.self_play.funnel import Funnel


SURE, NEARLY_SURE, LOST = SEEDS[:3], SEEDS[3], SEEDS[4]
SIXTEEN = {"num_generations": 16, "generation_batch_size": 32, "max_pass_rate": 0.9, "from_seeds": True}


def agreeing(text: str) -> int:
    """Return how many of the answers of one call agree: the model is sure of some seeds, and lost at one."""
    seed = text.split("\n")[0]
    return 16 if seed in SURE else 7 if seed == NEARLY_SURE else 1 if seed == LOST else 4


def answer(loader, seeds=SEEDS):
    funnel = Funnel()
    return loader.answer([Candidate(number, 0, 0, seed, []) for number, seed in enumerate(seeds)], funnel), funnel


@pytest.mark.parametrize(
    ("first", "calls"),
    [
        (8, [(8, 8), (5, 8)]),
        (12, [(8, 12), (5, 4)]),
        (15, [(8, 15), (5, 1)]),
        (1, [(8, 1), (8, 15)]),  # one answer is no majority
        (0, [(8, 16)]),
        (16, [(8, 16)]),
        (40, [(8, 16)]),
    ],
)
def test_what_is_sampled(tmp_path, first, calls):
    loader = make_loader(tmp_path, Script(agreeing=agreeing), first_generations=first, **SIXTEEN)
    answered, funnel = answer(loader)
    assert loader.sampler.calls == calls
    lengths = {seed: len(completions) for seed, (_, completions) in zip(SEEDS, answered, strict=True)}
    is_shorter = len(calls) == 2 and calls[1][0] < 8
    assert lengths == {seed: first if is_shorter and seed in SURE else 16 for seed in SEEDS}
    assert funnel.counts["completions"] == funnel.counts["completion_tokens"] == sum(lengths.values())
    assert funnel.counts["answered"] == 8


def test_nothing_more_is_sampled_where_all_are_sure(tmp_path):
    loader = make_loader(tmp_path, Script(agreeing=agreeing), first_generations=8, **SIXTEEN)
    answered, _ = answer(loader, SURE)
    assert loader.sampler.calls == [(3, 8)] and [len(completions) for _, completions in answered] == [8] * 3


def test_the_answers_of_both_steps_are_those_of_their_instruction(tmp_path):
    class Naming(Script):
        def __call__(self, prompt, index):
            return super().__call__(prompt, index) + " " + prompt[-1]["content"].split("\n")[0]

    answered, _ = answer(make_loader(tmp_path, Naming(agreeing=agreeing), first_generations=8, **SIXTEEN))
    for seed, (_, completions) in zip(SEEDS, answered, strict=True):
        assert all(completion.text.endswith(seed) for completion in completions)


def test_what_is_sure_at_first_is_out_of_the_band(tmp_path):
    loader = make_loader(tmp_path, Script(agreeing=agreeing), first_generations=8, **SIXTEEN)
    trained = [group for _ in range(4) for group in next(loader).groups]
    assert all(len(group.completions) == len(group.vote.rewards) == 16 for group in trained)
    assert {group.instruction for group in trained} == {*SEEDS} - {*SURE, LOST}
    rows = {row["instruction"]: row for row in ledger_rows(tmp_path)}
    for seed in SURE:
        row = rows[seed]
        assert (row["fate"], row["pass_rate"], len(row["answers"])) == ("out_of_band", 1.0, 8)
    # Seven of eight are within the band: the vote is that of all sixteen.
    assert (rows[NEARLY_SURE]["pass_rate"], len(rows[NEARLY_SURE]["answers"])) == (14 / 16, 16)


def test_true_answers_need_no_second_step_either(tmp_path):
    right = TrueAnswerLabels(dict.fromkeys(SEEDS, "0"))
    loader = make_loader(tmp_path, Script(agreeing=agreeing), labels=right, first_generations=8, **SIXTEEN)
    answer(loader)
    assert loader.sampler.calls == [(8, 8), (5, 8)]


# The calls of five batches: written instructions, then their answers, all at once.
@pytest.mark.parametrize(
    ("from_seeds", "calls"),
    [
        (False, [(2, 1), (6, 4), (2, 1), (2, 4), (2, 1), (2, 4), (2, 1), (2, 4)]),
        (True, [(6, 4), (2, 4), (2, 4), (2, 4)]),
    ],
)
def test_the_method_of_the_paper_asks_for_nothing_else(tmp_path, from_seeds, calls):
    loader = make_loader(tmp_path, Script(), from_seeds=from_seeds, method="paper")
    for _ in range(5):
        next(loader)
    assert loader.sampler.calls == calls


def test_a_group_that_was_sure_is_not_trained_on_where_its_second_vote_times_out(tmp_path):
    class SlowLater(MajorityLabels):
        """Reads one answer fewer in its second vote on a group."""

        def label(self, instruction, completions, truncated):
            votes.append(instruction)
            late = votes.count(instruction) == 2
            return super().label(instruction, completions, [late, *truncated[1:]])

    votes = []
    script = Script(agreeing=lambda text: 16 if text.split("\n")[0] in SEEDS[:6] else 4)
    loader = make_loader(tmp_path, script, first_generations=8, labels=SlowLater(), **SIXTEEN)
    batch = next(loader)
    assert [len(group.completions) for group in batch.groups] == [16, 16]
    assert {row["fate"] for row in ledger_rows(tmp_path) if len(row["answers"]) == 8} == {"out_of_band"}


@pytest.mark.parametrize("keep", [True, False])
def test_the_ledger_keeps_the_texts_of_completions_where_that_is_set(tmp_path, keep):
    loader = make_loader(tmp_path, Script(agreeing=agreeing), keep_completions=keep, **SIXTEEN)
    texts = {group.instruction: [completion.text for completion in group.completions] for group in next(loader).groups}
    rows = {row["instruction"]: row["completions"] for row in ledger_rows(tmp_path) if row["instruction"] in texts}
    assert rows == (texts if keep else dict.fromkeys(texts, []))
