"""The trainer on the tiny model, which really samples, votes and learns, with transformers generation."""

import json
import math
import os
import shutil

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds, weights
from datasets import Dataset
from make_tiny_model import PAIRS, pass_at_1, question
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from serl_trl import SeRLTrainer
from serl_trl.engine.log_probabilities import token_logps
from serl_trl.engine.sampler import TrainerSampler
from serl_trl.engine.sampling_settings import PresencePenalty, sampling_settings
from serl_trl.self_play.carriers import Completion, SamplingSettings
from serl_trl.self_play.prompt import few_shot_prompt
from serl_trl.training.surplus import old_logps


def checksum(model) -> float:
    return sum(parameter.double().sum().item() for parameter in model.parameters())


class Recorder(TrainerCallback):
    """Notes the weights after each optimizer step, by step."""

    def __init__(self):
        self.weights = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = checksum(model)


def test_training_moves_the_parameters_and_logs_the_funnel(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds())
    before = weights(trainer.model)
    trainer.train()
    assert all(not torch.equal(old, new) for old, new in zip(before, weights(trainer.model), strict=True))
    first = trainer.state.log_history[0]
    assert first["self_instruction/candidates"] >= first["self_instruction/admitted"] > 0
    assert first["reward"] == first["rewards/self_play_reward/mean"]
    for key in ("self_rewarding/pass_rate", "self_rewarding/in_band_ratio", "self_rewarding/unparsed_ratio"):
        assert 0.0 <= first[key] <= 1.0
    assert first["pool/seeds"] == 50 and first["pool/kept"] == 2
    assert {"time/self_instruction", "time/sampling", "time/vote"} <= set(first)


@pytest.mark.parametrize(
    "schedule",
    [
        # one optimizer step for each generation batch
        {"gradient_accumulation_steps": 2},
        # two optimizer steps for each generation batch, each batch used twice
        {"gradient_accumulation_steps": 1, "generation_batch_size": 8, "num_iterations": 2, "max_steps": 6},
        # an optimizer step that spans two generation batches: both are sampled before it
        {"gradient_accumulation_steps": 4, "generation_batch_size": 8, "max_steps": 2},
    ],
)
def test_rollouts_come_from_the_present_weights_and_are_sampled_once(tmp_path, schedule):
    recorder = Recorder()
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, **schedule), tiny_seeds(), callbacks=[recorder])
    generated, handed_over, calls, strays = [], [], [], []
    model, generate, sample = trainer.model, trainer.model.generate, trainer.loader.sampler.sample
    score = type(trainer)._generate_and_score_completions

    def recording_generate(*args, **kwargs):
        output = generate(*args, **kwargs)
        if not calls or calls[-1] is not None:
            strays.append(trainer.state.global_step)
        generated.append((trainer.state.global_step, checksum(model)))
        return output

    def recording_sample(*args, **kwargs):
        calls.append(None)  # open: what is generated now is the loader's
        completions = sample(*args, **kwargs)
        calls[-1] = len(completions)
        return completions

    def recording_score(inputs):
        handed_over.append(score(trainer, inputs))
        return handed_over[-1]

    model.generate, trainer.loader.sampler.sample = recording_generate, recording_sample
    trainer._generate_and_score_completions = recording_score
    trainer.train()
    del model.generate
    # Every call of the engine used the weights after the last optimizer step ...
    assert generated and all(recorder.weights[step] == total for step, total in generated)
    # ... and was one of the loader's: TRL sampled nothing of its own.
    assert calls and not strays
    cycle = trainer.args.steps_per_generation * trainer.num_iterations
    steps = trainer.args.max_steps * trainer.args.gradient_accumulation_steps
    assert len(handed_over) == math.ceil(steps / cycle)
    # What is trained is what was voted on.
    trained = trainer.loader.batch_index * trainer.args.generation_batch_size
    rows = [row for row in ledger_rows(tmp_path) if row["fate"] == "trained"]
    assert sum(len(row["rewards"]) for row in rows) == trained


