"""What follows from a check's findings, and how it is said."""

from collections import Counter
from fractions import Fraction

import pytest

from serl_trl.check.findings import (
    Cost,
    Findings,
    Memory,
    Verdict,
    affordable,
    bucket,
    decide,
    estimate,
    fates,
    histogram,
)
from serl_trl.check.text import bars, conclude, hours, shown, votes
from serl_trl.self_play import Candidate, Funnel
from serl_trl.self_play.seed_evidence import SeedAnswers, weigh
from serl_trl.serl_config import SeRLConfig


@pytest.mark.parametrize(
    ("most", "done", "seconds", "left", "count"),
    [
        (32, 16, 20.0, 100.0, 32),  # time for 80
        (32, 16, 80.0, 60.0, 12),  # time for some
        (32, 16, 80.0, 10.0, 0),  # for fewer than are worth a round
        (32, 16, 80.0, -5.0, 0),  # the time is over
        (2, 46, 46.0, 100.0, 2),  # the last ones are few
        (2, 46, 46.0, 1.0, 0),
        (0, 48, 40.0, 100.0, 0),  # all have been asked
        (32, 0, 20.0, 100.0, 0),  # nothing says how long one takes
        (32, 16, 0.0, 100.0, 32),
    ],
)
def test_as_many_are_asked_as_the_time_is_enough_for(most, done, seconds, left, count):
    assert affordable(most, done, seconds, left) == count


@pytest.mark.parametrize(
    ("rate", "number"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.3, 3), (0.7, 7), (0.95, 9), (1.0, 9)]
)
def test_pass_rates_fall_into_tenths(rate, number):
    assert bucket(rate) == number and histogram([rate])[number] == 1


def candidate(number=0, fate="admitted", reason=None, text="What is 2 + 3?", **values) -> Candidate:
    return Candidate(number, 0, 1, text, [], fate, reason, **values)


def test_candidates_are_parted_by_fate_and_reason_and_those_not_judged_are_left_out():
    rows = [("admitted", None)] * 2 + [("rejected", "too_similar")] * 3 + [("rejected", "too_long"), ("unused", None)]
    parts = fates(candidate(number, *row) for number, row in enumerate(rows))
    assert [(name, len(part)) for name, part in parts.items()] == [
        ("too_similar", 3),
        ("admitted", 2),
        ("too_long", 1),
    ]


def funnel(kept=10, answered=40, admitted=40, pass_rate=0.5, **counts) -> Funnel:
    counts = {"instruction_tokens": 200, "completion_tokens": 500, "confirming_tokens": 300} | counts
    counts |= {"kept": kept, "in_band": kept, "answered": answered, "admitted": admitted}
    made = Funnel(counts=Counter(counts | {"judged": admitted, "candidates": admitted}))
    made.pass_rates[pass_rate] = answered
    made.seconds["sampling"] = 20.0
    return made


@pytest.mark.parametrize(
    ("groups", "steps", "instructions", "expected"),
    [
        (16, 200, None, Cost(200, 1600.0, 32.0, 3.0)),  # 1.6 times what the check kept
        (Fraction(16, 2), 200, None, Cost(200, 800.0, 16.0, 3.0)),  # two steps for a generation batch
        (16, 200, 640, Cost(10, 1600.0, 32.0, 3.0)),  # 64 are admitted for a step: the instructions end the run
        (16, 200, 10**6, Cost(200, 1600.0, 32.0, 3.0)),  # the steps do
    ],
)
def test_the_cost_of_a_run_by_hand(groups, steps, instructions, expected):
    assert estimate(funnel(), Fraction(groups), steps, instructions, training=3.0) == expected
    assert expected.seconds == expected.steps * (expected.sampling + 3.0)


def test_without_a_candidate_that_reaches_a_batch_nothing_is_estimated():
    assert estimate(funnel(kept=0), Fraction(16), 200, None, training=0.0) is None


def seeds(count=24, pass_rate=0.5, right=None, confirmed=True) -> list[SeedAnswers]:
    return [SeedAnswers(f"seed {number} of {right}", "5", pass_rate, right, confirmed) for number in range(count)]


ENOUGH, TOO_LITTLE = Memory(1.0, 1.0, 10.0), Memory(9.0, 1.0, 10.0)


def findings(tmp_path, own=None, asked=None, memory=ENOUGH, candidates=None, room=4000, **changes):
    settings = SeRLConfig(str(tmp_path), **{"use_cpu": True, "bf16": False, "use_vllm": False} | changes)
    own, asked = own or funnel(), asked or seeds()
    answers = dict.fromkeys((seed.instruction for seed in asked), "5")
    return Findings(
        settings=settings,
        num_seeds=100,
        seeds=asked,
        evidence=weigh(asked, settings, answers),
        candidates=candidates or [candidate(pass_rate=0.5, pseudo_label="5", answers=["5", "6"], rewards=[1.0, 0.0])],
        funnel=own,
        cost=estimate(own, Fraction(16), 200, None, 3.0),
        memory=memory,
        room=room,
        seconds=100.0,
    )


