import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serl_trl.self_play import NearnessGate
from serl_trl.self_play.nearness import _CharacterModel


PROPERTY = dict(deadline=None, derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))


def sums(n: int, template: str = "What is {} + {}?") -> list[str]:
    rng = random.Random(0)
    return [template.format(rng.randint(10, 99), rng.randint(10, 99)) for _ in range(n)]


def word_problems(n: int, seed: int = 0) -> list[str]:
    """Return problems of two to four sentences in changing words, numbers from 2 to 40."""
    rng = random.Random(seed)
    people, things = "Ann Ben Cleo Dan Eve Finn".split(), "apples books coins pens shells stamps".split()
    facts = [
        "{person} has {n} {things}.",
        "{person} buys {n} more {things} every week.",
        "{person} gives {n} {things} to a friend.",
        "Each box holds {n} {things}, and {person} fills {m} boxes.",
        "{person} sells {n} of the {things} for ${m} each.",
    ]
    ends = ["How many {things} does {person} have now?", "How many {things} are there in all?"]
    problems = []
    for _ in range(n):
        person, thing = rng.choice(people), rng.choice(things)
        parts = [*rng.sample(facts, rng.randint(1, 3)), rng.choice(ends)]
        fills = [{"person": person, "things": thing, "n": rng.randint(2, 40), "m": rng.randint(2, 9)} for _ in parts]
        problems.append(" ".join(part.format(**fill) for part, fill in zip(parts, fills, strict=True)))
    return problems


# Topics, lengths and notations of all kinds.
BROAD = [
    "Compute $\\sin 60^\\circ$.",
    "Name a prime between 90 and 100.",
    "Let $f(x) = x^3 - 7x + 2$. For how many integers $a$ does $f(a) = f(-a)$ hold?",
    "Is 2 even?",
    "A train leaves at 9:40 and arrives at 13:20. How long does it travel, in minutes?",
    "Who wrote Faust?",
    "If $\\log_2 (x - 1) + \\log_2 (x + 1) = 3$, then find $x$ and give your answer in simplest radical form.",
    "Solve for $y$: \\[\\frac{3y}{4} - \\frac{y - 1}{6} = \\sqrt{2 + y}.\\]",
    "Convert 1011 from base two to base 10.",
    "There are 5 red, 7 blue and 9 green marbles in a bag. Two are drawn without replacement, and one of them is shown "
    "to you: it is red. What is the probability that the other one is red, too, as a fraction in lowest terms?",
    "Simplify (2 + 3i)(4 - i).",
    "Find the area of a triangle with sides 13, 14 and 15.",
    "What is the sum of 1, 4, 9, 16, 25, 36, 49, 64, 81 and 100?",
    "List the roots.",
    "The points $A(0,0)$, $B(4,0)$ and $C(4,3)$ are the vertices of a triangle. The circle through all of them meets "
    "the line $y = x$ in the origin and in a point $P$. Find the distance from $P$ to the midpoint of $AC$, rounded to "
    "two places, and say on which side of the line through $B$ and $C$ the point $P$ lies.",
    "How many ways are there to seat 6 people around a table if two of them refuse to sit beside each other?",
    "Evaluate \\[\\prod_{k = 2}^{100} \\left( 1 - \\frac{1}{k^2} \\right).\\]",
    "Round 3.14159 to hundredths.",
    "12 % of what number is 30?",
    "Prove it.",
]
CHINESE = [
    f"{first}有{n}个{thing}，{second}又给了{first}{m}个，现在一共有多少个？"
    for n, (first, second) in enumerate([("小明", "小红"), ("小红", "小明")] * 4, start=11)
    for m, thing in enumerate(["苹果", "梨子", "鸡蛋"] * 2, start=21)
]
ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


