import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serl_trl.self_play import calibrated_pass_rate, lead, wilson_bound


NAN = float("nan")


@pytest.mark.parametrize(
    ("successes", "total", "confidence", "bound"),
    [
        (17, 20, 0.8, 0.7709),
        (42, 50, 0.8, 0.7917),
        (0, 5, 0.8, 0.0),
        (5, 5, 0.8, 5 / (5 + 0.8416**2)),  # all right is not certainty
        (10, 20, 0.5, 0.5),  # as likely above as below
        (81, 263, 0.975, 0.2553),  # the lower of Newcombe's (1998) two-sided 95 %
        (15, 148, 0.975, 0.0624),
    ],
)
def test_wilson_bound(successes, total, confidence, bound):
    assert wilson_bound(successes, total, confidence) == pytest.approx(bound, abs=1e-4)


def groups(*counts):
    """Return pass rates and whether the majority is right, of (pass rate, right ones, wrong ones)."""
    rows = [(rate, n < right) for rate, right, wrong in counts for n in range(right + wrong)]
    return [rate for rate, _ in rows], [is_right for _, is_right in rows]


@pytest.mark.parametrize(
    ("counts", "pass_rate"),
    [
        ([(0.5, 17, 3)], 0.5),
        ([(0.5, 16, 4)], None),  # 0.71 at 80 %
        ([(0.25, 0, 20), (0.75, 17, 3)], 0.75),
        ([(0.75, 17, 3), (0.25, 0, 20)], 0.75),  # in any order
        ([(0.25, 2, 1), (0.5, 20, 1), (0.75, 20, 0)], 0.25),  # what is above makes up for it
        ([(0.25, 30, 0), (0.5, 0, 4), (1.0, 3, 0)], 0.25),  # the lowest, also where one between is not good enough
        ([(1.0, 2, 0)], None),  # two right ones are no evidence
        ([(1.0, 3, 0)], 1.0),
        ([(0.0, 0, 9)], None),
    ],
)
def test_calibrated_pass_rate(counts, pass_rate):
    assert calibrated_pass_rate(*groups(*counts)) == pass_rate


def test_the_demand_can_be_set():
    pass_rates, right = groups((0.25, 6, 4), (0.75, 20, 0))
    assert calibrated_pass_rate(pass_rates, right) == 0.25
    assert calibrated_pass_rate(pass_rates, right, accuracy=0.9) == 0.75
    assert calibrated_pass_rate(pass_rates, right, confidence=0.99) == 0.75
    assert calibrated_pass_rate(pass_rates, right, accuracy=0.0) == 0.25


@given(st.lists(st.tuples(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=60))
@settings(deadline=None, derandomize=True)
def test_one_more_right_majority_at_the_top_never_raises_the_pass_rate(rows):
    pass_rates, right = map(list, zip(*rows, strict=True))
    before = calibrated_pass_rate(pass_rates, right)
    after = calibrated_pass_rate([*pass_rates, 1.0], [*right, True])
    assert before is None or after <= before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], []), "pass_rates is empty"),
        (([0.5], [True, False]), "right has 2 entries for 1 pass_rates"),
        (([0.5, 1.5], [True, True]), "pass_rates has 1.5"),
        (([-0.1], [True]), "pass_rates has -0.1"),
        (([NAN], [True]), "pass_rates has nan"),
        (([0.5], [True], 1.5), "accuracy is 1.5"),
        (([0.5], [True], NAN), "accuracy is nan"),
        (([0.5], [True], 0.75, 1.0), "confidence is 1.0"),  # nothing is certain
        (([0.5], [True], 0.75, NAN), "confidence is nan"),
    ],
)
def test_bad_evidence_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrated_pass_rate(*arguments)


@pytest.mark.parametrize(
    ("successes", "total", "message"), [(0, 0, "total is 0"), (3, 2, "successes is 3 of total=2"), (-1, 2, "is -1")]
)
def test_bad_counts_are_refused(successes, total, message):
    with pytest.raises(ValueError, match=message):
        wilson_bound(successes, total, 0.8)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(9, 0, 3.0), (6, 3, 1.0), (8, 8, 0.0), (0, 0, 0.0), (1, 0, 1.0), (40, 10, 30 / math.sqrt(50))],
)
def test_lead(first, second, expected):
    assert lead(first, second) == pytest.approx(expected)
