"""The loop on a scripted engine: what is asked, what is kept, what is written down."""

import json
import random

import pytest
from conftest import ledger_rows, tiny_config

from serl_trl.sampler import ScriptedSampler
from serl_trl.self_play.ledger import Ledger
from serl_trl.self_play.loop import SelfPlayLoader


SEEDS = [
    f"How many legs do {n} spiders have" for n in ("two", "three", "four", "five", "six", "seven", "eight", "ten")
]
NOUNS = "apple boat cat dog ear fish goat hat ink jar kite lamp moon nest owl pen quilt rose star tree urn van".split()


class Script:
    """A model that lists `per_reply` new instructions, and of four completions lets `agreeing` agree."""

    def __init__(self, per_reply: int = 4, agreeing=lambda instruction: 2):
        self.per_reply, self.agreeing, self.written, self.prompts = per_reply, agreeing, 0, []

    def instruction(self, number: int) -> str:
        first, second = NOUNS[number % len(NOUNS)], NOUNS[number // len(NOUNS) % len(NOUNS)]
        return f"Count {first} {second} {number} things"

    def __call__(self, prompt, index):
        text = prompt[-1]["content"]
        self.prompts.append(text)
        if text.endswith("9."):  # eight few-shot examples: a request for new instructions
            lines = [self.instruction(self.written + offset) for offset in range(self.per_reply)]
            self.written += self.per_reply
            return "\n".join([lines[0], *(f"{10 + n}. {line}" for n, line in enumerate(lines[1:]))])
        return f"\\boxed{{{0 if index < self.agreeing(text) else index}}}"


def make_loader(tmp_path, script, max_words=1000, true_answers=None, **changes):
    sampler = ScriptedSampler(script, max_words)
    config = tiny_config(tmp_path, **{"diversity_threshold": 0.7} | changes)
    return SelfPlayLoader(
        config,
        SEEDS,
        sampler,
        Ledger(tmp_path),
        max_tokens=10_000,
        control_tokens=["<end>"],
        true_answers=true_answers,
    )


def test_a_batch_holds_whole_groups_with_their_votes(tmp_path):
    loader = make_loader(tmp_path, Script())
    batch = next(loader)
    assert len(batch.groups) == 2
    for group in batch.groups:
        assert [completion.text for completion in group.completions] == ["\\boxed{0}"] * 2 + [
            "\\boxed{2}",
            "\\boxed{3}",
        ]
        assert group.vote.rewards == (1.0, 1.0, 0.0, 0.0) and not group.stale
    assert batch.metrics["self_rewarding/pass_rate"] == 0.5
    assert batch.metrics["pool/kept"] == 2.0


def test_trained_instructions_become_few_shot_examples(tmp_path):
    script = Script()
    loader = make_loader(tmp_path, script)
    trained = [group.instruction for group in next(loader).groups]
    for _ in range(3):
        next(loader)
    requests = [prompt for prompt in script.prompts if prompt.endswith("9.")]
    assert any(instruction in prompt for prompt in requests[2:] for instruction in trained)


def test_surplus_is_trained_next_and_then_expires(tmp_path):
    loader = make_loader(tmp_path, Script())
    first = next(loader)
    surplus = [group.instruction for group in loader.surplus]
    assert surplus and first.metrics["self_rewarding/stale_groups"] == 0.0
    loader.surplus *= 3  # more than a batch holds
    count = len(loader.surplus)
    second = next(loader)
    assert [group.instruction for group in second.groups] == (surplus * 3)[:2]
    assert all(group.stale for group in second.groups)
    assert second.metrics["self_rewarding/expired_groups"] == count - 2
    assert loader.surplus == []  # nothing is carried twice


def test_every_candidate_has_a_row_with_its_fate(tmp_path):
    def agreeing(text):
        return {"apple": 1, "boat": 4, "cat": 3}.get(text.split()[1], 2)

    loader = make_loader(tmp_path, Script(agreeing=agreeing))
    loader.sampler.step = 7
    batches = [next(loader), next(loader)]
    rows = {row["instruction"]: row for row in ledger_rows(tmp_path)}
    fates = {instruction.split()[1]: row["fate"] for instruction, row in rows.items()}
    assert (fates["apple"], fates["boat"]) == ("no_pseudo_label", "out_of_band")
    for batch in batches:
        for group in batch.groups:
            row = rows[group.instruction]
            assert (row["fate"], row["trained_step"], row["verdict"]) == ("trained", 7, "admitted")
            assert row["votes"] == list(group.vote.rewards) and row["pass_rate"] == group.vote.pass_rate
            assert len(row["parents"]) == 8 and set(row["parents"]) <= {*SEEDS, *rows}
    assert {row["verdict"] for row in rows.values()} <= {"admitted", "rejected", "unused"}
    assert [row["id"] for row in rows.values()] == list(range(len(rows)))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("How many legs do nine spiders have", "too_similar"),  # ROUGE-L 6/7 with a seed
        ("Too short", "too_short"),
        ("Draw the legs of nine beetles", "blocked_word"),
        ("Count the ants <end> now", "control_token"),  # would end the user's turn
        ("Count the ants of ten hills now and then", "cut_off"),  # the reply ends at eight words
    ],
)
def test_rejections_are_counted_and_explained(tmp_path, reply, reason):
    loader = make_loader(tmp_path, lambda prompt, index: reply, max_words=8, max_rounds=2)
    with pytest.raises(RuntimeError) as error:
        next(loader)
    rows = ledger_rows(tmp_path)  # nothing is lost when the run stops
    assert {(row["verdict"], row["reason"]) for row in rows} == {("rejected", reason)}
    assert f"rejected: {len(rows)} {reason}" in str(error.value)