FOREIGN = [candidate(number, "rejected", "non_ascii") for number in range(5)] + [candidate()]
GRADED = seeds(8, 0.25, False) + seeds(24, 0.75, True)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({}, "go"),
        ({"method": "paper"}, "go"),
        # what the run itself would refuse
        ({"asked": seeds(confirmed=False)}, "don't: More answers confirm the start's majority for 0 of 24 seeds"),
        ({"asked": seeds(right=False)}, "don't: Of 24 labelled seeds that would be trained on, the majority is right for 0"),
        # and what the paper's method would not
        ({"asked": seeds(right=False), "method": "paper"}, "don't: Of 24 labelled seeds that would be trained on"),
        ({"asked": GRADED, "method": "paper"}, "go with these settings: --min_pass_rate 0.75 (below that the majority is"),
        ({"asked": GRADED, "evidence_seeds": 64}, "go"),  # the run raises its floor by itself
        # no batch could be filled
        ({"own": funnel(0, pass_rate=1.0)}, "don't: none of 1 candidates reaches a batch. Raise max_pass_rate"),
        ({"own": funnel(0, 0, 0), "candidates": [candidate(fate="unused")]}, "don't: none of 0 candidates reaches a batch."),
        # memory
        ({"memory": TOO_LITTLE, "per_device_train_batch_size": 1}, "don't: it takes more memory than there is."),
        (
            {"memory": TOO_LITTLE, "per_device_train_batch_size": 8},
            "go with these settings: --per_device_train_batch_size 4 --gradient_accumulation_steps 64 (it takes more memory",
        ),
        # answers that are cut off, and no room or some for longer ones
        (
            {"own": funnel(completions=100, truncated=30)},
            "go with these settings: --max_completion_length 2048 (30 of 100 completions were cut off)",
        ),
        ({"own": funnel(completions=100, truncated=30), "room": 1500}, "go with these settings: --max_completion_length 1500"),
        ({"own": funnel(completions=100, truncated=30), "room": 1024}, "go"),
        ({"own": funnel(completions=100, truncated=20)}, "go"),
        # instructions in another script, and harder than the seeds
        ({"candidates": FOREIGN}, "go with these settings: --ascii_only false (5 candidates are in other scripts)"),
        ({"own": funnel(pass_rate=0.3), "method": "paper"}, "go with these settings: --nearness_level 1.0 (the pass rate"),
        ({"own": funnel(pass_rate=0.4), "method": "paper"}, "go"),
        ({"own": funnel(pass_rate=0.3)}, "go"),  # the gate is on
    ],
)  # fmt: skip
def test_the_last_line_says_whether_to_train_and_how(tmp_path, found, verdict):
    made = findings(tmp_path, **found)
    result, last = conclude(made), str(conclude(made)).splitlines()[-1]
    assert last == verdict if verdict == "go" else last.startswith(verdict)
    assert (result.go, bool(result.settings)) == (not verdict.startswith("don't"), "settings" in verdict)
    assert decide(made).settings == result.settings


def test_the_text_has_what_was_found(tmp_path):
    own = funnel(completions=100, truncated=12, unparsed=15)
    candidates = [candidate(number, pass_rate=0.5) for number in range(30)]
    asked = seeds(6, 0.75, True) + seeds(4, 0.75, False) + seeds(14, 1.0)
    text = str(conclude(findings(tmp_path, own, asked, candidates=candidates, method="paper")))
    for line in (
        "Method paper: 24 of 100 seeds and 40 instructions were answered, in 100 s. Nothing was trained.",
        "| reaches a batch | 100    | What is 2 + 3? |",
        "| 0.7 to 0.8 | ############### 10      |                         | 6 of 10        |",
        "Of 10 seeds with true answers the majority is right for 6; of the 10 that would be trained on, for 6.",
        "Of 100 answers to the instructions 12 were cut off at 1024 tokens, and in 3 others no answer could be read.",
        "A step takes 1,600 sampled tokens in 32.0 s, and 3.0 s of forward and backward passes: 1.9 hours for 200 steps.",
    ):
        assert line in text
    assert text.count("\n  0.50  What is 2 + 3?") == 20


def test_votes_are_counted_with_the_majority_first():
    answers = ["5", "5.0", "6", "6", "7", "8", None]
    voted = candidate(pseudo_label="5", answers=answers, rewards=[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert votes(voted) == "5 x2, 6 x2, 7 x1, others x1, no answer x1"
    assert votes(candidate(answers=["5", None], rewards=[0.0, 0.0])) == "5 x1, no answer x1"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("What is 2 + 3?", "What is 2 + 3?"),
        ("two\nlines", "two lines"),
        ("red \x1b[31m text", "red ?[31m text"),  # a terminal would take it for a command
        ("a very long instruction", "a very lo..."),
        ("Wie groß?", "Wie groß?"),
    ],
)
def test_an_instruction_is_shown_on_one_line(text, seen):
    assert shown(text, 14 if len(text) < 20 else 12) == seen


def test_bars_are_as_long_as_the_counts():
    assert bars([0, 1, 40]) == ["", "# 1", "#" * 20 + " 40"] and bars([0, 0]) == ["", ""]
    assert [hours(seconds) for seconds in (30, 600, 3600, 9000)] == ["1 min", "10 min", "1.0 hours", "2.5 hours"]


def test_settings_are_as_the_command_line_takes_them():
    verdict = Verdict(True, {"ascii_only": False, "nearness_level": 1.0}, ["one", "two"])
    assert str(verdict) == "go with these settings: --ascii_only false --nearness_level 1.0 (one; two)"
