"""The loop on a scripted engine: what is asked, what is kept, what is written down."""

import json
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest
from conftest import ledger_rows

from serl_trl.self_play import (
    Ledger,
    MajorityLabels,
    ScriptedSampler,
    SeedPasses,
    SelfInstruction,
    SelfPlayLoader,
    SelfPlaySettings,
    TrueAnswerLabels,
)
from serl_trl.self_play.carriers import Candidate
from serl_trl.self_play.funnel import Funnel


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


SETTINGS = {"num_generations": 4, "generation_batch_size": 8, "instruction_requests": 2}  # 2 groups of 4 a batch


def make_loader(tmp_path, script, max_words=1000, from_seeds=False, labels=None, slow_reply=None, **changes):
    sampler = ScriptedSampler(script, max_words, slow_reply)
    settings = SelfPlaySettings(**SETTINGS | changes)
    if from_seeds:
        source = SeedPasses(settings, SEEDS, sampler)
    else:
        source = SelfInstruction(settings, SEEDS, sampler, max_tokens=10_000, control_tokens=["<end>"])
    labels = labels or MajorityLabels(settings.answer_format)
    return SelfPlayLoader(settings, source, labels, sampler, Ledger(tmp_path))


def through_json(state: dict) -> dict:
    return json.loads(json.dumps(state, default=asdict))


def test_a_batch_holds_whole_groups_with_their_votes(tmp_path):
    loader = make_loader(tmp_path, Script())
    batch = next(loader)
    assert len(batch.groups) == 2
    for group in batch.groups:
        assert [completion.text for completion in group.completions] == ["\\boxed{0}"] * 2 + [
            "\\boxed{2}",
            "\\boxed{3}",
        ]
        assert group.vote.rewards == (1.0, 1.0, 0.0, 0.0) and not group.surplus
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


def test_the_surplus_is_a_batch_at_most_and_is_trained_next(tmp_path):
    # The first guess is that half of the candidates are admitted and half of these in the band: here all are.
    loader = make_loader(tmp_path, Script(per_reply=10), instruction_requests=8)
    first = next(loader)
    rows = ledger_rows(tmp_path)
    in_band = [row["instruction"] for row in rows if row["fate"] in ("trained", "surplus")]
    assert len(in_band) > 3 and first.metrics["self_rewarding/surplus_groups"] == 0.0
    assert [group.instruction for group in loader.surplus] == in_band[2:4]
    assert first.metrics["self_rewarding/dropped_groups"] == max(len(in_band) - 4, 0)
    second = next(loader)
    assert [group.instruction for group in second.groups] == in_band[2:4]
    assert all(group.surplus for group in second.groups)
    assert second.metrics["self_rewarding/surplus_groups"] == 2.0
    assert loader.surplus == []  # nothing is carried twice
    fates = {row["instruction"]: row["fate"] for row in ledger_rows(tmp_path)}
    assert [fates[instruction] for instruction in in_band[:4]] == ["trained"] * 4


def test_surplus_that_no_batch_needs_is_dropped(tmp_path):
    loader = make_loader(tmp_path, Script(), generation_batch_size=4, max_rounds=1)
    loader.past = loader.past | {"answered": 8.0}  # it expects one of eight in the band, and all four are
    batch = next(loader)
    assert len(batch.groups) == len(loader.surplus) == 1
    dropped = batch.metrics["self_rewarding/dropped_groups"]
    assert dropped == sum(row["fate"] == "surplus" for row in ledger_rows(tmp_path)) - 1 > 0


def test_surplus_of_other_group_sizes_is_dropped_on_resume(tmp_path, caplog):
    loader, other = (
        make_loader(tmp_path, Script()),
        make_loader(tmp_path, Script(), num_generations=2, max_pass_rate=1.0),
    )
    next(loader)
    assert loader.surplus
    other.load_state_dict(through_json(loader.state_dict()))
    assert other.surplus == [] and "they have 4 completions, and num_generations is 2" in caplog.text
    assert all(len(group.completions) == 2 for group in next(other).groups)


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
            assert (row["fate"], row["trained_step"]) == ("trained", 7)
            assert row["rewards"] == list(group.vote.rewards) and row["pass_rate"] == group.vote.pass_rate
            assert len(row["parents"]) == 8 and set(row["parents"]) <= {*SEEDS, *rows}
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
    assert {(row["fate"], row["reason"]) for row in rows} == {("rejected", reason)}
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