class Ignorant(Script):
    """A model that writes instructions and knows no answer."""

    def __call__(self, prompt, index):
        text = super().__call__(prompt, index)
        return "no idea" if "boxed" in text else text


class Repetitive(Script):
    """A model that writes one new instruction and then repeats it."""

    def instruction(self, number):
        return super().instruction(0)


@pytest.mark.parametrize(
    ("script", "advice"),
    [
        (lambda prompt, index: "", "use an instruct model"),
        (Script(agreeing=lambda text: 0), "Lower min_pass_rate"),
        (Script(agreeing=lambda text: 4), "Raise max_pass_rate"),
        (Ignorant(), "Change the answer_request"),
        (Repetitive(), "Raise instruction_temperature or diversity_threshold"),
    ],
)
def test_a_dry_run_stops_with_the_funnel_and_advice(tmp_path, script, advice):
    loader = make_loader(tmp_path, script, max_rounds=3)
    with pytest.raises(RuntimeError, match=r"3 rounds of self-instruction \(max_rounds\)") as error:
        next(loader)
    assert "candidates" in str(error.value) and advice in str(error.value)


def test_a_batch_that_fills_too_slowly_needs_more_rounds(tmp_path):
    loader = make_loader(tmp_path, Script(per_reply=1), max_rounds=1, instruction_requests=1, generation_batch_size=80)
    with pytest.raises(RuntimeError, match="Raise max_rounds"):
        next(loader)


def test_requests_follow_the_yield(tmp_path):
    # A model that agrees with itself on one instruction of ten needs many more candidates than one that always does.
    seldom = make_loader(tmp_path / "seldom", Script(agreeing=lambda text: 2 if int(text.split()[3]) % 10 == 0 else 4))
    always = make_loader(tmp_path / "always", Script())
    for _ in range(4):
        next(seldom), next(always)
    answered = [sum(prompts for prompts, n in loader.sampler.calls if n == 4) for loader in (seldom, always)]
    assert answered[0] > 3 * answered[1]


def test_state_survives_json(tmp_path):
    loader, other = (make_loader(tmp_path / name, Script()) for name in ("one", "other"))
    for _ in range(3):
        next(loader)
    other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    other.sampler.reply.written = loader.sampler.reply.written  # the scripted model's own state
    for _ in range(3):
        assert next(other).groups == next(loader).groups
    assert other.state_dict()["kept"] == loader.state_dict()["kept"]
    assert other.totals.counts == loader.totals.counts


def test_few_shot_prompts_are_shortened_to_fit(tmp_path):
    loader = make_loader(tmp_path, Script(), max_instruction_length=40)
    loader.max_tokens = 40 + 30  # eight seeds have 8 * 8 words and their numbers
    lengths = [len(loader.draw_examples(random.Random(n))) for n in range(5)]
    assert all(0 < length < 8 for length in lengths)


def test_the_seeds_themselves_are_trained_in_passes(tmp_path):
    script = Script()
    loader = make_loader(tmp_path, script, instruction_source="seeds")
    batches = [next(loader) for _ in range(8)]
    assert not any(prompt.endswith("9.") for prompt in script.prompts)  # nothing is written
    drawn = [row["instruction"] for row in ledger_rows(tmp_path)]
    first, second = drawn[: len(SEEDS)], drawn[len(SEEDS) : 2 * len(SEEDS)]
    assert sorted(first) == sorted(second) == sorted(SEEDS) and first != second
    assert sum(batch.metrics["self_instruction/admitted"] for batch in batches) == len(drawn)


def test_the_band_holds_for_seeds_too(tmp_path):
    unsure = SEEDS[:4]
    script = Script(agreeing=lambda text: 2 if text.split("\n")[0] in unsure else 4)
    loader = make_loader(tmp_path, script, instruction_source="seeds")
    trained = [group.instruction for _ in range(4) for group in next(loader).groups]
    assert set(trained) == set(unsure)


def test_true_answers_are_the_labels(tmp_path):
    # Two of four completions say 0, one 2, one 3: the majority is 0, and the truth is 3.
    settings = {"instruction_source": "seeds", "label_source": "true_answer"}
    loader = make_loader(tmp_path, Script(), true_answers=dict.fromkeys(SEEDS, "3"), **settings)
    for group in next(loader).groups:
        assert group.vote.rewards == (0.0, 0.0, 0.0, 1.0)
        assert (group.vote.pseudo_label, group.vote.pass_rate) == ("3", 0.25)
    nobody = make_loader(tmp_path / "nobody", Script(), true_answers=dict.fromkeys(SEEDS, "7"), **settings)
    with pytest.raises(RuntimeError, match="groups by pass rate: 0.00"):
        next(nobody)


def test_votes_on_letters(tmp_path):
    class Choosing(Script):
        def __call__(self, prompt, index):
            reply = super().__call__(prompt, index)
            return reply if "boxed" not in reply else f"So the answer is ({'BBCD'[index]})."

    loader = make_loader(tmp_path, Choosing(), answer_format="choice")
    (first, _) = next(loader).groups
    assert first.vote.answers == ("B", "B", "C", "D") and first.vote.rewards == (1.0, 1.0, 0.0, 0.0)


def test_a_threshold_of_one_lets_the_same_instruction_return(tmp_path):
    class Repeating(Script):
        def instruction(self, number):
            return f"Count {NOUNS[number % 4]} things here"

    trained = []
    loader = make_loader(tmp_path, Repeating(), diversity_threshold=1.0)
    for _ in range(4):
        trained += [group.instruction for group in next(loader).groups]
    assert len(set(trained)) == 4 < len(trained)
