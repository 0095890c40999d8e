"""The worlds and the rewards of benchmarks/learning.py."""

import random
import sys

import pytest
from conftest import ROOT


sys.path.insert(0, str(ROOT / "benchmarks"))

from learning import REWARDS, SETTINGS, WORLD_ARMS  # noqa: E402
from make_tiny_model import FAR_PAIRS, LESSONS, make_tokenizer, question  # noqa: E402
from worlds import WORLDS, World, true_answer  # noqa: E402


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("what is 3 plus 4 ?", 7),
        ("what is 3 minus 4 ?", -1),
        ("what is 27 plus 5 ?", 32),  # beyond the seeds
        ("what  is 3 plus 4 ?", 7),  # white space is not content
        ("what is 3 plus 4 plus 5 ?", None),
        ("what is -3 plus 4 ?", None),
        ("what is 3 times 4 ?", None),
    ],
)
def test_true_answers(text, answer):
    assert true_answer(text) == answer


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_held_out_questions_are_no_seeds(world):
    assert (len(world.seeds), len(world.held_out), len({*world.seeds, *world.held_out})) == (50, 150, 200)
    assert world.is_far is None or not any(world.is_far(question(*pair)) for pair in world.seeds + world.held_out)


def test_far_questions_are_seen_in_the_text():
    assert all(WORLDS["drift"].is_far(question(*pair)) for pair in FAR_PAIRS)


@pytest.mark.parametrize(
    ("labelled", "columns"),
    [
        (0, {}),  # no column of answers at all
        (1, {"answer": ["7", None]}),
        (2, {"answer": ["7", "-1"]}),
    ],
)
def test_answers_of_the_seeds(labelled, columns):
    world = World("two", seeds=[(3, "plus", 4), (3, "minus", 4)])
    assert world.seed_rows(labelled) == {"instruction": ["what is 3 plus 4 ?", "what is 3 minus 4 ?"]} | columns


@pytest.mark.parametrize("lesson", LESSONS.values(), ids=LESSONS)
def test_every_word_of_a_lesson_is_a_token(lesson):
    tokenizer, rng = make_tokenizer(lesson.numbers), random.Random(0)
    texts = [" ".join(example(rng)) for example in [lesson.write, lesson.answer] for _ in range(500)]
    assert not any(tokenizer.unk_token_id in tokenizer(text)["input_ids"] for text in texts)


def test_random_rewards_have_a_source_of_their_own():
    state = random.getstate()
    first, second, other = (REWARDS["random"](WORLDS["small"], seed)(completions=[None] * 64) for seed in (1, 1, 2))
    assert first == second != other and {*first} == {0.0, 1.0}
    assert random.getstate() == state


def test_arms_change_known_settings_only():
    from serl_trl import SeRLConfig

    known = {*SETTINGS, *SeRLConfig.__dataclass_fields__, "world", "reward"}
    assert all(known.issuperset(changes) for changes in WORLD_ARMS.values())
