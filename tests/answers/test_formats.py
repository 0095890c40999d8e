"""What each format reads, and which answers are equal; `math` and `choice` are in test_reading.py."""

import pytest

from serl_trl import accuracy_reward, majority_vote
from serl_trl.answers.formats import FORMATS
from serl_trl.answers.reading import parse_answer, parse_true_answer


DEEP, LONG = 10_000, 1_000_000
TEXT = [
    ("\\boxed{The Eiffel Tower!}", "eiffel tower"),  # case, article, punctuation
    ("\\boxed{London}? No: \\boxed{\\text{Paris}}", "paris"),  # the last box, without LaTeX around it
    ("I think so.\n**Answer:** U.S.", "us"),
    ("The answer is  New\tYork", "new york"),  # white space
    ("Paris", "paris"),  # a few words are an answer
    ("word " * 11, None),  # more of them are not
    ("\\boxed{ＰＡＲＩＳ}", "paris"),  # NFKC
    ("\\boxed{Straße}", "strasse"),
    ("\\boxed{हिन्दी}", "हिन्दी"),  # marks that are parts of letters
    ("\\boxed{vitamin A}", "vitamin a"),  # not an article: no word follows
    ("\\boxed{C++}", "c++"),  # another language than C
    ("\\boxed{#1}", "1"),
    ("\\boxed{3.5}", "3.5"),  # SQuAD makes 35 of it
    ("\\boxed{−5}", "-5"),
    ("\\boxed{1,000}", "1000"),
    ("\\boxed{!?}", None),
    ("\\boxed{", None),  # never closed
    ("\\boxed{" * 20_000, None),
    ("\\boxed{\ud800}", None),  # half of a surrogate pair
    ("", None),
]
NUMBER = [
    ("\\boxed{$1,234.50}", "1234.5"),
    ("\\boxed{-\\$5}", "-5"),
    ("\\boxed{- 5}", "-5"),
    ("\\boxed{12\\text{ km}}", "12"),
    ("\\boxed{5 m^2}", "5"),  # a power of the unit
    ("\\boxed{5 km/h}", "5"),
    ("\\boxed{90^\\circ}", "90"),
    ("\\boxed{50\\%}", "50"),  # percent is a unit
    ("\\boxed{1{,}234\\,567}", "1234567"),
    ("\\boxed{3 \\times 10^{-5}}", "3e-05"),
    ("\\boxed{5 million}", "5000000"),
    ("\\boxed{٣}", "3"),
    ("\\boxed{-0}", "0"),
    ("The answer is 42, since 6 times 7 is that.", "42"),
    ("6 times 7 is 42.", "42"),  # the last number
    ("5 - 3", "3"),  # a minus between numbers is no sign
    ("\\boxed{5 to 7}", None),  # two numbers
    ("\\boxed{3,5}", None),
    ("\\boxed{1/2}", None),  # formulas are for `math`
    ("\\boxed{\\frac{1}{2}}", None),
    ("\\boxed{2\\pi}", None),
    ("\\boxed{10^{-3}}", None),
    ("\\boxed{seven} of 9", None),  # the box wins
    ("\\boxed{nan}", None),
    ("\\boxed{1e400}", None),  # no double
    ("9" * LONG, None),
    ("\\boxed{" + "1," * LONG + "}", None),
    ("\\boxed{" + " " * LONG + "5}", "5"),
]
JSON = [
    ('```json\n{"b": 1.0, "a": [1e2, true]}\n```', '{"a":[100,true],"b":1}'),  # keys, white space, numbers
    ('First {"a": 1}, then {"a": 2}, see [here].', '{"a":2}'),  # the last that is JSON
    ('\\boxed{{"a": "}"}}', '{"a":"}"}'),
    ("so\n```\n7\n```\nas in [1]", "7"),  # a code block wins
    ("\\boxed{[1, 2]}", "[1,2]"),
    ("42", "42"),
    ("Paris", None),
    ('{"a": NaN}', None),
    ("[1e999]", None),
    ('{"é": "\\u00fc"}', '{"é":"ü"}'),
    ('"\\ud800"', '"\\ud800"'),  # stays written out, so that a file takes it
    ("[" * DEEP + "]" * DEEP, None),
    ('{"a":' * DEEP, None),
    ("[" * LONG, None),
    ("9" * LONG, None),
]


@pytest.mark.parametrize(
    ("answer_format", "completion", "text"),
    [(name, *case) for name, table in {"text": TEXT, "number": NUMBER, "json": JSON}.items() for case in table],
    ids=lambda value: str(value)[:30].encode("ascii", "replace").decode(),
)
def test_what_is_read(answer_format, completion, text):
    answer = parse_answer(completion, answer_format)
    assert (answer and answer.text) == text


@pytest.mark.parametrize(
    ("answer_format", "completions", "rewards"),
    [
        ("text", ["\\boxed{The Nile}", "the answer is nile.", "\\boxed{Amazon}"], (1, 1, 0)),
        ("text", ["\\boxed{2}", "\\boxed{2.0}", "\\boxed{2}"], (1, 0, 1)),  # texts, not numbers
        ("number", ["\\boxed{0.333333}", "\\boxed{0.3333333}", "\\boxed{0.33}"], (1, 1, 0)),  # 1e-6 apart
        ("number", ["\\boxed{0}", "\\boxed{0.0000001}", "\\boxed{0.0}"], (1, 0, 1)),  # the tolerance is relative
        # A chain: each is near the next. The most frequent one gathers what is near it, the far end is not.
        ("number", ["1", "1.0000009", "1.0000009", "1.0000018", "1.0000027"], (1, 1, 1, 1, 0)),
        ("number", ["\\boxed{50\\%}", "\\boxed{50}", "\\boxed{0.5}"], (1, 1, 0)),
        ("json", ['{"a": 1, "b": 2}', '{"b":2.0,"a":1}', '{"a": "1", "b": 2}'], (1, 1, 0)),  # "1" is a text
        ("json", ["[1, 2]", "[2, 1]", "[true, 2]"], (0, 0, 0)),  # nobody agrees
    ],
)
def test_votes(answer_format, completions, rewards):
    assert majority_vote(completions, answer_format=answer_format).rewards == rewards
    backwards = majority_vote(completions[::-1], answer_format=answer_format)
    assert backwards.rewards == rewards[::-1]


@pytest.mark.parametrize(
    ("answer_format", "true_answer", "completion"),
    [
        ("text", "Paris", "\\boxed{paris}"),  # bare
        ("text", "#### The Nile", "the answer is Nile"),
        ("number", "42", "\\boxed{$42}"),
        ("number", "So it is 7 #### 1,000 km", "\\boxed{1000}"),
        ("json", '{"a": "1 #### 2", "b": [1]}', '{"b": [1.0], "a": "1 #### 2"}'),
        ("json", "\\boxed{42}", "42"),
    ],
)
def test_true_answers(answer_format, true_answer, completion):
    assert accuracy_reward([completion, "no"], [true_answer] * 2, [answer_format] * 2) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("answer_format", "answer", "message"),
    [
        ("text", "?", "Write it as a few words"),
        ("number", "1/2", "Write it as one number"),
        ("json", "Paris", 'Write it as JSON, a text in quotes: "Paris"'),
    ],
)
def test_true_answers_that_cannot_be_read(answer_format, answer, message):
    with pytest.raises(ValueError, match=message):
        parse_true_answer(answer, answer_format)


def test_a_true_number_that_took_too_long_to_read_is_compared_as_it_is_written():
    assert FORMATS["number"].quick_equal("5 km", "5 km") and not FORMATS["number"].quick_equal("5 km", "5")
