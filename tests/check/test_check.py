"""A check of the tiny model: what it says, and that a training after it is as if it had not been called."""

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds, weights
from datasets import Dataset
from make_tiny_model import PAIRS, question

from serl_trl import SeRLTrainer
from serl_trl.check import measuring


TRUSTED = {
    "method": "trusted",
    "num_generations": 8,
    "generation_batch_size": 16,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "nearness_level": 0,
    "evidence_seeds": 24,
    "max_pass_rate": 1.0,
}
TRUE_LABELS = {"instruction_source": "seeds", "label_source": "true_answer"}


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    """Answer fewer than a user's check: a group of the tiny model is as good as another."""
    monkeypatch.setattr(measuring, "CANDIDATES", 16)


def labelled(change: int = 0) -> Dataset:
    """Return seeds with their answers, which are wrong by `change`."""
    texts = tiny_seeds()["instruction"]
    answers = {question(*pair): str(true_answer(*pair) + change) for pair in PAIRS}
    return Dataset.from_dict({"instruction": texts, "answer": [answers[text] for text in texts]})


def true_answer(first, sign, second):
    return first + second if sign == "plus" else first - second


def make_trainer(tmp_path, seeds=None, **settings) -> SeRLTrainer:
    return SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **settings), seeds or tiny_seeds())


@pytest.mark.parametrize(
    ("seeds", "settings", "go", "verdict"),
    [
        (tiny_seeds(), {}, True, "go"),
        (tiny_seeds(), TRUSTED, True, "go"),
        (labelled(), TRUSTED, True, "go"),
        (labelled(), TRUE_LABELS, True, "go"),
        # not ready: unsure, wrong, or cut off
        (tiny_seeds(), TRUSTED | {"temperature": 1.6}, False, "don't: More answers confirm the start's majority for "),
        (labelled(1), {}, False, "don't: Of "),
        (tiny_seeds(), {"max_completion_length": 3}, False, "don't: none of "),
        # no instruction that passes: a dry batch in a run
        (tiny_seeds(), {"min_words": 50, "max_rounds": 2}, False, "don't: none of "),
    ],
)
def test_a_check_says_whether_to_train_and_changes_nothing(tmp_path, seeds, settings, go, verdict):
    trainer = make_trainer(tmp_path / "run", seeds, **settings)
    before, random_state, mode = weights(trainer.model), torch.get_rng_state(), trainer.model.training
    result = trainer.check()
    text = str(result)
    assert result.go == go and text.splitlines()[-1].startswith(verdict), text
    assert ("majority right" in text) == ("answer" in seeds.column_names and settings is not TRUE_LABELS)
    assert all(torch.equal(old, new) for old, new in zip(before, weights(trainer.model), strict=True))
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state) and trainer.model.training == mode
    assert (trainer.loader.batch_index, trainer.loader.source.next_id, trainer.trust.slow_weights) == (0, 0, None)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 3},
        TRUSTED | {"max_steps": 3, "nearness_level": 1, "gradient_checkpointing": True},
    ],
    ids=["paper", "trusted"],
)
def test_training_after_a_check_has_the_same_bits(tmp_path, settings):
    ends = []
    for name in ("checked", "unchecked"):
        trainer = make_trainer(tmp_path / name, labelled(), **settings)
        if name == "checked":
            assert trainer.check().go
        trainer.train()
        curves = [
            {
                key: value
                for key, value in entry.items()
                if "time" not in key and "per_second" not in key and "runtime" not in key
            }
            for entry in trainer.state.log_history
        ]
        ends.append((weights(trainer.model), ledger_rows(tmp_path / name), curves))
    (checked, *others), (unchecked, *expected) = ends
    assert others == expected
    assert all(torch.equal(first, second) for first, second in zip(checked, unchecked, strict=True))


def test_memory_that_is_not_enough_is_a_finding(tmp_path, monkeypatch):
    def run_out(*args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measuring, "measure_passes", run_out)
    result = make_trainer(tmp_path).check()
    assert result.settings == {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert "training, not measured" in result.text


def test_time_that_is_over_ends_the_asking(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr(measuring, "FIRST_ROUND", 4)
    assert "24 of 50 seeds and 4 instructions were answered" in str(make_trainer(tmp_path).check())
