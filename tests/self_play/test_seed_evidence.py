"""What the answers to the seeds say: whether training may begin, from which pass rate on, and what is watched."""

import json
import re
from dataclasses import asdict

import pytest
from conftest import ledger_rows

from serl_trl.self_play import (
    Ledger,
    MajorityLabels,
    ScriptedSampler,
    SeedPasses,
    SelfInstruction,
    SelfPlayLoader,
    SelfPlaySettings,
)
from serl_trl.self_play.seed_evidence import Evidence, SeedAnswers, agreement, answer_seeds, gather_evidence


# Of four answers, those that say 0; each other one is a number of its own.
AGREEING = {"easy": 4, "clear": 3, "unsure": 3, "weak": 2, "lost": 0}


def kind(text: str) -> str:
    return text.split()[4]


def reply(prompt, number: int) -> str:
    return f"\\boxed{{{0 if number < AGREEING[kind(prompt[-1]['content'])] else 100 + number}}}"


def slow_reply(prompt, number: int) -> str:
    return f"\\boxed{{{5 if kind(prompt[-1]['content']) == 'unsure' else 0}}}"  # which contradicts an unsure one


def make_seeds(*kinds: tuple) -> dict[str, str | None]:
    """Return seeds with their true answers, of (kind, count) or (kind, labelled ones, those with a right majority)."""
    seeds = {}
    for name, count, *right in kinds:
        for number in range(count):
            # The wrong ones: what one of the four says, but not the majority.
            answer = None if not right else "0" if number < right[0] else "103"
            seeds[f"How many legs has {name} beetle {number}"] = answer
    return seeds


def make_loader(tmp_path, seeds, **changes) -> SelfPlayLoader:
    given = {"num_generations": 4, "generation_batch_size": 8, "first_generations": 0, "method": "trusted"}
    settings = SelfPlaySettings(**given | changes)
    sampler = ScriptedSampler(reply, slow_reply=slow_reply)
    source = SeedPasses(settings, list(seeds), sampler)
    return SelfPlayLoader(settings, source, MajorityLabels(), sampler, Ledger(tmp_path))


def gather(tmp_path, *kinds: tuple, **changes) -> Evidence:
    seeds = make_seeds(*kinds)
    return gather_evidence(make_loader(tmp_path, seeds, **changes), seeds)


def check_refusal(evidence: Evidence, message: str | None) -> None:
    refusal = evidence.refusal(max_pass_rate=0.9)
    if message is None:
        assert refusal is None
    else:
        assert re.search(message, refusal)
        assert refusal.endswith("Use a stronger model or easier seeds; method 'paper' trains all the same.")


@pytest.mark.parametrize(
    ("kinds", "in_band", "confirmed", "refusal"),
    [
        ([("clear", 10), ("easy", 2)], 10, 10, None),
        ([("clear", 1), ("unsure", 9)], 10, 1, None),  # one of ten is enough
        ([("clear", 1), ("unsure", 10)], 11, 1, "confirm the start's majority for 1 of 11 seeds in the band only"),
        ([("unsure", 8)], 8, 0, "for 0 of 8 seeds in the band only: it is too unsure to learn from itself"),
        ([("unsure", 7), ("lost", 9), ("easy", 9)], 7, 0, None),  # too few to say
    ],
)
def test_a_start_is_ready_where_more_answers_confirm_its_majority(tmp_path, kinds, in_band, confirmed, refusal):
    evidence = gather(tmp_path, *kinds)
    assert (evidence.in_band, evidence.confirmed) == (in_band, confirmed)
    assert (evidence.labelled, evidence.right, evidence.trusted, evidence.trusted_right) == (0, 0, 0, 0)
    assert evidence.min_pass_rate == 0.2 and not evidence.is_labelled  # the method's floor
    check_refusal(evidence, refusal)


@pytest.mark.parametrize(
    ("kinds", "trusted", "floor", "refusal"),
    [
        ([("clear", 20, 20)], (20, 20), 0.75, None),
        ([("clear", 20, 17)], (20, 17), 0.75, None),  # a share of 0.77 at the least
        # Not surely too few, and yet too few at each pass rate.
        (
            [("clear", 20, 16)],
            (20, 16),
            None,
            "right for 16 of 20 labelled seeds, and in no part of the band for 75 %",
        ),
        ([("clear", 24, 12)], (24, 12), None, "Of 24 labelled seeds that would be trained on, .* right for 12 only"),
        ([("clear", 20, 20), ("weak", 5, 5)], (25, 25), 0.5, None),
        ([("clear", 20, 20), ("weak", 5, 0)], (25, 20), 0.75, None),  # the wrong ones are below the floor
        ([("clear", 20, 20), ("unsure", 9, 0)], (20, 20), 0.75, None),  # and these would not be trained on
        # Too easy ones are right, and what would be trained on is not.
        ([("easy", 40, 40), ("clear", 8, 0)], (8, 0), 0.75, "Of 8 labelled seeds .* right for 0 only"),
        ([("easy", 20, 20)], (0, 0), 0.2, None),  # above the band, and so they say nothing of it
        ([("lost", 20, 20)], (0, 0), None, "right for 0 of 20 labelled seeds, and in no part"),  # no majority
        ([("unsure", 20, 20)], (0, 0), None, "right for 20 of 20 labelled seeds, and in no part"),
    ],
)
def test_labelled_seeds_set_the_lowest_pass_rate(tmp_path, kinds, trusted, floor, refusal):
    evidence = gather(tmp_path, *kinds)
    assert (evidence.trusted, evidence.trusted_right) == trusted
    assert evidence.min_pass_rate == floor and evidence.is_labelled
    check_refusal(evidence, refusal)