class RepetitiveAndIgnorant(Ignorant, Repetitive):
    """A model that does both: its answers are what most is lost by, and what a user can mend."""


@pytest.mark.parametrize(
    ("script", "advice"),
    [
        (lambda prompt, index: "", "use an instruct model"),
        (Script(agreeing=lambda text: 0), "Lower min_pass_rate"),
        (Script(agreeing=lambda text: 4), "Raise max_pass_rate"),
        (Ignorant(), "Change the answer_request"),
        (Repetitive(), "Raise instruction_temperature or diversity_threshold"),
        (RepetitiveAndIgnorant(), "Change the answer_request"),
    ],
)
def test_a_dry_run_stops_with_the_funnel_and_advice(tmp_path, script, advice):
    loader = make_loader(tmp_path, script, max_rounds=3)
    with pytest.raises(RuntimeError, match=r"3 rounds of self-instruction \(max_rounds\)") as error:
        next(loader)
    assert "candidates" in str(error.value) and advice in str(error.value)


class Straying(Script):
    """A model that mostly writes of sums, and of spiders as the seeds do once in five."""

    def instruction(self, number):
        if number % 5 == 0:
            return f"How many legs do {NOUNS[number // 5]} spiders have"
        return f"Find the sum of all {number} roots"


def test_instructions_far_from_the_seeds_are_rejected(tmp_path):
    loader = make_loader(tmp_path, Straying(), nearness_level=1.0, diversity_threshold=1.0)
    batch = next(loader)
    assert all("spiders" in group.instruction for group in batch.groups)
    rows = [row for row in ledger_rows(tmp_path) if row["fate"] != "unused"]
    far = ["roots" in row["instruction"] for row in rows]
    assert any(far) and [row["reason"] == "far_from_seeds" for row in rows] == far
    assert batch.metrics["self_instruction/rejected/far_from_seeds"] == sum(far)


@pytest.mark.parametrize(
    ("seeds", "level", "is_warned"),
    [
        (SEEDS, 0.0, False),
        (SEEDS[:2] * 4, 1.0, True),  # too few different ones for a gate
    ],
)
def test_without_a_gate_any_kind_is_admitted(caplog, seeds, level, is_warned):
    settings = SelfPlaySettings(**SETTINGS, nearness_level=level)
    source = SelfInstruction(settings, seeds, ScriptedSampler(Straying()), max_tokens=10_000)
    admitted, _ = source.draw(8, Funnel())
    assert any("roots" in candidate.instruction for candidate in admitted)
    assert ("nearness_level is 1.0, and yet no instruction is rejected" in caplog.text) is is_warned


def test_self_instruction_alone_says_what_it_lacks():
    settings, sampler = SelfPlaySettings(**SETTINGS), ScriptedSampler(Script(), 1000)
    with pytest.raises(ValueError, match="There are 3 seeds for num_few_shot_examples=8. Add seeds"):
        SelfInstruction(settings, SEEDS[:3], sampler, max_tokens=10_000)
    source = SelfInstruction(settings, SEEDS, sampler, max_tokens=1030)
    with pytest.raises(ValueError, match="max_instruction_length is 1024, and not even a prompt of one example fits"):
        source.draw(1, Funnel())


def test_a_dry_run_far_from_the_seeds_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="Raise nearness_level, or add seeds like what the model writes"):
        next(make_loader(tmp_path, Script(), nearness_level=1.0, max_rounds=3))


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


