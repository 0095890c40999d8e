import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from serl_trl import DiversityFilter


def test_similarity_equals_rouge_score():
    rng = random.Random(0)
    words = ["What", "is", "the", "SUM", "of", "3", "and", "x^2", "$\\frac{1}{2}$", "apples,", "日本", "naïve", ""]
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 25))) for _ in range(60)]
    added, candidates = texts[:30], texts[30:]
    scorer = RougeScorer(["rougeL"])
    expected = [max(scorer.score(text, candidate)["rougeL"].fmeasure for text in added) for candidate in candidates]
    np.testing.assert_allclose(DiversityFilter(added).similarity(candidates), expected, rtol=0, atol=1e-12)


def test_texts_added_later_count():
    diversity = DiversityFilter()
    assert diversity.similarity(["What is 2 + 3?"]).tolist() == [0.0]
    diversity.add(["What is 2 + 3?"])
    assert diversity.similarity(["what IS 2 plus 3", "Name a colour"]).tolist() == [8 / 9, 0.0]
    assert diversity.similarity([]).shape == (0,)


def test_nearest_is_the_earliest_of_the_most_similar():
    diversity = DiversityFilter(["a b c", "a b d", "a b d"])
    assert diversity.nearest("a b d") == ("a b d", 1.0)
    assert diversity.nearest("a b x") == ("a b c", pytest.approx(2 / 3))
    assert diversity.nearest("x y z") == (None, 0.0)  # nothing in common
    assert DiversityFilter().nearest("a b x") == (None, 0.0)


def test_nearest_of_many_equals_rouge_score():
    # More texts than are compared at first, of so few words that many share all tokens and not their order.
    rng = random.Random(0)
    added, candidates = ([" ".join(rng.choices("abcdef", k=rng.randint(1, 9))) for _ in range(n)] for n in (900, 12))
    diversity, scorer = DiversityFilter(added), RougeScorer(["rougeL"])
    for candidate in candidates:
        expected = [scorer.score(text, candidate)["rougeL"].fmeasure for text in added]
        text, rouge_l = diversity.nearest(candidate)
        assert rouge_l == pytest.approx(max(expected), abs=1e-12)
        assert text == added[int(np.argmax(np.round(expected, 12)))]  # the earliest


def test_candidates_leave_no_trace():
    diversity = DiversityFilter(["a b c"])
    for number in range(1000):
        diversity.nearest(f"a {number} {number + 1}")
    assert len(diversity._characters) == len(diversity._index) == 3
    assert diversity.nearest("x x c")[1] == pytest.approx(1 / 3)  # words it does not know are not each other's match


def test_more_words_than_there_are_characters():
    diversity = DiversityFilter(
        [" ".join(f"word{number}" for number in range(part, part + 1000)) for part in range(0, 1_120_000, 1000)]
    )
    assert diversity.nearest("word5 word6 word7")[0].startswith("word0 word1 ")
    assert diversity.nearest("word1119998 word1119999 word4")[1] == pytest.approx(4 / 1003)


@pytest.mark.parametrize(
    ("threshold", "candidate", "different"),
    [
        (0.7, "a b d", False),  # 0.8 with "a b c d e"... and the same text
        (0.7, "a b x y", True),
        (0.5, "日本", False),  # no words for ROUGE-L, and yet the same text
        (1.0, "日本", True),  # 1 lets all pass
    ],
)
def test_what_may_be_added(threshold, candidate, different):
    diversity = DiversityFilter(["a b d", "日本"], threshold)
    assert diversity.is_different(candidate, diversity.nearest(candidate)[1]) == different


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match="threshold must be in"):
        DiversityFilter(threshold=threshold)
