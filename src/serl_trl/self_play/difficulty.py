"""Keep an instruction only if the model is neither sure nor lost."""

from ..answers.voting import Vote


def is_in_band(vote: Vote, min_pass_rate: float, max_pass_rate: float) -> bool:
    """Return whether the group is worth training on: it has a pseudo-label, and its pass rate is within the bounds.

    Both bounds are inclusive, in [0, 1]. Source: the difficulty filter of SeRL, self-instruction.
    """
    return vote.pseudo_label is not None and min_pass_rate <= vote.pass_rate <= max_pass_rate


def reachable_pass_rates(num_generations: int, min_pass_rate: float, max_pass_rate: float) -> list[float]:
    """Return the pass rates within the bounds that a group can have; a majority needs two completions."""
    rates = [agreeing / num_generations for agreeing in range(2, num_generations + 1)]
    return [rate for rate in rates if min_pass_rate <= rate <= max_pass_rate]
