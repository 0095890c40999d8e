"""A base model, whose tokenizer has no chat template, trains on prompts that are plain text."""

import pytest
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds
from transformers import AutoTokenizer

from serl_trl import SeRLTrainer, self_play_reward


TEMPLATE = """
system: ""
user: "<user> questions <assistant>"
answer_request: ""
plain_answer: "<user> {instruction} <assistant>"
"""


def tokenizer_of_a_base_model():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokenizer.chat_template = None
    return tokenizer


def test_a_base_model_trains_on_plain_text(tmp_path):
    texts = []

    def no_reward(prompts, completions, **kwargs):
        texts.extend([*prompts, *completions])
        return [0.0] * len(prompts)

    (tmp_path / "template.yaml").write_text(TEMPLATE, encoding="utf-8")
    config = tiny_config(tmp_path / "run", prompt_template=str(tmp_path / "template.yaml"), max_steps=2)
    rewards, tokenizer = [self_play_reward, no_reward], tokenizer_of_a_base_model()
    trainer = SeRLTrainer(
        str(TINY_MODEL), config, tiny_seeds(), reward_funcs=rewards, processing_class=tokenizer, eval_dataset=None
    )
    trainer.train()
    trained = [row for row in ledger_rows(tmp_path / "run") if row["fate"] == "trained"]
    assert len(trained) == 4 and all(isinstance(text, str) for text in texts)
    assert {text for text in texts if "<user>" in text} == {f"<user> {r['instruction']} <assistant>" for r in trained}


def test_without_plain_prompts_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no chat template. Use an instruct model, .* a `plain_answer`"):
        SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds(), processing_class=tokenizer_of_a_base_model())
