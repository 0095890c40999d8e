"""The figures of a report, on runs of a few rows."""

import json

import pytest
from small_run import SEEDS, candidate, logged, rejected, small_run

from serl_trl.evaluation.model_index import BACK_TO
from serl_trl.report.counts import funnel, shares_by_pass_rate, shown_rows, spread, thirds, votes
from serl_trl.report.curves import curves, mean_of, thinned
from serl_trl.report.drift import changed_words, gate_of, judged
from serl_trl.report.gain import gains, unpaired
from serl_trl.report.page import render
from serl_trl.report.reading import read_runs
from serl_trl.report.warning_signs import warning_signs


def read(folder, candidates, log=None):
    (run,) = read_runs(small_run(folder, candidates, log))
    return run


def test_each_fate_is_counted_at_its_stage(tmp_path):
    fates = "unused rejected admitted no_pseudo_label out_of_band empty_completion unconfirmed surplus trained".split()
    rows = [candidate(n, 0, f"text {n}", fate=fate) for n, fate in enumerate(fates)]
    assert list(funnel(read(tmp_path, rows)).values()) == [9, 8, 7, 5, 3, 2, 1]


def test_the_rows_are_parted_by_the_steps_of_their_weights():
    assert [[row["step"] for row in part] for part in thirds([{"step": n} for n in range(6)])] == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]
    assert thirds([]) == [[], [], []]


def test_a_gain_of_weights_that_are_gone_is_none(tmp_path):
    shares = {"eval_pass@1_low": 0.2, "eval_pass@1_high": 0.8}
    log = [{"step": step, "eval_pass@1": 0.1 * step, **shares} for step in (0, 4, 8)]
    read_gains = lambda log, name: [gain["difference"] for gain in gains(read(tmp_path / name, None, log))]  # noqa: E731
    assert read_gains(log, "all") == pytest.approx([80.0])
    assert read_gains([*log, {"step": 8, BACK_TO: 4.0}], "kept") == pytest.approx([40.0])
    assert read_gains([*log, {"step": 8, BACK_TO: 0.0}], "start") == []


def test_pass_rates_are_shares_of_the_groups_voted_on():
    rows = [{"pass_rate": rate} for rate in (None, 0.25, 1.0, 1.0, 0.75)]
    assert shares_by_pass_rate(rows, bins=4) == [0.0, 0.25, 0.0, 0.25, 0.5]


def test_votes_name_the_most_frequent_answers():
    assert votes(["5", None, "5", "6"]) == "2 × 5, 1 × none, 1 × 6"
    assert votes(list("abcdef")).endswith("…")


def test_what_is_shown_is_evenly_spread():
    assert spread(list(range(11)), 3) == [0, 5, 10]
    assert spread([1, 2], 3) == [1, 2]


def test_long_curves_are_averaged_and_what_was_not_finite_is_left_out(tmp_path):
    log = [logged(1, kl=float("nan")), logged(2, kl=0.5), {"step": 3, "kl": None}]
    assert curves(read(tmp_path, None, log))["KL from the start"] == [(2, 0.5)]
    points = [(step, 1.0) for step in range(1, 2001)]
    assert len(thinned(points)) <= 150 and thinned(points)[0] == (7.5, 1.0)
    assert mean_of([(1, 1.0), (2, 2.0), (3, 6.0)], 2) == 6.0 and mean_of([], 0) is None


def test_the_gain_of_two_measurements_has_an_interval():
    gain = unpaired((0.5, 0.4, 0.6), (0.7, 0.6, 0.8))
    assert gain == pytest.approx({"difference": 0.2, "low": 0.2 - 0.02**0.5, "high": 0.2 + 0.02**0.5})