@pytest.mark.parametrize(
    ("seeds", "instruction", "admitted"),
    [
        # Seeds of one shape
        (sums(50), "What is 57 + 19?", True),
        (sums(50), "What is 99 + 10?", True),  # numbers up to the end of the seeds' kind
        (sums(50), "what is 57 +  19?", True),  # case and white space say nothing
        (sums(50), "What is 3 + 8?", True),  # small numbers are near
        (sums(50), "What is 157 + 19?", False),
        (sums(50), "What is 100 + 19?", False),  # a digit more, though within 10 % of the largest
        (sums(50, "What is {}1 + {}1?"), "What is 999 + 101?", True),
        (sums(50), "What is 1,957 + 19?", False),
        (sums(50), "What is 57 + 19 + 23?", False),  # another count of numbers
        (sums(50), "What is 2.5 + 19?", False),  # another notation
        (sums(50), "Who wrote Faust and Egmont?", False),
        (sums(50), word_problems(1)[0], False),
        (sums(50), f"What is {'9' * 5000} + 2?", False),  # more digits than int() takes
        (sums(50, "What is {},000 + {},000?"), "What is 57,000 + 19,000?", True),  # thousands are no more numbers
        (sums(50, "What is {},000 + {},000?"), "What is 5,999 + 1,999?", True),  # below 99,000
        (sums(50, "What is {},000 + {},000?"), "What is 57,000,000 + 19,000?", False),
        (sums(50, "What is 0.{} + 0.{}?"), "What is 0.57 + 0.19?", True),
        (sums(50, "What is {}/100 + {}/100?"), "What is 57/100 + 19/100?", True),  # four numbers
        # Few seeds: their own extremes are not the limit
        (sums(8), "What is 97 + 10?", True),
        (sums(8), "What is 157 + 19?", False),
        # Seeds without a number in digits
        (["Who wrote Faust?", "Who wrote Hamlet?", "Who wrote Medea?"] * 4, "Who wrote Tasso?", True),
        (["Who wrote Faust?", "Who wrote Hamlet?", "Who wrote Medea?"] * 4, "Who wrote 1984?", False),
        # Word problems
        (word_problems(60), "Ann has 31 pens. Ann gives 12 pens to a friend. How many pens does Ann have now?", True),
        (word_problems(60), "Ann has 31 pens.", False),  # the question is missing
        (word_problems(60), "Ann has 31,000 pens. Ann buys 7 more pens every week. How many are there?", False),
        (word_problems(60), "Find the sum of the roots of $x^2 - 7x + 12$ over the complex numbers.", False),
        # Other scripts
        (CHINESE, "小红有17个鸡蛋，小明又给了小红25个，现在一共有多少个？", True),
        (CHINESE, "小红有17个鸡蛋，小明又给了小红2500个，现在一共有多少个？", False),
        (CHINESE, "请问浮士德的作者是哪一位著名的德国作家？", False),
        ([seed.translate(ARABIC_DIGITS) for seed in sums(50)], "What is ٥٧ + ١٩?", True),
        ([seed.translate(ARABIC_DIGITS) for seed in sums(50)], "What is ٥٧٠ + ١٩?", False),
    ],
)
def test_what_is_near(seeds, instruction, admitted):
    gate = NearnessGate(seeds)
    assert gate.admits(instruction) == admitted
    assert gate.binds


@pytest.mark.parametrize(
    ("seeds", "binds"),
    [
        (sums(60), True),
        (sums(8), True),
        (word_problems(60), True),
        (CHINESE, True),  # without words to shuffle
        (BROAD, False),
        (sums(1), False),
        (sums(1) * 20 + sums(2), False),  # two different seeds show no kind
    ],
)
def test_a_gate_that_tells_nothing_apart_does_not_bind(seeds, binds):
    assert NearnessGate(seeds).binds is binds


def test_others_of_the_seeds_kind_are_admitted():
    gate = NearnessGate(word_problems(60))
    others = word_problems(300, seed=1)
    assert sum(map(gate.admits, others)) >= 0.9 * len(others)


