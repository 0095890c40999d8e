import sys

import pytest
from conftest import ROOT


sys.path.insert(0, str(ROOT / "benchmarks"))

from gold_answers import FILES, FORMS, changed, judge  # noqa: E402


@pytest.mark.parametrize(
    ("gold", "first", "last"),
    [
        ("120", "220", "121"),
        ("\\frac{9}{20}", "\\frac{1}{20}", "\\frac{9}{21}"),
        ("\\text{Evelyn}", "\\text{Zvelyn}", "\\text{Zvelyn}"),
        ("p - q", "Z - q", "p - Z"),
        ("\\pi", "7", "7"),  # neither a digit nor a letter
    ],
)
def test_wrong_forms(gold, first, last):
    assert (changed(gold, 0), changed(gold, -1)) == (first, last)


@pytest.mark.skipif(not FILES, reason="the labelled data lie outside the repository, in ../shared")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_true_answers_are_right_and_wrong_ones_wrong(path):
    scores, unexpected = judge(path, every=10)
    assert scores.pop("true answer") == 1.0, unexpected
    # A wrong form may pass: "11:55 p.m. on 24 December 2014." is read as 2014.
    assert scores.keys() == FORMS.keys() - {"true answer"} and max(scores.values()) <= 0.05, unexpected