def test_the_lowest_pass_rate_is_within_the_band_of_the_settings(tmp_path):
    kinds = [("clear", 20, 20), ("weak", 9, 9)]
    assert [gather(tmp_path, *kinds, min_pass_rate=rate).min_pass_rate for rate in (0.5, 0.6)] == [0.5, 0.75]


@pytest.mark.parametrize(
    ("kinds", "labelled", "right", "floor"),
    [
        ([("clear", 19, 15)], 19, 15, 0.2),  # as the method says: too few to set one by
        ([("clear", 19, 19), ("weak", 30)], 19, 19, 0.2),
        ([("clear", 20, 20), ("weak", 30)], 20, 20, 0.75),  # the others count for the band and its confirmation alone
    ],
)
def test_few_labels_set_no_pass_rate(tmp_path, kinds, labelled, right, floor):
    evidence = gather(tmp_path, *kinds)
    assert (evidence.labelled, evidence.right, evidence.min_pass_rate) == (labelled, right, floor)
    assert evidence.is_labelled == (labelled >= 20)
    assert evidence.in_band == evidence.confirmed == evidence.seeds == sum(count for _, count, *_ in kinds)
    check_refusal(evidence, None)


@pytest.mark.parametrize(
    ("kinds", "watched"),
    [
        # Without labels those with a strong majority, by that.
        ([("clear", 5), ("easy", 5), ("weak", 5), ("lost", 5), ("unsure", 2)], {"clear", "easy", "weak", "unsure"}),
        # With enough of them all that have one, whatever the majority says.
        ([("clear", 15, 15), ("lost", 10, 10), ("easy", 9)], {"clear", "lost"}),
        ([("clear", 15, 15), ("easy", 9)], {"clear", "easy"}),  # with few, strong majorities again
    ],
)
def test_what_is_watched(tmp_path, kinds, watched):
    evidence = gather(tmp_path, *kinds)
    assert evidence.watched == {seed: "0" for seed in make_seeds(*kinds) if kind(seed) in watched}


def test_labelled_seeds_are_watched_by_their_labels(tmp_path):
    evidence = gather(tmp_path, ("clear", 30, 26))
    assert evidence.watched == make_seeds(("clear", 30, 26))  # of which four are no majority's


def test_a_majority_that_is_known_to_be_wrong_is_not_watched(tmp_path):
    evidence = gather(tmp_path, ("clear", 19, 17))
    assert evidence.watched == make_seeds(("clear", 17, 17))


@pytest.mark.parametrize(
    ("count", "watched"),
    [
        (40, 32),  # at most
        (16, 16),
        (15, 0),  # too few to tell a fall from chance
    ],
)
def test_how_many_are_watched(tmp_path, count, watched):
    assert len(gather(tmp_path, ("clear", count)).watched) == watched


def test_labelled_seeds_are_answered_first(tmp_path):
    kinds = [("weak", 30), ("clear", 22, 22)]
    evidence = gather(tmp_path, *kinds, evidence_seeds=25)
    assert (evidence.seeds, evidence.labelled, evidence.in_band) == (25, 22, 25)
    few = [gather(tmp_path, *kinds, evidence_seeds=20, seed=seed) for seed in (1, 1, 2)]
    assert [evidence.labelled for evidence in few] == [20] * 3
    assert list(few[0].watched) == list(few[1].watched) != list(few[2].watched)  # drawn by the seed of the run


def test_evidence_survives_json(tmp_path):
    evidence = gather(tmp_path, ("clear", 20, 17), ("weak", 4), ("lost", 3))
    assert Evidence(**json.loads(json.dumps(asdict(evidence)))) == evidence
    refused = gather(tmp_path, ("lost", 20, 0))
    assert Evidence(**json.loads(json.dumps(asdict(refused)))) == refused and refused.min_pass_rate is None