def test_the_gain_is_that_of_log_and_evaluations(tmp_path):
    log = [
        {"step": step, "eval_pass@1": p, "eval_pass@1_low": p - 0.1, "eval_pass@1_high": p + 0.1}
        for step, p in ((0, 0.5), (8, 0.7))
    ]
    paired = {"difference": 0.05, "low": 0.01, "high": 0.09, "instructions": 60, "left_out": 0}
    results = {"settings": {"model": str(tmp_path / "run")}, "datasets": {}}
    results["comparison"] = {
        "with": "start/results.json",
        "datasets": {"sums": {"pass@1": paired, "unparsed": paired}},
    }
    for name, model in (
        ("mine", tmp_path / "run"),
        ("other", tmp_path / "other"),
    ):  # of this run's model, and of another
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results | {"settings": {"model": str(model)}}))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "results.json").write_text("[]")
    found = gains(read(tmp_path / "run", None, log))
    assert [(gain["what"], round(gain["difference"], 6)) for gain in found] == [
        ("pass@1 on sums", 5.0),
        ("pass@1 (eval)", 20.0),
    ]


def test_words_that_come_and_go_are_named(tmp_path):
    rows = [candidate(n, n, "How many apples are there ?") for n in range(3)]
    changes = {word: (before, after) for word, before, after in changed_words(read(tmp_path, rows))}
    assert changes["apples"] == (0.0, 1.0) and changes["plus"] == (1.0, 0.0) and "?" not in list(changes)[:1]


HALF = [logged(step, **{"self_rewarding/truncated_ratio": 0.5}) for step in range(1, 13)]
LOST = [
    {"step": step, "eval_pass@1": p, "eval_pass@1_low": p - 0.05, "eval_pass@1_high": p + 0.05}
    for step, p in ((0, 0.7), (8, 0.5))
]
NEAR = [candidate(n, n, f"What is {n % 9} plus {n % 7} ?") for n in range(40)]
FAR = [candidate(n, n, f"Please write a long story about the number {n} and its many friends") for n in range(20, 40)]
ALIKE = [candidate(n, n // 4, f"What is {n % 9} plus {n % 7} ?", pseudo_label="7") for n in range(120)]
HARDER = [candidate(n, n, f"What is {n % 9} plus {n % 7} ?", pass_rate=0.9 - 0.4 * (n > 40)) for n in range(90)]


@pytest.mark.parametrize(
    ("candidates", "log", "sign", "advice"),
    [
        (NEAR, None, None, None),  # nothing is wrong
        (NEAR, LOST, "pass@1 (eval) fell by 20.0 points", "Don't use this model"),
        (
            NEAR[:20] + FAR,
            None,
            "From step 21 on, half of the batch or more is new ground: 100 %",
            "Set nearness_level to 1",
        ),
        (ALIKE, None, "40 of the last third's 40 trained instructions have one pseudo-label, '7'", "Read them"),
        (HARDER, None, "The mean pass rate fell from 0.90 in the first third to 0.50", "set nearness_level to 1"),
        (NEAR, HALF, "50 % of the completions are truncated", "Raise max_completion_length"),
        (
            [rejected(n, n, "a text", "too_short") for n in range(90)] + [candidate(90, 90, SEEDS[0])],
            None,
            "97 % of the last third's candidates are rejected as too_short",
            "Lower min_words",
        ),
        (NEAR, [logged(8, **{"sentinel/errors": -2.5})], "At step 8 the sentinel saw", "Lower learning_rate"),
        (
            NEAR,
            [logged(step, **{"completions/mean_length": 100 / step}) for step in range(1, 13)],
            "The mean completion has",
            "log_completions",
        ),
    ],
)
def test_a_warning_has_its_figure_and_what_to_do(tmp_path, candidates, log, sign, advice):
    run = read(tmp_path, candidates, log)
    page = render([run])
    found = warning_signs(run, judged(shown_rows(run, 100), gate_of(run)))
    if sign is None:
        assert found == []
        return
    (one,) = [one for one in found if sign in one.text]
    assert advice in one.advice and page.count('class="sign"') == len(found)