def test_trained_tokens_rewards_and_votes_belong_together(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, max_steps=1), tiny_seeds())
    batches, outputs = [], []
    hand_over, score = trainer.loader.hand_over, type(trainer)._generate_and_score_completions
    trainer.loader.hand_over = lambda *args: batches.append(hand_over(*args)) or batches[-1]
    trainer._generate_and_score_completions = lambda inputs: outputs.append(score(trainer, inputs)) or outputs[-1]
    trainer.train()
    assert len(batches) == 1
    rows = [
        (list(group.prompt_ids), list(completion.token_ids), reward)
        for group in batches[0].groups
        for completion, reward in zip(group.completions, group.vote.rewards, strict=True)
    ]
    output = outputs[0]
    for index, (prompt_ids, token_ids, _) in enumerate(rows):
        assert output["prompt_ids"][index][output["prompt_mask"][index].bool()].tolist() == prompt_ids
        assert output["completion_ids"][index][output["completion_mask"][index].bool()].tolist() == token_ids
    rewards = torch.tensor([reward for *_, reward in rows]).view(-1, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(output["advantages"].view(-1, 4), expected)


def test_surplus_gets_an_importance_weight(tmp_path):
    config = tiny_config(tmp_path, max_steps=8, learning_rate=3e-3, min_pass_rate=0.4, max_pass_rate=1.0)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    outputs, surplus = [], []
    score, produce = type(trainer)._generate_and_score_completions, trainer.loader.hand_over

    def recording_hand_over(*args):
        batch = produce(*args)
        surplus.append([completion for group in batch.groups if group.surplus for completion in group.completions])
        return batch

    trainer.loader.hand_over = recording_hand_over
    trainer._generate_and_score_completions = lambda inputs: outputs.append(score(trainer, inputs)) or outputs[-1]
    trainer.train()
    checked = 0
    for output, completions in zip(outputs, surplus, strict=True):
        assert ("old_per_token_logps" in output) == bool(completions)
        for row, completion in enumerate(completions):  # the surplus comes first
            sampled = torch.tensor(completion.logprobs)
            assert (sampled <= 0).all() and len(sampled) == len(completion.token_ids)
            torch.testing.assert_close(output["old_per_token_logps"][row][: len(sampled)], sampled)
            checked += 1
    assert checked > 0
    assert "_get_per_token_logps_and_entropies" not in vars(trainer)  # what the class has was changed for a call only


def test_the_loss_gives_fresh_groups_a_ratio_of_one_beside_surplus(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, max_steps=1), tiny_seeds())
    outputs, score = [], type(trainer)._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: outputs.append(score(trainer, inputs)) or outputs[-1]
    trainer.train()
    present = token_logps(trainer, outputs[0])
    sampled = torch.full_like(present, torch.nan)
    sampled[:4] = present[:4] - 0.1  # the first group is surplus
    old = old_logps(trainer, outputs[0], sampled)
    assert old[4:].isnan().all()
    left, filled = outputs[0] | {"old_per_token_logps": old}, outputs[0] | {"old_per_token_logps": present.clone()}
    filled["old_per_token_logps"][:4] -= 0.1
    losses = [trainer.compute_loss(trainer.model, inputs) for inputs in (left, filled)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(left["old_per_token_logps"], filled["old_per_token_logps"])


class Stubborn(TrainerSampler):
    """A sampler whose completions all agree on 5, whatever is asked."""

    def sample(self, prompt_ids, num_completions, settings=None):
        self.prompts = self.trainer.processing_class.batch_decode(prompt_ids)
        ids = tuple(self.trainer.processing_class("the answer is 5 <end>")["input_ids"])
        return [[Completion("the answer is 5", ids, False)] * num_completions for _ in prompt_ids]


def test_evaluation_is_by_true_answers_with_the_prompt_of_training(tmp_path):
    questions = ["what is 2 plus 3 ?", "what is 9 minus 4 ?", "what is 1 plus 1 ?", "what is 2 plus 2 ?"]
    evaluation = Dataset.from_dict({"question": questions, "answer": ["5", "5", "2", "4"]})
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds(), eval_dataset=evaluation)
    trainer.loader.sampler = sampler = Stubborn(trainer)
    metrics = trainer.evaluate()
    # The majority is sure of every answer, and half of them are right.
    assert metrics["eval_pass@1"] == metrics["eval_pass@4"] == metrics["eval_maj@4"] == 0.5
    assert sampler.prompts[0] == "<user> what is 2 plus 3 ? <assistant>"
    assert trainer.evaluate({"wrong": evaluation.select([2, 3])})["eval_wrong_pass@1"] == 0.0
    with pytest.raises(ValueError, match="has no column 'answer'"):
        unlabelled = Dataset.from_dict({"question": questions})
        SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path / "other"), tiny_seeds(), eval_dataset=unlabelled)
    with pytest.raises(ValueError, match="There is nothing to evaluate on"):
        SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path / "other"), tiny_seeds()).evaluate()