def test_the_figures_are_told(tmp_path):
    evidence = gather(tmp_path, ("clear", 20, 17), ("unsure", 4), ("lost", 3))
    assert evidence.describe() == (
        "The start's answers to 27 seeds: pass rate 0.67 on average, 24 in the band; 20 of these would be trained on.\n"
        "Of 20 seeds with true answers the majority is right for 17; of the 20 that would be trained on, for 17.\n"
        "A majority counts from a pass rate of 0.75 on.\n"
        "Seeds without a majority: 3. Few-shot examples are drawn from the others, if these are enough."
    )
    evidence = gather(tmp_path, ("clear", 4), ("easy", 4))
    assert evidence.describe() == (
        "The start's answers to 8 seeds: pass rate 0.88 on average, 4 in the band; 4 of these would be trained on.\n"
        "A majority counts from a pass rate of 0.20 on."
    )


@pytest.mark.parametrize(
    ("others", "left_out"),
    [
        (8, True),  # as many as few-shot examples
        (7, False),
    ],
)
def test_seeds_without_a_majority_are_no_few_shot_examples(tmp_path, others, left_out):
    seeds = make_seeds(("clear", others), ("lost", 4))
    loader = make_loader(tmp_path, seeds, nearness_level=0.0)
    source = SelfInstruction(loader.settings, list(seeds), loader.sampler, max_tokens=10_000)
    evidence = gather_evidence(loader, seeds)
    assert evidence.without_majority == [seed for seed in evidence.without_majority if kind(seed) == "lost"]
    assert len(evidence.without_majority) == 4
    source.leave_out([seed.replace(" ", "  ") for seed in evidence.without_majority])  # white space does not count
    drawn = set()
    for batch in range(8):
        source.begin_batch(batch)
        drawn.update(source.draw_examples())
    assert {kind(seed) for seed in drawn} == ({"clear"} if left_out else {"clear", "lost"})
    assert source.metrics()["pool/seeds"] == others + 4  # a new instruction still may not be like one of them


def test_without_a_confirmation_what_is_in_the_band_would_be_trained_on(tmp_path):
    evidence = gather(tmp_path, ("clear", 20, 17), ("unsure", 5), confirm_majority=False)
    assert (evidence.in_band, evidence.confirmed, evidence.trusted, evidence.trusted_right) == (25, 25, 20, 17)
    assert evidence.min_pass_rate == 0.75
    check_refusal(evidence, None)


def test_the_answers_to_each_seed(tmp_path):
    kinds = [("easy", 1, 1), ("clear", 2, 1), ("unsure", 1), ("weak", 1, 1), ("lost", 2, 1)]
    seeds = make_seeds(*kinds)
    answers = answer_seeds(make_loader(tmp_path, seeds), list(seeds), seeds)
    expected = [
        # what the majority says, how often, whether that is right, and whether more answers confirm it
        ("0", 1.0, True, None),
        ("0", 0.75, True, True),
        ("0", 0.75, False, True),
        ("0", 0.75, None, False),
        ("0", 0.5, True, True),
        (None, 0.0, False, None),
        (None, 0.0, False, None),  # one of its answers is right
    ]
    assert answers == [SeedAnswers(seed, *values) for seed, values in zip(seeds, expected, strict=True)]


def test_agreement_with_labels(tmp_path):
    seeds = list(make_seeds(("easy", 1), ("clear", 2), ("lost", 1)))
    loader = make_loader(tmp_path, seeds)
    assert agreement(loader, dict(zip(seeds, ["0/1", "0", "103", "7"], strict=True))) == [1.0, 0.75, 0.25, 0.0]
    assert loader.sampler.calls == [(4, 4)]  # the slow weights are not asked


def test_evidence_changes_nothing_but_what_it_costs(tmp_path):
    seeds = make_seeds(("clear", 20, 20), ("lost", 4))
    loader, other = make_loader(tmp_path / "one", seeds), make_loader(tmp_path / "other", seeds)
    gather_evidence(loader, seeds)
    assert loader.sampler.calls == [(24, 4), (20, 8)]
    assert loader.totals.counts == {"checking_tokens": 24 * 4 + 20 * 8}  # of a word each
    assert ledger_rows(tmp_path / "one") == []
    for _ in range(3):
        assert next(loader).groups == next(other).groups
    assert ledger_rows(tmp_path / "one") == ledger_rows(tmp_path / "other")


@pytest.mark.parametrize(
    ("labelled", "shown", "setting", "floor"),
    [
        (0, 0.4, 0.3, 0.3),  # a setting that is changed where the run goes on
        (0, 0.4, 0.5, 0.5),
        (20, 0.6, 0.4, 0.6),  # below what true answers have shown no majority counts
        (20, 0.6, 0.7, 0.7),
        (20, None, 0.4, None),  # refused
    ],
)
def test_the_floor_is_the_setting_unless_true_answers_show_a_higher_one(labelled, shown, setting, floor):
    assert Evidence(50, 0.8, 20, 20, labelled, 0, 0, 0, shown, [], {}).floor(setting) == floor
