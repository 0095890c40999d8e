"""A majority is trained on where slow weights confirm it, and no more is asked than that takes."""

import pytest
from conftest import ledger_rows
from test_loop import Script, make_loader

from serl_trl.self_play import MajorityLabels, ScriptedSampler, SelfPlaySettings
from serl_trl.self_play.carriers import Group
from serl_trl.self_play.confirmation import LOOKS, Confirmation, verdict
from serl_trl.self_play.funnel import Funnel
from serl_trl.self_play.prompt import load_template


LAST = max(LOOKS)


@pytest.mark.parametrize(
    ("answers", "agreeing", "others", "expected"),
    [
        (8, 8, 0, True),  # all of them
        (8, 7, 1, None),  # a lead, not yet clear
        (8, 7, 0, None),  # one abstains
        (8, 6, 2, None),
        (8, 5, 2, False),  # too far from clear
        (8, 4, 4, False),  # a tie
        (8, 0, 0, False),  # nothing at all
        (8, 3, 4, False),  # behind
        (8, 0, 1, False),
        (16, 14, 2, True),
        (16, 9, 0, True),  # the others abstain
        (16, 13, 3, None),
        (16, 11, 3, False),  # too far from clear
        (16, 10, 6, False),
        (16, 0, 0, False),
        (24, 20, 3, True),
        (24, 17, 2, True),  # five abstain, or are alone
        (24, 20, 4, False),  # the last look: what is not clear now is given up
        (24, 24, 0, True),
        (24, 12, 12, False),
        (24, 0, 24, False),
    ],
)
def test_verdict(answers, agreeing, others, expected):
    assert verdict(answers, agreeing, others) is expected


def all_counts(answers: int) -> list[tuple[int, int]]:
    return [(agreeing, others) for agreeing in range(answers + 1) for others in range(answers + 1 - agreeing)]


def test_the_last_look_decides():
    assert {verdict(LAST, *counts) for counts in all_counts(LAST)} == {True, False}


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_left_open_can_still_be_confirmed(look):
    # Else it would be asked more for nothing.
    for agreeing, others in all_counts(look):
        if verdict(look, agreeing, others) is None:
            assert verdict(LAST, agreeing + LAST - look, others) is True


@pytest.mark.parametrize("look", LOOKS)
def test_one_more_that_agrees_never_counts_against_a_label(look):
    order = [False, None, True]
    for agreeing, others in all_counts(look):
        if agreeing and others:
            assert order.index(verdict(look, agreeing, others)) >= order.index(verdict(look, agreeing - 1, others))
            assert order.index(verdict(look, agreeing, others)) >= order.index(verdict(look, agreeing - 1, others + 1))


def boxed(answer) -> str:
    return f"\\boxed{{{answer}}}"


def ask(slow_reply, texts=("7", "7", "7", "2"), instructions=("What is it",), max_words=1000):
    """Return what slow weights say of groups with these answers, their own, and sampler and funnel after it."""
    settings = SelfPlaySettings(num_generations=4, generation_batch_size=8, confirm_majority=True)
    sampler = ScriptedSampler(lambda prompt, index: boxed(texts[index]), max_words, slow_reply)
    prompts = [[{"role": "user", "content": instruction}] for instruction in instructions]
    groups = []
    for number, (prompt, ids) in enumerate(zip(prompts, sampler.tokenize(prompts), strict=True)):
        (completions,) = sampler.sample([ids], 4)
        vote = MajorityLabels().label("", [reply.text for reply in completions], [False] * 4)
        groups.append(Group(number, instructions[number], prompt, tuple(ids), tuple(completions), vote))
    sampler.calls.clear()
    funnel = Funnel()
    verdicts, answers = Confirmation(settings, sampler, load_template(settings.prompt_template)).ask(groups, funnel)
    return verdicts, answers, sampler, funnel


LOOK_BY_LOOK = [(1, look - before) for look, before in zip(LOOKS, [0, *LOOKS], strict=False)]


