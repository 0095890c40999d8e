"""Settings that users of TRL bring along, on the tiny model that really trains."""

from copy import deepcopy

import pyarrow.parquet as pq
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import TINY_MODEL, tiny_config, tiny_seeds, weights
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback

from serl_trl import SeRLTrainer, self_play_reward
from serl_trl.evaluation.model_index import training_results


def shortness(completions, **kwargs) -> list[float]:
    """Reward what is short: from 0 to 1."""
    return [1 / len(completion[0]["content"].split() or "1") for completion in completions]


def train(tmp_path, **settings) -> tuple[SeRLTrainer, list]:
    reward_funcs, peft_config = settings.pop("reward_funcs", None), settings.pop("peft_config", None)
    config = tiny_config(tmp_path, **settings)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), reward_funcs=reward_funcs, peft_config=peft_config)
    trainer.train()
    return trainer, weights(trainer.model)


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_several_reward_functions_are_weighted(tmp_path, estimator):
    settings = {"reward_funcs": [self_play_reward, shortness], "reward_weights": [1.0, 0.5], "max_steps": 1}
    trainer, _ = train(tmp_path, advantage_estimator=estimator, beta=0.0, **settings)
    logged = trainer.state.log_history[0]
    vote, short = (logged[f"rewards/{name}/mean"] for name in ("self_play_reward", "shortness"))
    assert 0.5 <= vote <= 0.75 and 0.0 < short < 1.0  # two or three of four agree in each group
    assert logged["reward"] == pytest.approx(vote + 0.5 * short)
    rewards = trainer._rewards[:, 0] + 0.5 * trainer._rewards[:, 1]
    assert rewards.mean().item() == pytest.approx(logged["reward"])


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path):
    _, plain = train(tmp_path / "plain", gradient_checkpointing=False)
    trainer, checkpointed = train(tmp_path / "checkpointed", gradient_checkpointing=True)
    assert trainer.model.is_gradient_checkpointing
    for first, second in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_gradient_checkpointing_with_lora(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer, _ = train(tmp_path, gradient_checkpointing=True, peft_config=lora)
    moved = [name for name, weight in trainer.model.named_parameters() if "lora_B" in name and weight.abs().sum() > 0]
    assert len(moved) == 4  # of two layers


@pytest.fixture
def fresh_accelerator():
    """Let the next trainer set the precision: accelerate keeps that of a process's first one."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def test_bf16_computes_in_bfloat16_and_keeps_the_weights_in_float32(tmp_path, fresh_accelerator):
    before = AutoModelForCausalLM.from_pretrained(TINY_MODEL)
    trainer, after = train(tmp_path, bf16=True)
    assert trainer.accelerator.mixed_precision == "bf16" and {weight.dtype for weight in after} == {torch.float32}
    assert all(not torch.equal(old, new) for old, new in zip(before.parameters(), after, strict=True))
    before.load_state_dict(trainer.model.state_dict())
    inputs = torch.arange(8)[None]
    exact, rounded = before(inputs).logits, trainer.model(inputs).logits  # of the same weights
    assert 1e-4 < (exact - rounded).abs().max() < 0.1


def test_a_callback_may_stop_a_run_before_its_first_step(tmp_path):
    class Stop(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            control.should_training_stop = True

    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, max_steps=4), tiny_seeds(), callbacks=[Stop()])
    trainer.train()
    assert trainer.state.global_step < 2


def test_predict_takes_nothing_from_training(tmp_path):
    evaluation = Dataset.from_dict({"question": ["what is 2 plus 3 ?"], "answer": ["5"]})
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds(), eval_dataset=evaluation)
    with pytest.raises(ValueError, match="SeRLTrainer makes no predictions. Use evaluate"):
        trainer.predict(trainer.eval_dataset)
    assert trainer.loader.batch_index == 0


def test_a_second_call_trains_as_many_instructions_again(tmp_path):
    config = tiny_config(tmp_path, max_steps=-1, instructions_per_iteration=4)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    trainer.train()
    after_first = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step > 0
    assert any(not torch.equal(old, new) for old, new in zip(after_first, weights(trainer.model), strict=True))


def test_a_copy_of_the_settings_keeps_the_token(tmp_path):
    config = tiny_config(tmp_path, hub_token="hf_mine")
    assert deepcopy(config).hub_token == "hf_mine" and deepcopy(config) == config


def test_the_best_model_is_that_of_pass_at_1(tmp_path):
    config = tiny_config(tmp_path, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps")
    assert (config.metric_for_best_model, config.greater_is_better) == ("pass@1", True)


def test_evaluation_takes_what_trainer_keeps(tmp_path, monkeypatch):
    questions = {"question": ["what is 2 plus 3 ?", "what is 9 minus 4 ?"], "answer": ["5", "5"]}
    evaluation = {"a": Dataset.from_dict(questions), "b": Dataset.from_dict(questions)}
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds(), eval_dataset=evaluation)
    assert set(trainer.eval_dataset["a"].column_names) == {"instruction", "answer", "level"}
    assert trainer.evaluate("b").keys() >= {"eval_pass@1", "eval_maj@4"}  # by its name
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'zzz' is no file here"):
        trainer.evaluate("zzz")
    assert trainer.evaluate(trainer.eval_dataset["a"].select([1]))["eval_pass@1"] >= 0.0
    trainer.eval_dataset = Dataset.from_dict(questions)  # set by hand
    own = trainer.evaluate()
    assert "eval_pass@1" in own
    # What is handed over gets the prompt of training, too, and draws alike.
    assert trainer.evaluate(Dataset.from_dict(questions)) == trainer.evaluate(trainer.eval_dataset.to_list()) == own


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_plus_plus"])
def test_the_table_of_completions_has_the_estimators_advantages(tmp_path, estimator):
    trainer, _ = train(tmp_path, advantage_estimator=estimator, log_completions=True, beta=0.0, max_steps=1)
    (path,) = (tmp_path / "completions").glob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    rewards = torch.tensor([row["self_play_reward"] for row in rows])
    logged = torch.tensor([row["advantage"] for row in rows])
    centered = rewards.view(-1, 4) - rewards.view(-1, 4).mean(dim=1, keepdim=True)
    if estimator == "rloo":
        torch.testing.assert_close(logged, (centered * 4 / 3).flatten())
    elif estimator == "grpo":
        torch.testing.assert_close(logged, (centered / (centered.std(dim=1, keepdim=True) + 1e-4)).flatten())
    else:  # whitened over all tokens: two values, of both rewards
        assert len({round(value, 4) for value in logged.tolist()}) == 2
        assert (logged > 0).equal(rewards > 0)


def test_an_accuracy_from_before_the_training_is_not_in_the_card(tmp_path):
    evaluation = Dataset.from_dict({"question": ["what is 2 plus 3 ?"], "answer": ["5"]})
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, eval_on_start=True), tiny_seeds(), evaluation)
    trainer.train()
    assert training_results(trainer) == []
    trainer.evaluate()
    assert {result["details"]["step"] for result in training_results(trainer)} == {3}


def test_another_measurement_does_not_stand_for_the_scheduled_one(tmp_path):
    evaluation = Dataset.from_dict({"question": ["what is 2 plus 3 ?"], "answer": ["5"]})

    class MeasureOther(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trainer.evaluate(evaluation, metric_key_prefix="other")

    config = tiny_config(tmp_path, eval_on_start=True, max_steps=1)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), evaluation, callbacks=[MeasureOther()])
    trainer.train()
    logged = [name for entry in trainer.state.log_history for name in entry if name.endswith("_pass@1")]
    assert logged == ["other_pass@1", "eval_pass@1"]
