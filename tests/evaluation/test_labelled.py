"""Labelled data, and rows made of completions."""

import json

import pytest
from datasets import Dataset

from serl_trl import load_seeds
from serl_trl.evaluation.data import data_name, load_labelled
from serl_trl.evaluation.results import score


SUM = {"problem": "What is 2 + 3?", "answer": 5}
CHOICE = {"question": "What is 2 + 3?", "options": ["4", "5", "6"], "answer": "B"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_row_counts(tmp_path):
    rows = [SUM, SUM, {"problem": "1 + 1", "answer": "So it is \\boxed{2}.", "level": "Level 5"}, SUM | {"level": 2}]
    labelled = load_labelled(write(tmp_path / "sums.jsonl", rows))
    assert [row["true_answer"] for row in labelled] == ["5", "5", "So it is \\boxed{2}.", "5"]
    assert [row["level"] for row in labelled] == [None, None, "5", "2"]
    assert labelled[0]["instruction"] == labelled[1]["instruction"] == "What is 2 + 3?"


def test_options_follow_the_question_and_seeds_read_them_too(tmp_path):
    path = write(tmp_path / "choice.jsonl", [CHOICE])
    text = "What is 2 + 3?\n(A) 4\n(B) 5\n(C) 6"
    assert load_labelled(path, answer_format="choice") == [{"instruction": text, "level": None, "true_answer": "B"}]
    assert load_seeds(path)[0] == {"instruction": text, "answer": "B"}


def test_words_as_answers_are_warned_of_and_names_in_latex_are_not(recwarn):
    rows = [
        {"problem": "x", "answer": answer} for answer in ("banana", "5", "no solution", "\\text{Evelyn}", "x", "B")
    ]
    assert len(load_labelled(Dataset.from_list(rows))) == 6
    (warning,) = [str(warning.message) for warning in recwarn if "answer_format" in str(warning.message)]
    assert warning.startswith("the dataset, row 1, 'banana': with answer_format 'math'")
    assert "2 of 6 rows. For letters of options set answer_format to 'choice', for words to 'text'" in warning


@pytest.mark.parametrize(
    ("rows", "answer_format", "message"),
    [
        ([{"problem": "x"}], "math", "has no column 'answer'. Its columns are: problem"),
        ([SUM, {"problem": "How?", "answer": None}], "math", "row 2, 'How\\?': It has no answer"),
        ([SUM, {"problem": None, "answer": 5}], "math", "row 2: its 'problem' is None. Give it a text"),
        ([SUM, {"problem": " ", "answer": 5}], "math", "row 2: its 'problem' is ' '"),
        ([SUM, {"problem": "When?", "answer": "\\boxed{}"}, {"problem": "Why?", "answer": "\\boxed{ }"}],
         "math", "row 2, 'When\\?': No answer can be read in .* So it is with 2 of 3 rows"),
        ([CHOICE, CHOICE | {"answer": "five"}], "choice", "row 2, .*No answer can be read in 'five'"),
        ([CHOICE | {"answer": "D"}], "choice", "Its answer 'D' is none of its 3 options"),
        ([CHOICE], "math", "Set answer_format to 'choice'"),
        ([CHOICE | {"options": list("abcdefghijk")}], "choice", "row 1: there are 11 options. Leave at most 10"),
        ([SUM, {"problem": "How?", "answer": ["5"]}], "math", "row 2: answer is \\['5'\\]. Make it a text or a number"),
        ([CHOICE | {"options": "4 or 5"}], "choice", "row 1: options is '4 or 5'. Make it a list of texts"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_named(tmp_path, rows, answer_format, message):
    with pytest.raises(ValueError, match=message):
        load_labelled(write(tmp_path / "rows.jsonl", rows), answer_format=answer_format)


@pytest.mark.parametrize(
    ("splits", "read"),
    [
        (["train", "test"], "test"),
        (["train"], "train"),  # as some benchmarks are published
    ],
)
def test_the_test_split_of_the_hub_is_read_if_there_is_one(monkeypatch, splits, read):
    loaded = []
    monkeypatch.setattr("serl_trl.seeds.get_dataset_split_names", lambda name: splits)
    monkeypatch.setattr(
        "serl_trl.seeds.load_dataset", lambda name, split: loaded.append(split) or Dataset.from_list([SUM])
    )
    assert load_labelled("someone/sums")[0]["true_answer"] == "5" and loaded == [read]


def test_names_of_sources(tmp_path):
    assert data_name(write(tmp_path / "gsm8k.test.jsonl", [SUM])) == "gsm8k.test"
    assert data_name("HuggingFaceH4/MATH-500") == "MATH-500"


def test_a_row_of_completions():
    completions = ["\\boxed{6}", "so \\boxed{5}", "I don't know", "\\boxed{5.0}", "\\boxed{5}"]
    labelled = {"instruction": "What is 2 + 3?", "level": None, "true_answer": "\\boxed{5}"}
    row = score(labelled, completions, [False] * 4 + [True])
    assert row == labelled | {
        "answers": ["6", "5", None, "5.0", None],  # a truncated completion has no answer
        "correct": [0, 1, 0, 1, 0],
        "classes": [0, 1, None, 1, None],
        "truncated": [False] * 4 + [True],
        "timed_out": [False] * 5,
    }
    assert score(labelled, completions[:2])["truncated"] == [False, False]