# The number counts the replies of one call, from 0.
@pytest.mark.parametrize(
    ("reply", "confirmed", "looks"),
    [
        (lambda number: boxed(7), True, 1),
        (lambda number: boxed(2), False, 1),  # they agree on another answer
        (lambda number: boxed(100 + number), False, 1),  # each has its own
        (lambda number: boxed(2 if number % 8 < 1 else 7), True, 2),  # 14 to 2
        (lambda number: boxed(2 if number % 8 < 4 else 7), False, 1),  # 4 to 4
        (lambda number: boxed(number if number < 2 else 7), False, 3),  # 18 to 3 of each other one: not clear
        (lambda number: boxed(2 if number % 8 < 2 else 7), False, 2),  # 12 to 4
        (lambda number: "I give up", False, 1),  # no answer counts for or against
        (lambda number: boxed(7) + " and on it goes" * 5, False, 1),  # cut off
        (lambda number: boxed(7) if number else "I give up", True, 2),  # 7 of 8, then 15 of 16
        (lambda number: boxed(7) + " on" * (9 if number % 2 else 0), True, 3),  # of each two one is cut off: 12 to 0
    ],
)
def test_slow_weights_answer_until_it_is_clear(reply, confirmed, looks):
    verdicts, answers, sampler, funnel = ask(lambda prompt, number: reply(number), max_words=8)
    assert verdicts == [confirmed] and sampler.calls == LOOK_BY_LOOK[:looks]
    assert [len(own) for own in answers] == [sum(count for _, count in LOOK_BY_LOOK[:looks])]
    assert funnel.counts["confirming_tokens"] >= len(answers[0]) and funnel.seconds["confirmation"] > 0


@pytest.mark.parametrize(
    ("texts", "slow"),
    [
        (("1/2", "1/2", "3", "4"), ["0.5", "\\frac{1}{2}", "50\\%", "2/4"]),
        (("0.5", "\\frac12", "3", "4"), ["1/2"]),
        (("3", "1/2", "4", "0.50"), ["1/2", "0.5"]),  # the label is not the first answer
    ],
)
def test_equal_answers_agree_however_they_are_written(texts, slow):
    verdicts, _, sampler, _ = ask(lambda prompt, number: boxed(slow[number % len(slow)]), texts)
    assert verdicts == [True] and sampler.calls == [(1, 8)]


def test_the_answers_that_gave_the_label_are_not_counted_again():
    # Four of four said 7 and of the slow weights only some do.
    verdicts, _, sampler, _ = ask(lambda prompt, number: boxed(7 if number < 3 else 2), ("7", "7", "7", "7"))
    assert verdicts == [False] and sampler.calls == [(1, 8)]


def test_only_what_is_open_is_asked_again():
    def slow_reply(prompt, number):
        share = {"Sure": 8, "Unsure": 7, "Wrong": 0}[prompt[-1]["content"]]
        return boxed(7 if number % 8 < share else 2)

    verdicts, answers, sampler, _ = ask(slow_reply, instructions=("Unsure", "Sure", "Wrong", "Unsure"))
    assert verdicts == [True, True, False, True]
    assert sampler.calls == [(4, 8), (2, 8)] and [len(own) for own in answers] == [16, 8, 8, 16]
    assert answers[1] == ["7"] * 8 and answers[2] == ["2"] * 8  # each its own


def test_of_no_groups_nothing_is_asked():
    verdicts, answers, sampler, funnel = ask(lambda prompt, number: boxed(7), instructions=())
    assert (verdicts, answers, sampler.calls) == ([], [], []) and not funnel.counts["confirming_tokens"]


def is_odd(prompt) -> bool:
    return int(prompt[-1]["content"].split()[3]) % 2 == 1


def odd_ones_are_wrong(prompt, number):
    return boxed(9 if is_odd(prompt) else 0)


