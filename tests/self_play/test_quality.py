import pytest

from serl_trl import rejection_reason


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("What is 2 + 3?", None),
        ("What is it?", "too_short"),  # three words
        ("", "too_short"),
        ("one two three four", None),  # four words are enough
        (" ".join(["word"] * 150), None),
        (" ".join(["word"] * 151), "too_long"),
        ("Find the slope of the Graph below", "blocked_word"),  # any case
        ("How do I go to the market?", "blocked_word"),  # two words
        ("Find the slope of the paragraph", None),  # whole words only
        ("What is a mapping of sets?", None),
        ("Write a program that adds numbers", "write_a_program"),
        ("write a program that adds numbers", "write_a_program"),
        ("- What is 2 + 3?", "leading_punctuation"),
        ("$x + 1 = 3$, what is $x$?", None),  # LaTeX may come first
        ("\\(x\\) is even. Is \\(x + 1\\) odd?", None),
        ("é is what kind of letter?", "non_ascii"),
        ("Who is José in this story?", None),  # only the first character counts
    ],
)
def test_rules_in_their_order(instruction, reason):
    assert rejection_reason(instruction) == reason


def test_rules_can_be_set_for_another_language():
    assert rejection_reason("七加三等于多少？", min_words=1, blocked_words=(), ascii_only=False) is None
    assert rejection_reason("请画出图形", min_words=1, blocked_words=["画"], ascii_only=False) is None  # no whole word
    assert rejection_reason("draw a 画 here please", blocked_words=["画"]) == "blocked_word"
