"""Several iterations in one command: each from the last one's model, with a fresh reference and a fresh pool."""

from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds, weights
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from serl_trl import SeRLTrainer
from serl_trl.training.iterations import resolve_start, resume_point


SETTINGS = {"num_self_play_iterations": 3, "max_steps": 2, "beta": 0.1, "save_strategy": "steps", "save_steps": 1}


class Interrupted(Exception):
    pass


def train(output_dir, resume=None, stop_at=None, **changes) -> SeRLTrainer:
    """Train; with `stop_at`, an (iteration, batch) at whose making it is interrupted."""
    peft_config = changes.pop("peft_config", None)
    config = tiny_config(output_dir, **SETTINGS | changes)
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), peft_config=peft_config)
    generate = trainer._generate_and_score_completions
    trainer.seen = []  # (iteration, batch, kept instructions, distance of the model from its reference) of each batch

    def recording_generate(inputs):
        loader = trainer.loader
        if (loader.iteration, loader.batch_index) == stop_at:
            raise Interrupted
        kept, batch = len(loader.pool.kept), loader.batch_index
        output = generate(inputs)
        mask = output["completion_mask"].bool()
        logps = trainer._token_logps(output)
        distance = (logps - output["ref_per_token_logps"])[mask].abs().max().item()
        trainer.seen.append((loader.iteration, batch, kept, distance))
        return output

    trainer._generate_and_score_completions = recording_generate
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("iterations")
    return output_dir, train(output_dir)


def test_each_iteration_starts_afresh_from_the_last_ones_model(whole_run):
    output_dir, trainer = whole_run
    assert [(iteration, batch) for iteration, batch, _, _ in trainer.seen] == [
        (iteration, batch) for iteration in (1, 2, 3) for batch in (0, 1)
    ]
    for _, batch, kept, distance in trainer.seen:
        assert (kept == 0) == (batch == 0)  # a fresh kept pool
        assert (distance < 1e-5) == (batch == 0)  # a fresh reference
    assert trainer.args.output_dir == str(output_dir)
    models = [AutoModelForCausalLM.from_pretrained(output_dir / f"_iteration-{number}") for number in (1, 2, 3)]
    firsts = [next(model.parameters()) for model in models]
    assert not torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[1], firsts[2])
    assert torch.equal(firsts[2], next(trainer.model.parameters()))
    logged = [entry["self_play/iteration"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == [3.0, 3.0]
    # Each iteration draws other few-shot examples.
    parents = [ledger_rows(output_dir / f"_iteration-{number}")[0]["parents"] for number in (1, 2, 3)]
    assert parents[0] != parents[1] != parents[2]


@pytest.mark.parametrize("stop_at", [(2, 1), (3, 0)])  # in an iteration after its checkpoint, and before its first
def test_an_interrupted_run_goes_on_in_its_iteration(whole_run, tmp_path, stop_at):
    with pytest.raises(Interrupted):
        train(tmp_path, stop_at=stop_at)
    resumed = train(tmp_path, resume=True)
    assert resumed.seen[0][:2] == stop_at
    assert (resumed.seen[0][3] < 1e-5) == (stop_at[1] == 0)
    if stop_at[1]:  # from a checkpoint, to the bit; without one the generators start anew
        pairs = zip(weights(whole_run[1].model), weights(resumed.model), strict=True)
        assert all(torch.equal(old, new) for old, new in pairs)
    with pytest.raises(ValueError, match="All 3 iterations .* Raise num_self_play_iterations"):
        train(tmp_path, resume=True)


def test_adapters_have_a_fresh_reference_too(tmp_path):
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer = train(tmp_path, peft_config=lora, num_self_play_iterations=2, learning_rate=1e-2)
    for _, batch, _, distance in trainer.seen:
        assert (distance < 1e-5) == (batch == 0)
    assert all(not p.requires_grad for name, p in trainer.model.named_parameters() if ".ref." in name)
    assert (tmp_path / "_iteration-1" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "_iteration-2" / "ref").exists()  # the reference is no part of the result


@pytest.mark.parametrize("stop_at", [(2, 1), (3, 0)])
def test_an_interrupted_run_goes_on_with_its_adapter(tmp_path, stop_at):
    lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    whole = train(tmp_path / "whole", peft_config=lora, learning_rate=1e-2)
    with pytest.raises(Interrupted):
        train(tmp_path / "run", peft_config=lora, learning_rate=1e-2, stop_at=stop_at)
    resumed = train(tmp_path / "run", resume=True, peft_config=lora, learning_rate=1e-2)
    assert resumed.seen[0][:2] == stop_at
    if stop_at[1]:  # from a checkpoint, to the bit
        assert resumed.seen[0][3] == pytest.approx(whole.seen[3][3], abs=1e-6)
        trained = dict(whole.model.named_parameters())
        assert all(torch.equal(trained[name], parameter) for name, parameter in resumed.model.named_parameters())
    else:  # from the model of the iteration before, whose adapter it starts with
        assert resumed.seen[0][3] < 1e-5
        saved = load_file(tmp_path / "run" / "_iteration-2" / "adapter_model.safetensors")
        moved = [tensor for name, tensor in saved.items() if "lora_B" in name and tensor.abs().max() > 0]
        assert len(moved) == sum("lora_B" in name for name in saved)


def test_pushing_the_run_leaves_its_instructions_at_home(whole_run):
    output_dir, _ = whole_run
    files = [str(path.relative_to(output_dir)) for path in output_dir.rglob("*") if path.is_file()]
    ignored = ["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]  # what Trainer.push_to_hub leaves out
    assert any("_ledger" in path for path in files)
    assert not [
        path for path in filter_repo_objects(files, ignore_patterns=ignored) if "ledger" in path or "serl" in path
    ]


def test_an_iteration_ends_with_its_instructions(tmp_path):
    changes = {"num_self_play_iterations": 2, "max_steps": -1, "instructions_per_iteration": 7, "beta": 0.0}
    config = tiny_config(tmp_path, **changes)
    assert config.max_steps == 4  # two groups a batch, if every instruction is trained on
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    trainer.train()
    for number in (1, 2):
        rows = ledger_rows(tmp_path / f"_iteration-{number}")
        admitted = [row for row in rows if row["verdict"] == "admitted"]
        assert len(admitted) >= 7
        last = max(row["step"] for row in rows)
        assert sum(row["step"] < last for row in admitted) < 7  # the batch before was not enough


def test_an_optimizer_of_ones_own_is_refused(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    config = tiny_config(tmp_path, **SETTINGS)
    with pytest.raises(ValueError, match="each iteration makes its own"):
        SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), optimizers=(optimizer, None))


def test_sharded_models_are_refused(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, **SETTINGS)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate launch sets it
    with pytest.raises(ValueError, match="Run one at a time: set model_name_or_path"):
        SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())


@pytest.mark.parametrize(
    ("folders", "resume", "message"),
    [
        (["_iteration-1"], None, "holds another run. Set resume_from_checkpoint to True"),
        (["checkpoint-1"], None, "holds another run"),  # of a run with one iteration
        ([], True, "no complete checkpoint"),
        (["_iteration-1"], "run/_iteration-1/checkpoint-1", "Set it to True"),
    ],
)
def test_bad_starts(tmp_path, folders, resume, message):
    config = tiny_config(tmp_path, **SETTINGS)
    for folder in folders:
        (tmp_path / folder).mkdir()
        for name in ("trainer_state.json", "serl_state.json") if "checkpoint" in folder else ():
            Path(tmp_path / folder / name).write_text("{}")
    assert resume_point(config) is None
    with pytest.raises(ValueError, match=message):
        resolve_start(resume, config)
