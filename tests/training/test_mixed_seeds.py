"""The trainer on seeds with and without answers, beside the model's own instructions."""

import pytest
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds
from datasets import Dataset

from serl_trl import SeRLTrainer


MIXED = {"seed_share": 0.5, "label_source": "true_answer_or_vote"}


def test_true_answers_label_the_seeds_that_have_one(tmp_path):
    seeds = tiny_seeds(20)["instruction"]
    answers = [str(eval(text[8:-2].replace("plus", "+").replace("minus", "-"))) for text in seeds[:10]]
    rows = Dataset.from_dict({"instruction": seeds, "answer": [*answers, *[None] * 10]})
    config = tiny_config(tmp_path, **MIXED, max_pass_rate=1.0, min_pass_rate=0.0, generation_batch_size=16)
    trainer = SeRLTrainer(str(TINY_MODEL), config, rows)
    trainer.train()
    truth = dict(zip(seeds[:10], answers, strict=True))
    trained = [row for row in ledger_rows(tmp_path) if row["fate"] == "trained"]
    of_seeds = [row for row in trained if not row["parents"]]
    assert len(trained) == 2 * len(of_seeds) and {row["instruction"] for row in of_seeds} <= set(seeds)
    labelled = [row for row in of_seeds if row["instruction"] in truth]
    assert labelled and all(row["pseudo_label"] == truth[row["instruction"]] for row in labelled)


def test_labels_that_no_seed_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match="label_source is 'true_answer_or_vote', and no seed has a true answer"):
        SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **MIXED), tiny_seeds(20))
