"""What the table says of a model that self-play would not make better."""

import pytest

from serl_trl.evaluation.report import report
from serl_trl.evaluation.results import dataset_results, score_all
from serl_trl.self_play import ScriptedSampler


def results(right: int, num_samples: int) -> dict:
    """Ten instructions, `right` of which are always answered right, the others always wrong."""
    rows = [
        {
            "instruction": f"What is {number} + 0?",
            "level": None,
            "answers": ["0"] * num_samples,
            "correct": [int(number < right)] * num_samples,
            "classes": [0] * num_samples,
            "truncated": [False] * num_samples,
            "timed_out": [False] * num_samples,
        }
        for number in range(10)
    ]
    settings = {"model": "mine", "num_samples": num_samples, "engine": "vllm", "temperature": 1.0, "top_p": 1.0}
    settings |= {"max_completion_length": 8, "seed": 0}
    return {"settings": settings, "datasets": {"sums": dataset_results("sums.jsonl", rows)}}


@pytest.mark.parametrize(
    ("right", "num_samples", "warned"),
    [(6, 4, True), (8, 4, False), (6, 2, False)],  # two completions have no majority to speak of
)
def test_a_weak_majority_is_said(right, num_samples, warned):
    text = report(results(right, num_samples))
    assert ("On sums the majority is right for 60 % of the instructions" in text) == warned
    assert f"{10 * right}.0" in text


def test_answers_that_took_too_long_are_counted():
    found = results(10, 4)
    rows = [row | {"timed_out": [True, False, False, False]} for row in found["datasets"]["sums"]["rows"]]
    found["datasets"]["sums"] = dataset_results("sums.jsonl", rows)
    assert "On sums 10 answers took too long" in report(found)
    assert "took too long" not in report(results(10, 4))


def test_answers_are_read_after_the_thinking_as_in_training():
    sample = {"completions": ["1</think>2", "2</think>1", "2"], "truncated": [False] * 3}
    rows = [{"instruction": "What is 1 + 1?", "true_answer": "2"}]
    (row,) = score_all(ScriptedSampler(lambda prompt, index: ""), rows, [sample], "math", thinking_end="</think>")
    assert row["correct"] == [1, 0, 0] and row["answers"] == ["2", "1", None]  # the last one never stops thinking
    assert row["truncated"] == [False] * 3