def check_that_another_goes_on(tmp_path, loader, other, batches):
    """Let a loader go on from the state of one whose ledger is in `one`, and compare both."""
    other.load_state_dict(through_json(loader.state_dict()) | {"output_dir": str(tmp_path / "one")})
    other.sampler.reply.written = loader.sampler.reply.written  # the scripted model's own state
    for _ in range(batches):
        assert next(other).groups == next(loader).groups
    assert through_json(other.state_dict()) == through_json(loader.state_dict())
    assert ledger_rows(tmp_path / "other") == ledger_rows(tmp_path / "one")


def test_state_survives_json(tmp_path):
    loader, other = (make_loader(tmp_path / name, Script()) for name in ("one", "other"))
    for _ in range(3):
        next(loader)
    check_that_another_goes_on(tmp_path, loader, other, batches=3)


# Calls of the engine before it fails: as it writes instructions, as it answers them, and in the second round.
@pytest.mark.parametrize(("from_seeds", "calls"), [(False, 0), (False, 1), (False, 2), (True, 0)])
@pytest.mark.parametrize("resumed", [True, False])  # in another process, or by asking the same loader again
def test_an_interrupted_batch_is_forgotten(tmp_path, from_seeds, calls, resumed):
    def agreeing(text):
        return 2 if len(text.split("\n")[0]) % 3 == 0 else 4  # most are out of the band: a batch takes rounds

    names, changes = ("whole", "cut", "resumed"), {"from_seeds": from_seeds, "generation_batch_size": 16}
    whole, loader, other = (make_loader(tmp_path / name, Script(agreeing=agreeing), **changes) for name in names)
    next(whole), next(loader)
    while len(loader.surplus) == loader.num_groups:  # until a batch samples something
        next(whole), next(loader)
    snapshot, written, sample = loader.state_dict(), loader.sampler.reply.written, loader.sampler.sample
    saved = through_json(snapshot)

    def failing_sample(*args):
        if len(loader.sampler.calls) == limit:
            raise RuntimeError("out of memory")
        return sample(*args)

    limit, loader.sampler.sample = len(loader.sampler.calls) + calls, failing_sample
    with pytest.raises(RuntimeError, match="out of memory"):
        next(loader)
    assert through_json(snapshot) == through_json(loader.state_dict()) == saved
    if resumed:
        other.load_state_dict(saved | {"output_dir": str(tmp_path / "cut")})
        loader = other
    else:
        loader.sampler.sample = sample
    loader.sampler.reply.written = written  # the scripted model's own state
    for _ in range(3):
        assert next(loader).groups == next(whole).groups
    assert through_json(snapshot) == saved  # whatever came after
    assert through_json(loader.state_dict()) == through_json(whole.state_dict())
    assert ledger_rows(loader.ledger.folder.parent) == ledger_rows(tmp_path / "whole")


def test_a_ledger_of_another_run_is_refused(tmp_path):
    loader, other = make_loader(tmp_path / "one", Script()), Ledger(tmp_path / "other")
    next(loader)
    state = through_json(loader.state_dict())
    other.write(0, [Candidate(n, 0, 1, "Too short", [], fate="rejected") for n in range(loader.source.next_id)])
    with pytest.raises(ValueError, match="holds 0 admitted .* it is another run's. Bring back its own"):
        loader.load_state_dict(state | {"output_dir": str(tmp_path / "other")})


def test_few_shot_prompts_are_shortened_to_fit(tmp_path):
    loader = make_loader(tmp_path, Script(), max_instruction_length=40)
    source = loader.source
    source.max_tokens = 40 + 80  # eight seeds have 8 * 8 words and their numbers, and the request 60
    lengths = []
    for batch in range(5):
        source.begin_batch(batch)
        lengths.append(len(source.draw_examples()))
    assert all(0 < length < 8 for length in lengths)


