"""What counts of right majorities and of votes are worth as evidence."""

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson_bound(successes: int, total: int, confidence: float) -> float:
    """Return the lower bound of a share, one-sided (Wilson's score interval).

    Args:
        successes (`int`): How many of `total` succeeded.
        total (`int`): How many were tried, at least 1.
        confidence (`float`): Probability that the bound is below the true share, in [0.5, 1).

    Returns:
        `float`: The bound in [0, 1], e.g. 0.77 for 17 of 20 at 0.8.

    Raises:
        ValueError: if `successes` is not within [0, total], or `total` or `confidence` out of its range.
    """
    if total < 1:
        raise ValueError(f"total is {total}. Set it to at least 1.")
    if not 0 <= successes <= total:
        raise ValueError(f"successes is {successes} of total={total}. Set it within [0, {total}].")
    if not 0.5 <= confidence < 1.0:
        raise ValueError(f"confidence is {confidence}. Set it within [0.5, 1), e.g. to 0.8.")
    z, share = NormalDist().inv_cdf(confidence), successes / total
    spread = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return max(0.0, (share + z**2 / (2 * total) - spread) / (1 + z**2 / total))


def calibrated_pass_rate(
    pass_rates: Sequence[float], right: Sequence[bool], accuracy: float = 0.75, confidence: float = 0.8
) -> float | None:
    """Return the lowest pass rate from which on the majorities of labelled seeds are right often enough.

    Args:
        pass_rates (`Sequence[float]`): Shape (num_seeds,), the pass rate of each seed's group, in [0, 1].
        right (`Sequence[bool]`): Shape (num_seeds,), whether its majority is right.
        accuracy (`float`, *optional*, defaults to `0.75`): Share of right majorities that is asked for, in [0, 1].
        confidence (`float`, *optional*, defaults to `0.8`): That of [`wilson_bound`].

    Returns:
        `float | None`: The lowest of `pass_rates` such that the lower bound of the share of right majorities, among the
        seeds with at least this pass rate, is at least `accuracy`; `None` if there is none.

    Raises:
        ValueError: if there are no seeds, the lengths differ, or a number is out of its range.
    """
    if not len(pass_rates):
        raise ValueError("pass_rates is empty. Pass those of at least one labelled seed.")
    if len(right) != len(pass_rates):
        raise ValueError(f"right has {len(right)} entries for {len(pass_rates)} pass_rates. Pass one for each.")
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy is {accuracy}. Set it within [0, 1], e.g. to 0.75.")
    for rate in pass_rates:
        if not 0.0 <= rate <= 1.0:  # NaN is not
            raise ValueError(f"pass_rates has {rate}. Pass shares within [0, 1].")
    for lowest in sorted(set(pass_rates)):
        above = [bool(is_right) for rate, is_right in zip(pass_rates, right, strict=True) if rate >= lowest]
        if wilson_bound(sum(above), len(above), confidence) >= accuracy:
            return lowest
    return None


def lead(first: int, second: int) -> float:
    """Return by how many standard deviations of a fair coin the largest class of answers leads the second; 0 without votes.

    Args:
        first (`int`): Votes of the largest class.
        second (`int`): Votes of the second largest, 0 if there is none.

    Returns:
        `float`: (first - second) / sqrt(first + second), e.g. 3.0 for 9 to 0.
    """
    return (first - second) / math.sqrt(first + second) if first + second else 0.0