def test_the_trainer_leaves_what_it_is_given(tmp_path):
    config = tiny_config(tmp_path, hub_token="hf_secret")
    before, environment = dict(vars(config)), dict(os.environ)
    evaluation = Dataset.from_dict({"question": ["what is 2 plus 3 ?"], "answer": ["5"]})
    SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), eval_dataset=evaluation)
    changed = {name for name in before if before[name] != getattr(config, name)}
    assert changed <= {"deepspeed_plugin", "_setup_devices", "distributed_state", "accelerator_config"}, changed
    assert {name for name in os.environ if environment.get(name) != os.environ[name]} <= {"TRAINER_SIGNATURE"}


def test_train_can_be_called_again(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, max_steps=2), tiny_seeds())
    trainer.train()
    after_first = weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.loader.batch_index == 4
    assert any(not torch.equal(old, new) for old, new in zip(after_first, weights(trainer.model), strict=True))


def test_the_seed_determines_the_run(tmp_path):
    totals = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path / name, max_steps=2, seed=seed), tiny_seeds())
        trainer.train()
        totals.append(checksum(trainer.model))
    assert totals[0] == totals[1] != totals[2]


def test_lora_trains_the_adapter_alone(tmp_path):
    from peft import LoraConfig, PeftModel

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds(), peft_config=lora)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) == ("lora_" not in name)
    trainer.save_model(str(tmp_path / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(TINY_MODEL)
    saved = PeftModel.from_pretrained(base, tmp_path / "adapter").state_dict()
    assert any("lora_B" in name and value.abs().sum() > 0 for name, value in saved.items())


def test_the_model_card_names_method_and_paper(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds())
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "trained with SeRL" in card and "2505.20347" in card and "- serl" in card and "fang2025serl" in card


def test_presence_penalty_counts_generated_tokens_once():
    processor = PresencePenalty(2.0, prompt_length=2)
    scores = processor(torch.tensor([[3, 3, 1, 1, 0]]), torch.zeros(1, 5))
    assert scores.tolist() == [[-2.0, -2.0, 0.0, 0.0, 0.0]]


def test_instruction_sampling_reaches_generation_and_is_undone(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds())
    examples = ["what is 2 plus 3 ?", "what is 7 minus 1 ?"]
    (prompt,) = trainer.loader.sampler.tokenize([few_shot_prompt(examples, trainer.loader.template)])
    before, generate = trainer.generation_config, trainer.model.generate
    cold = SamplingSettings(temperature=1e-4, top_p=1.0, presence_penalty=0.0, max_tokens=20)
    penalized = SamplingSettings(temperature=1e-4, top_p=1.0, presence_penalty=2.0, max_tokens=20)
    ((plain, again),) = trainer.loader.sampler.sample([prompt], 2, cold)
    assert plain.text == again.text and len(plain.token_ids) == 20 and plain.truncated
    ((other,),) = trainer.loader.sampler.sample([prompt], 1, penalized)
    assert len(set(other.token_ids)) > len(set(plain.token_ids))
    assert trainer.generation_config is before and trainer.model.generate == generate
    with pytest.raises(KeyError), sampling_settings(trainer, penalized):
        raise KeyError  # settings are undone after an error too
    assert trainer.generation_config is before and trainer.model.generate == generate


TRUE_LABELS = {"instruction_source": "seeds", "label_source": "true_answer"}


def test_training_on_true_answers_makes_them_likelier(tmp_path):
    seeds = [question(*pair) for pair in PAIRS[:40]]
    truth = [str(first + second if word == "plus" else first - second) for first, word, second in PAIRS[:40]]
    settings = {"max_steps": 25, "learning_rate": 6e-5, "num_generations": 16, "per_device_train_batch_size": 128}
    config = tiny_config(tmp_path, **TRUE_LABELS | settings, gradient_accumulation_steps=1, max_pass_rate=1.0)
    rows = Dataset.from_dict({"instruction": seeds, "answer": truth})
    trainer = SeRLTrainer(str(TINY_MODEL), config, rows)
    before = pass_at_1(trainer.model, trainer.processing_class, PAIRS[:40])
    trainer.train()
    assert pass_at_1(trainer.model, trainer.processing_class, PAIRS[:40]) > before + 0.03
    assert {row["instruction"] for row in ledger_rows(tmp_path)} == set(seeds)


def folder_with_broken_weights(tmp_path, **config_changes) -> str:
    """A model that can't be loaded: whatever is refused for it was refused before loading."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_MODEL, folder)
    save_file({"model.embed_tokens.weight": torch.zeros(1)}, folder / "model.safetensors")  # of another size
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | config_changes))
    return str(folder)


@pytest.mark.parametrize(
    ("seeds", "settings", "model_settings", "message"),
    [
        (tiny_seeds(7), {}, {}, "There are 7 seeds for num_few_shot_examples=8"),
        (tiny_seeds(), {"max_completion_length": 600}, {}, "max_completion_length is 600"),
        (tiny_seeds(), {"max_instruction_length": 500}, {}, "max_instruction_length is 500"),
        # 8 sound seeds and one that would end the user's turn: the sound ones are used, 9 would be too many
        (
            Dataset.from_dict({"prompt": [*tiny_seeds(8)["instruction"], "what is <end> 2 plus 3 ?"]}),
            {"num_few_shot_examples": 9},
            {},
            "There are 8 seeds",
        ),
        (tiny_seeds(), TRUE_LABELS, {}, "the seed 'what is .*' has none"),
        (
            Dataset.from_dict({"prompt": ["what is 2 plus 3 ?"], "answer": [" "]}),
            TRUE_LABELS,
            {},
            "has none. Give each row one",
        ),
        (tiny_seeds(), {"use_vllm": True}, {"quantization_config": {"quant_method": "bitsandbytes"}}, "use_vllm to F"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_loaded(tmp_path, seeds, settings, model_settings, message):
    if settings.get("use_vllm"):
        pytest.importorskip("vllm")
    output_dir = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        SeRLTrainer(folder_with_broken_weights(tmp_path, **model_settings), tiny_config(output_dir, **settings), seeds)
    assert not output_dir.exists()


def test_a_model_without_a_system_role_has_no_system_prompt_of_answers(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    template = tmp_path / "template.yaml"
    template.write_text("system: x\nuser: questions\nanswer_request: ''\nanswer_system: y", encoding="utf-8")
    config = tiny_config(tmp_path / "run", prompt_template=str(template))
    with pytest.raises(ValueError, match="refuses the prompt .no system role.*a file without `answer_system`"):
        SeRLTrainer(folder_with_broken_weights(tmp_path), config, tiny_seeds(), processing_class=tokenizer)


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="The model '/no/such/model' is neither a folder here nor"):
        SeRLTrainer("/no/such/model", tiny_config(tmp_path / "run"), tiny_seeds())


def test_a_sharded_base_in_16_bits_is_refused_with_vllm(tmp_path, monkeypatch):
    pytest.importorskip("vllm")
    from peft import LoraConfig

    config = tiny_config(tmp_path / "run", use_vllm=True, model_init_kwargs={"dtype": "bfloat16"})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` sets it
    with pytest.raises(ValueError, match="loaded in bfloat16 and sharded, and merging for vLLM would change it"):
        SeRLTrainer(folder_with_broken_weights(tmp_path), config, tiny_seeds(), peft_config=LoraConfig())


def test_an_adapter_that_vllm_cannot_hold_is_refused(tmp_path):
    pytest.importorskip("vllm")
    from peft import LoraConfig

    config, lora = tiny_config(tmp_path / "run", use_vllm=True), LoraConfig(target_modules=["embed_tokens"])
    with pytest.raises(ValueError, match="ties together: vLLM has one tensor for both"):
        SeRLTrainer(folder_with_broken_weights(tmp_path), config, tiny_seeds(), peft_config=lora)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        SeRLTrainer(
            folder_with_broken_weights(tmp_path),
            tiny_config(tmp_path / "run"),
            tiny_seeds(),
            processing_class=tokenizer,
        )


def test_the_hubs_token_is_in_no_saved_file(tmp_path):
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path, hub_token="hf_topsecret"), tiny_seeds())
    trainer.save_model()
    assert not any(b"topsecret" in path.read_bytes() for path in tmp_path.iterdir())