def test_the_seeds_themselves_are_trained_in_passes(tmp_path):
    script = Script()
    loader = make_loader(tmp_path, script, from_seeds=True)
    batches = [next(loader) for _ in range(8)]
    assert not any(prompt.endswith("9.") for prompt in script.prompts)  # nothing is written
    drawn = [row["instruction"] for row in ledger_rows(tmp_path)]
    first, second = drawn[: len(SEEDS)], drawn[len(SEEDS) : 2 * len(SEEDS)]
    assert sorted(first) == sorted(second) == sorted(SEEDS) and first != second
    assert sum(batch.metrics["self_instruction/admitted"] for batch in batches) == len(drawn)


def test_the_band_holds_for_seeds_too(tmp_path):
    unsure = SEEDS[:4]
    script = Script(agreeing=lambda text: 2 if text.split("\n")[0] in unsure else 4)
    loader = make_loader(tmp_path, script, from_seeds=True)
    trained = [group.instruction for _ in range(4) for group in next(loader).groups]
    assert set(trained) == set(unsure)


def test_true_answers_are_the_labels(tmp_path):
    # Two of four completions say 0, one 2, one 3: the majority is 0, and the truth is 3.
    true_labels = TrueAnswerLabels(dict.fromkeys(SEEDS, "3"))
    loader = make_loader(tmp_path, Script(), from_seeds=True, labels=true_labels)
    for group in next(loader).groups:
        assert group.vote.rewards == (0.0, 0.0, 0.0, 1.0)
        assert (group.vote.pseudo_label, group.vote.pass_rate) == ("3", 0.25)
    wrong_labels = TrueAnswerLabels(dict.fromkeys(SEEDS, "7"))
    nobody = make_loader(tmp_path / "nobody", Script(), from_seeds=True, labels=wrong_labels)
    with pytest.raises(RuntimeError, match="groups by pass rate: 0.00"):
        next(nobody)


def test_answers_that_take_too_long_are_logged_and_named_in_the_ledger(tmp_path):
    class Hostile(Script):
        def __call__(self, prompt, index):
            reply = super().__call__(prompt, index)
            return "\\boxed{\\sum_{k=1}^{10^{30}} k^k}" if reply == "\\boxed{3}" else reply

    loader = make_loader(tmp_path, Hostile(), labels=MajorityLabels(max_seconds=1.0))
    batch = next(loader)
    rows = [row for row in pq.read_table(tmp_path / "_ledger").to_pylist() if row["answers"]]
    assert batch.metrics["self_rewarding/timeouts"] == len(rows) >= 2
    for row in rows:
        assert row["answers"] == ["0", "0", "2", None] and row["timed_out"] == [False, False, False, True]


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


def test_another_source_or_label_on_resume_is_refused(tmp_path):
    loader = make_loader(tmp_path, Script())
    next(loader)
    true_labels = TrueAnswerLabels(dict.fromkeys(SEEDS, "3"))
    for other in (
        make_loader(tmp_path, Script(), from_seeds=True),
        make_loader(tmp_path, Script(), labels=true_labels),
    ):
        with pytest.raises(ValueError, match="Set instruction_source and label_source back"):
            other.load_state_dict(through_json(loader.state_dict()))


def test_a_completion_votes_by_what_follows_its_thinking(tmp_path):
    class Thinking(Script):
        def __call__(self, prompt, index):
            reply = super().__call__(prompt, index)
            if "boxed" not in reply or index % 4 == 3:  # the last of four never stops thinking
                return reply
            return "\\boxed{1}</think>" + reply

    template = tmp_path / "template.yaml"
    template.write_text(
        "system: ''\nuser: Write.\nanswer_request: In \\boxed{}.\nthinking_end: </think>", encoding="utf-8"
    )
    slow = Thinking(agreeing=lambda text: 8)
    changes = {"prompt_template": str(template), "confirm_majority": True, "slow_reply": slow}
    for group in next(make_loader(tmp_path, Thinking(), **changes)).groups:
        assert group.vote.answers == ("0", "0", "2", None) and group.vote.rewards == (1.0, 1.0, 0.0, 0.0)
    confirmed = [row for row in ledger_rows(tmp_path) if row["fate"] == "trained"]
    assert {answer for row in confirmed for answer in row["slow_answers"]} >= {"0", None}