LEVELS = (0.01, 1.0, 1.5, 4.0, 20.0, 1e300)
GATES = [[NearnessGate(seeds, level) for level in LEVELS] for seeds in (sums(30), word_problems(30), BROAD, CHINESE)]
PIECES = ["What is ", "Ann has ", "7", "42", " + ", "?", ",000", "3.5", "苹果", " pens. ", "$x^2$", "\0", "9" * 400]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=30).map("".join) | st.text(min_size=1))
@settings(**PROPERTY)
def test_what_a_level_admits_each_higher_one_admits(instruction):
    for gates in GATES:
        admitted = [gate.admits(instruction) for gate in gates]
        assert admitted == sorted(admitted)


def test_a_level_widens():
    three_addends = "What is 57 + 19 + 23?"
    assert [NearnessGate(sums(60), level).admits(three_addends) for level in (1.0, 3.0, 5.0)] == [False, False, True]
    assert not NearnessGate(sums(60), 1000.0).binds  # everything is near


def test_a_level_widens_by_digits():
    admitted = [
        [NearnessGate(sums(60), level).admits(f"What is {n} + 19?") for n in (99, 100)] for level in (1.0, 2.0)
    ]
    assert admitted == [[True, False], [True, True]]


@given(st.lists(st.text(), min_size=1, max_size=8), st.text(), st.randoms())
@settings(**PROPERTY)
def test_any_text_is_judged_the_same_in_any_order_of_the_seeds(seeds, instruction, rng):
    gate, other = NearnessGate(seeds), NearnessGate(rng.sample(seeds, len(seeds)) + seeds[:1])  # a repeated one
    assert gate.describe() == other.describe() and gate.binds is other.binds
    assert gate.admits(instruction) is other.admits(instruction)


def test_a_seeds_own_loss_is_that_under_a_model_of_the_others():
    seeds = ["abcab", "abd cab", "bcabc"]
    whole, others = _CharacterModel(seeds), _CharacterModel(seeds[:2])
    assert set("".join(seeds)) == set("".join(seeds[:2]))  # the same alphabet, and so the same base rate
    assert whole.loss("bcabc", True) == pytest.approx(others.loss("bcabc", False), rel=1e-12)
    assert whole.loss("bcabc", False) < whole.loss("bcabc", True)


def test_the_loss_of_one_character():
    # Of "a" after the begin, and of the end after "a": four estimates each, the first from 1 of 3 known symbols.
    rate = (1 + 4 / 3) / (2 + 4)  # one of two
    for _ in range(3):
        rate = (1 + 4 * rate) / (1 + 4)  # always, where this context was seen
    assert _CharacterModel(["a"]).loss("a", False) == pytest.approx(-math.log2(rate), rel=1e-12)


def test_the_fit_in_numbers():
    seeds = [f"What is {n} + {100 - n}?" for n in range(20, 40)]  # the largest is 80, of nineteen 79
    assert NearnessGate(seeds).describe() == {
        "seeds": 20,
        "bits_per_character": 1.1,
        "shortest": 12.73,  # 14 characters, a number being one, less a tenth
        "longest": 15.4,
        "largest_number": pytest.approx(79 * 1.1 * (79 / 70.5) ** (5 / 20), abs=0.01),
        "fewest_numbers": pytest.approx(3 / 1.1 - 1, abs=0.01),
        "most_numbers": pytest.approx(3 * 1.1 - 1, abs=0.01),
    }


@pytest.mark.parametrize(
    ("seeds", "level", "message"),
    [
        ([], 1.0, "seeds is empty"),
        (["What is 2 + 3?"], 0.0, "level is 0.0. Set it to a finite number above 0"),  # no gate: the caller has none
        (["What is 2 + 3?"], -1.0, "level is -1.0"),
        (["What is 2 + 3?"], float("inf"), "level is inf"),
        (["What is 2 + 3?"], float("nan"), "level is nan"),
    ],
)
def test_no_gate_without_seeds_or_level(seeds, level, message):
    with pytest.raises(ValueError, match=message):
        NearnessGate(seeds, level)
