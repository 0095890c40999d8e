import json
import threading
import time

import pytest

from serl_trl import Vote, majority_vote
from serl_trl.self_play.difficulty import is_in_band, reachable_pass_rates


def boxed(*answers: str) -> list[str]:
    return [f"So it is \\boxed{{{answer}}}." for answer in answers]


@pytest.mark.parametrize(
    ("completions", "rewards", "pseudo_label"),
    [
        (boxed("5", "5", "4"), (1, 1, 0), "5"),
        # equal in value though not in form
        (boxed("\\frac{1}{2}", "3", "0.5", "2/4"), (1, 0, 1, 1), "\\frac{1}{2}"),
        # a tie goes to the answer that appeared first
        (boxed("4", "5", "5", "4"), (1, 0, 0, 1), "4"),
        # without a box, the last number is the answer
        (["First 3, then 2, so 5", "The answer is 5.", "5 apples"], (1, 1, 1), "5"),
        # no number, no vote
        (["I don't know", "\\boxed{5}", "5"], (0, 1, 1), "5"),
        # nobody agrees: no pseudo-label
        (boxed("1", "2", "3"), (0, 0, 0), None),
        # a majority of one is none
        (["no idea", "no idea", "\\boxed{5}"], (0, 0, 0), None),
        (["", ""], (0, 0), None),
        ([], (), None),
    ],
)
def test_votes(completions, rewards, pseudo_label):
    vote = majority_vote(completions)
    assert vote.rewards == rewards
    assert vote.pseudo_label == pseudo_label
    assert vote.pass_rate == (sum(rewards) / len(rewards) if rewards else 0.0)
    assert len(vote.answers) == len(completions)


def test_truncated_completions_abstain():
    vote = majority_vote(boxed("4", "4", "5", "5", "5"), truncated=[False, False, True, True, True])
    assert vote == Vote(("4", "4", None, None, None), (1.0, 1.0, 0.0, 0.0, 0.0), "4", 0.4, (False,) * 5)
    with pytest.raises(ValueError, match="truncated has 1 entries for 2"):
        majority_vote(["4", "4"], truncated=[False])


def test_huge_powers_are_compared_by_form_at_once():
    # math-verify's own comparison takes its whole time-out for each pair of these, in each order
    answers = ["9^{9^{9}}", "10^{10^{10}}", "3^{10000000}", "7^{10000000}", "100000!", "200000!"]
    start = time.perf_counter()
    vote = majority_vote(boxed(*answers * 2, "9^{9^9}"))
    assert time.perf_counter() - start < 5
    assert vote.rewards == (1.0, *[0.0] * 5) * 2 + (1.0,)


def test_votes_can_be_taken_outside_the_main_thread():
    votes = []
    thread = threading.Thread(target=lambda: votes.append(majority_vote(boxed("0.5", "1/2"))))
    thread.start()
    thread.join()
    assert votes[0].pass_rate == 1.0


def test_published_votes(reference_votes):
    groups = [json.loads(line) for line in reference_votes.read_text().splitlines()]
    different = [
        index
        for index, group in enumerate(groups)
        if list(majority_vote(group["completions"]).rewards) != [float(vote) for vote in group["reference_votes"]]
    ]
    assert len(groups) == 125 and different == []


@pytest.mark.parametrize(
    ("pseudo_label", "pass_rate", "kept"),
    [("5", 0.2, True), ("5", 0.8, True), ("5", 0.19, False), ("5", 0.81, False), (None, 0.5, False)],
)
def test_the_band_is_inclusive(pseudo_label, pass_rate, kept):
    assert is_in_band(Vote((), (), pseudo_label, pass_rate), 0.2, 0.8) is kept


def test_reachable_pass_rates_need_two_that_agree():
    assert reachable_pass_rates(4, 0.2, 0.8) == [0.5, 0.75]
    assert reachable_pass_rates(4, 0.8, 0.9) == []


def test_a_percentage_agrees_with_its_number_and_its_share():
    vote = majority_vote(["So 100%.", "\\boxed{1}", "\\boxed{7}"])
    assert vote.rewards == (1.0, 1.0, 0.0) and vote.answers[0] == "100%"
    assert majority_vote(["\\boxed{50\\%}", "\\boxed{0.5}"]).rewards == (1.0, 1.0)
    assert majority_vote(["\\boxed{50\\%}", "\\boxed{50}"]).rewards == (1.0, 1.0)
