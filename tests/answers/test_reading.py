import json
import subprocess
import sys

import pytest

from serl_trl import majority_vote
from serl_trl.answers.formats import find_format
from serl_trl.answers.reading import after_thinking, parse_answer, parse_true_answer


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("\\frac\\pi2", "\\frac{\\pi}{2}", True),  # LaTeX that math-verify alone misreads
        ("\\frac \\pi4 + 2 - \\sqrt2", "\\frac{\\pi}{4} + 2 - \\sqrt{2}", True),
        ("\\frac \\pi4 + 2 - \\sqrt2", "2", False),
        ("0.0000672", "0.0000673", False),
        ("0.0000672", "6.72 \\times 10^{-5}", True),
        ("\\frac{1}{2004!}", "\\frac{2}{2004!}", False),
        ("52_8", "52_9", False),  # in different bases
        ("52_8", "52_{8}", True),
        ("52_8", "52", True),  # leniently, if one leaves the base out
        # quick to evaluate, whatever their form looks like
        ("2^{2^3}", "256", True),
        ("3^{2^2}", "81", True),
        ("2^{3!}", "64", True),
        ("\\sum_{k=1}^{3} k", "6", True),
        ("10^{99999 \\cdot 99990}", "10^{99999 \\cdot 99991}", False),
        ("0.00001\\%", "0.00003\\%", False),
        ("5\\%", "5", True),
    ],
)
def test_what_math_verify_misreads(first, second, equal):
    answers = [parse_answer(f"\\boxed{{{text}}}") for text in (first, second)]
    assert find_format("math").equal(*answers) == equal


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("so it is \\boxed{C}", "C"),
        ("\\boxed{A}? No: \\boxed{(B)}.", "B"),  # the last box
        ("\\boxed{\\text{D}}", "D"),
        ("\\boxed{\\textbf{(J)}}", "J"),
        ("\\boxed{c}", "C"),
        ("\\boxed{C) seven}", "C"),
        ("\\boxed{seven}", None),  # not a letter
        ("\\boxed{\\mathrm{C}}", "C"),
        ("\\boxed{Option C}", "C"),
        ("\\boxed{C - seven}", "C"),
        ("\\boxed{\nC\n}", "C"),
        ("\\boxed{K}", None),  # MMLU-Pro has options A to J
        ("The answer is (E).", "E"),
        ("Answer: F", "F"),
        ("**Answer:** **G**", "G"),
        ("the answer is B, so not the answer is A", "A"),  # what was said last
        ("The correct answer choice is (C).", "C"),
        ("The answer is option C.", "C"),
        ("The answer is $\\text{C}$.", "C"),
        ("the answer is (c)", "C"),
        ("The answer is a little complicated", None),
        ("The answer is A good question", None),
        ("The answer is A or B", None),  # undecided
        ("Before I answer, I should check the units", None),
        ("To answer I need the mass.\nIt is seven.", None),
        ("Answer: I don't know", None),
        ("(C)\n\nHope this helps!", "C"),
        ("(A) 4\n(B) 5", None),  # the options again, and no choice
        ("It must be seven.\n(H)", "H"),
        ("B", "B"),
        ("B. seven", "B"),
        ("A triangle has three sides", None),  # an article is not a choice
        ("I think so", None),
        ("", None),
    ],
)
def test_choices(completion, letter):
    answer = parse_answer(completion, "choice")
    assert (answer and answer.text) == letter


def test_votes_on_choices():
    vote = majority_vote(["\\boxed{A}", "(A)", "The answer is B", "10"], answer_format="choice")
    assert vote.pseudo_label == "A" and vote.rewards == (1, 1, 0, 0)


@pytest.mark.parametrize(("answer", "text"), [("C", "C"), ("(c)", "C"), ("\\boxed{C}", "C"), ("Answer: C", "C")])
def test_true_choices(answer, text):
    assert parse_true_answer(answer, "choice").text == text


@pytest.mark.parametrize(
    ("answer", "answer_format", "message"),
    [("none", "choice", "a letter from A to J"), ("", "math", "as a number"), ("5", "music", "math, choice")],
)
def test_unreadable_true_answers(answer, answer_format, message):
    with pytest.raises(ValueError, match=message):
        parse_true_answer(answer, answer_format)


def test_a_choice_is_read_in_time_that_grows_with_its_text():
    hostile = [
        "The answer is" + " " * 100_000 + "x",
        "The answer:" + "\n*" * 50_000 + "x",
        "answer " * 20_000,
        "\\boxed{" * 20_000,
        "\\boxed{A" + " " * 100_000 + "x}",
        "(" * 100_000 + "C",
        "A" + ")" * 100_000 + "x",
        "\\text{" * 20_000,
    ]
    code = "import json, sys; from serl_trl.answers.reading import parse_answer\n"
    code += "for text in json.load(sys.stdin): parse_answer(text, 'choice')"
    # 0.2 s; minutes where a search goes back over what it has matched (8,000 blanks took 4.3 s).
    subprocess.run([sys.executable, "-c", code], input=json.dumps(hostile), text=True, timeout=60, check=True)


@pytest.mark.parametrize(
    ("completion", "thinking_end", "answer", "abstains"),
    [
        ("a \\boxed{1}</think> b", "", "a \\boxed{1}</think> b", False),  # no marker is set: all is read
        ("\\boxed{1}</think>\\boxed{2}", "</think>", "\\boxed{2}", False),  # what it thought is no answer
        ("1</think>2</think>3", "</think>", "3", False),  # the last one counts
        ("\\boxed{1}", "</think>", "\\boxed{1}", True),  # it never stopped thinking
        ("1</think>", "</think>", "", False),  # an empty text, in which no answer can be read
    ],
)
def test_an_answer_is_read_after_the_thinking(completion, thinking_end, answer, abstains):
    assert after_thinking([completion], [False], thinking_end) == ([answer], [abstains])
    assert after_thinking([completion], [True], thinking_end)[1] == [True]
