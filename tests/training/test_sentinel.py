"""When a run begins to lose on the seeds that are watched."""

import math

import pytest

from serl_trl.training.sentinel import paired_change


@pytest.mark.parametrize(
    ("before", "now", "mean", "errors"),
    [
        ([0.5, 0.75, 1.0], [0.5, 0.75, 1.0], 0.0, 0.0),  # no change
        ([0.5, 0.75, 1.0], [0.25, 0.5, 0.75], -0.25, -99.0),  # all fell by the same
        ([0.25, 0.5, 0.75], [0.5, 0.75, 1.0], 0.25, 99.0),
        ([0.5, 0.5, 0.5], [0.5, 1.0, 0.75], 0.25, math.sqrt(3)),  # by 0, 0.5 and 0.25
        ([0.5, 1.0, 0.75], [0.5, 0.5, 0.5], -0.25, -math.sqrt(3)),
        ([0.5, 0.5], [0.25, 0.75], 0.0, 0.0),  # one lost what the other won
        ([1.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], -0.25, -1.0),  # one of four, wholly
        ([0.5], [0.25], -0.25, -99.0),  # of one seed there is no error
        ([0.5], [0.5], 0.0, 0.0),
    ],
)
def test_paired_change(before, now, mean, errors):
    assert paired_change(now, before) == pytest.approx((mean, errors))


def test_many_seeds_show_a_smaller_fall():
    before, now = [0.5, 0.5, 0.75, 1.0], [0.5, 0.25, 0.75, 0.75]  # half of them fall by a quarter
    errors = [paired_change(now * count, before * count)[1] for count in (1, 4, 16)]
    assert -2.0 < errors[0] and errors[2] < errors[1] < -2.0
    assert paired_change(now, before)[0] == paired_change(now * 16, before * 16)[0] == -0.125


def test_other_seeds_than_before_are_not_compared():
    with pytest.raises(ValueError):
        paired_change([0.5, 0.5], [0.5])