def test_unconfirmed_groups_are_not_trained_on(tmp_path):
    loader = make_loader(tmp_path, Script(), slow_reply=odd_ones_are_wrong, confirm_majority=True)
    for _ in range(4):
        batch = next(loader)
        assert len(batch.groups) == 2 and not any(is_odd(group.prompt) for group in batch.groups)
    rows = [row for row in ledger_rows(tmp_path) if row["fate"] in ("trained", "surplus", "unconfirmed")]
    odd = [int(row["instruction"].split()[3]) % 2 == 1 for row in rows]
    assert any(odd) and [row["fate"] == "unconfirmed" for row in rows] == odd
    assert all(row["slow_answers"] == (["9"] if odd else ["0"]) * 8 for row, odd in zip(rows, odd, strict=True))
    assert all(
        row["pseudo_label"] == "0" and row["trained_step"] is None for row in rows if row["fate"] == "unconfirmed"
    )


def test_what_is_not_in_the_band_is_not_asked_about(tmp_path):
    agreeing = lambda text: 4 if int(text.split()[3]) % 3 else 2  # noqa: E731
    loader = make_loader(tmp_path, Script(agreeing=agreeing), slow_reply=odd_ones_are_wrong, confirm_majority=True)
    next(loader)
    rows = ledger_rows(tmp_path)
    assert {row["fate"] for row in rows if row["slow_answers"]} == {"trained", "surplus", "unconfirmed"}
    assert any(row["fate"] == "out_of_band" for row in rows)


def test_metrics_of_the_confirmation(tmp_path):
    loader = make_loader(tmp_path, Script(), slow_reply=odd_ones_are_wrong, confirm_majority=True)
    batch = next(loader)
    rows = [row for row in ledger_rows(tmp_path) if row["slow_answers"]]
    confirmed = [row for row in rows if row["fate"] != "unconfirmed"]
    assert batch.metrics["self_rewarding/confirmed_ratio"] == len(confirmed) / len(rows) < 1.0
    assert batch.metrics["self_rewarding/in_band_ratio"] == 1.0  # it is the band's alone
    assert batch.metrics["self_rewarding/confirming_tokens"] == 8 * len(rows)  # of a word each
    assert batch.metrics["self_rewarding/tokens"] == 4 * len(rows)
    assert batch.metrics["time/confirmation"] > 0
    assert loader.totals.counts["kept"] == len(confirmed) and loader.totals.counts["in_band"] == len(rows)


def test_without_confirmation_all_in_the_band_is_trained_on(tmp_path):
    loader = make_loader(tmp_path, Script(), slow_reply=odd_ones_are_wrong)
    batch = next(loader)
    assert any(is_odd(group.prompt) for group in batch.groups)
    assert batch.metrics["self_rewarding/confirmed_ratio"] == 1.0
    assert batch.metrics["self_rewarding/confirming_tokens"] == 0.0
    assert not any(row["slow_answers"] for row in ledger_rows(tmp_path))


def test_rounds_are_sized_by_what_is_confirmed(tmp_path):
    def every(nth: int):
        return lambda prompt, number: boxed(9 if int(prompt[-1]["content"].split()[3]) % nth else 0)

    answered = []
    for nth in (8, 1):
        loader = make_loader(tmp_path / str(nth), Script(), slow_reply=every(nth), confirm_majority=True)
        for _ in range(4):
            next(loader)
        answered.append([prompts for prompts, count in loader.sampler.calls if count == 4])
    assert sum(answered[0]) > 3 * sum(answered[1])
    assert max(answered[0][1:]) > answered[0][0]  # more at once, since it has seen how few are confirmed


def test_a_run_dry_for_want_of_confirmation_says_so(tmp_path):
    loader = make_loader(
        tmp_path, Script(), slow_reply=lambda prompt, number: boxed(9), confirm_majority=True, max_rounds=2
    )
    with pytest.raises(RuntimeError, match="slow weights confirm few majorities") as error:
        next(loader)
    assert "kept 0" in str(error.value)
    assert {row["fate"] for row in ledger_rows(tmp_path)} == {"unconfirmed", "unused"}


def test_slow_weights_that_fail_leave_the_others_in_place(tmp_path):
    def failing(prompt, number):
        raise RuntimeError("out of memory")

    loader = make_loader(tmp_path, script := Script(), slow_reply=failing, confirm_majority=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(loader)
    assert loader.sampler.reply is script
