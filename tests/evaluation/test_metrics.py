import random
from itertools import combinations, permutations
from statistics import mean

import numpy as np
import pytest

from serl_trl.evaluation.metrics import (
    bootstrap_interval,
    by_level,
    majority_is_right,
    metric_names,
    paired_difference,
    row_value,
    summarize,
)


def row(correct, classes=None, instruction="what is 2 plus 3 ?", level=None, truncated=None):
    """Return a row; by default all right answers are one class and every wrong one a class of its own."""
    classes = classes or [0 if right else 1 + index for index, right in enumerate(correct)]
    return {
        "instruction": instruction,
        "level": level,
        "answers": [None if number is None else str(number) for number in classes],
        "correct": list(correct),
        "classes": classes,
        "truncated": truncated or [False] * len(correct),
    }


def random_row(rng, n):
    """A row of answers "right", "wrong", "also wrong" and none."""
    drawn = rng.choices(["right", "wrong", "also wrong", None], k=n)
    order = list(dict.fromkeys(answer for answer in drawn if answer))
    return row([int(a == "right") for a in drawn], [None if a is None else order.index(a) for a in drawn])


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (1, "pass@1 maj@1"),
        (2, "pass@1 pass@2 maj@1 maj@2"),
        (6, "pass@1 pass@2 pass@4 pass@6 maj@1 maj@2 maj@4 maj@6"),  # n itself, though no power of two
    ],
)
def test_metrics_are_the_powers_of_two_and_n(n, names):
    assert metric_names(n) == [*names.split(), "unparsed", "truncated"]


@pytest.mark.parametrize(
    ("correct", "metric", "value"),
    [
        ([1, 1, 0, 0], "pass@1", 1 / 2),
        ([1, 1, 0, 0], "pass@2", 5 / 6),  # one of the six pairs is all wrong
        ([1, 0, 0, 0], "pass@4", 1.0),
        ([0, 0, 0, 0], "pass@4", 0.0),
        ([1, 1, 1, 0], "pass@2", 1.0),  # there is no pair of wrong ones
    ],
)
def test_pass_at_k_by_hand(correct, metric, value):
    assert row_value(row(correct), metric) == pytest.approx(value, abs=1e-15)


def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_one():
    rng = random.Random(0)
    for n in range(1, 8):
        correct = rng.choices([0, 1], weights=[3, 1], k=n)
        for k in range(1, n + 1):
            expected = mean(any(subset) for subset in combinations(correct, k))
            assert row_value(row(correct), f"pass@{k}") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("classes", "correct", "right"),
    [
        ([0, 0, 1], [1, 1, 0], True),
        ([0, 1, 1], [1, 0, 0], False),
        ([0, 1], [1, 0], True),  # as many: the first counts
        ([0, 1], [0, 1], False),
        ([2, None, None], [1, 0, 0], True),  # those that abstain have no vote, and one vote is a majority
        ([None, None], [0, 0], False),
        ([3, 1, 3, 1], [0, 1, 0, 1], False),  # numbers are those of the whole group, in any order
    ],
)
def test_the_majority_by_hand(classes, correct, right):
    assert majority_is_right(classes, correct) is right


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("maj@1", 3 / 5),
        ("maj@2", 1 / 2),  # right wrong | right right; the fifth has no partner
        ("maj@4", 1.0),
        ("maj@5", 1.0),
    ],
)
def test_maj_at_k_is_the_mean_over_disjoint_runs(metric, value):
    assert row_value(row([0, 1, 1, 1, 0], [0, 1, 1, 1, 2]), metric) == value


def test_maj_at_k_is_unbiased():
    rng = random.Random(1)
    for k in (1, 2, 3, 5):
        drawn = random_row(rng, 5)
        orders = list(permutations(range(5)))
        shuffled = [row([drawn["correct"][i] for i in o], [drawn["classes"][i] for i in o]) for o in orders]
        # Over all orders, the runs are all ordered draws of k.
        draws = list(permutations(range(5), k))
        expected = mean(
            majority_is_right([drawn["classes"][i] for i in d], [drawn["correct"][i] for i in d]) for d in draws
        )
        assert mean(row_value(r, f"maj@{k}") for r in shuffled) == pytest.approx(expected, abs=1e-12)


def test_maj_at_1_is_pass_at_1():
    rng = random.Random(2)
    for _ in range(50):
        drawn = random_row(rng, 7)
        assert row_value(drawn, "maj@1") == pytest.approx(row_value(drawn, "pass@1"), abs=1e-15)


def test_completions_without_an_answer_are_wrong_and_counted():
    rows = [
        row([1, 0, 0, 0], [0, None, None, None], truncated=[False, False, True, True]),
        row([0] * 4, [None] * 4, truncated=[True] * 4),
    ]
    values = {metric: result["value"] for metric, result in summarize(rows).items()}
    assert values["pass@1"] == 1 / 8  # of all eight completions, not of the one that was read
    assert values["maj@4"] == 1 / 2
    assert values["unparsed"] == 7 / 8 and values["truncated"] == 6 / 8


def test_intervals_are_repeatable_and_hold_the_mean():
    values = np.random.default_rng(3).random(40)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert 0 < low < values.mean() < high < 1 and 0.1 < high - low < 0.3
    assert bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)


def test_intervals_hold_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(4)
    held = 0
    for _ in range(300):  # models that are right with a probability of 0.5 on average, other on each instruction
        rates = rng.beta(1, 1, size=60)
        low, high = bootstrap_interval(rng.binomial(8, rates) / 8)
        held += low <= 0.5 <= high
    assert 0.91 <= held / 300 <= 0.985


def test_levels_hold_their_rows():
    rows = [row([1, 0], level="2"), row([0, 0], level="1"), row([1, 1], level="2"), row([1, 1])]
    levels = by_level(rows)
    assert list(levels) == ["1", "2"]
    assert summarize(levels["2"])["pass@1"]["value"] == 0.75


def test_paired_differences_cancel_what_is_hard_for_both():
    rng = random.Random(5)
    hard = [rng.random() < 0.5 for _ in range(100)]
    before = [row([0] * 8 if h else [1, 1, 1, 1, 1, 1, 1, 0], instruction=str(i)) for i, h in enumerate(hard)]
    after = [row([1, *[0] * 7] if h else [1] * 8, instruction=str(i)) for i, h in enumerate(hard)]
    result = paired_difference(after, before, "pass@1")
    assert result["difference"] == pytest.approx(1 / 8) and result["instructions"] == 100
    # Every instruction is better by 1/8: the pairs leave no doubt, while the two intervals overlap.
    assert (result["low"], result["high"]) == pytest.approx((1 / 8, 1 / 8))
    assert summarize(before)["pass@1"]["high"] > summarize(after)["pass@1"]["low"]


def test_paired_differences_match_by_instruction():
    ours = [row([1, 1], instruction="a"), row([0, 0], instruction="b"), row([1, 0], instruction="a")]
    theirs = [row([1, 1], instruction="a"), row([1, 1], instruction="c"), row([0, 0], instruction="a")]
    result = paired_difference(ours, theirs, "pass@1")  # the second "a" is matched with the second
    assert (result["difference"], result["instructions"], result["left_out"]) == (0.25, 2, 2)
