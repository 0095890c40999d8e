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
    assert DiversityFilter().nearest("a b x") == (None, 0.0)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match="threshold must be in"):
        DiversityFilter(threshold=threshold)
