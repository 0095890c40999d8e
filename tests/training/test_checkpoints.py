"""A checkpoint is whole or it is not one: nothing goes on from a damaged one, or from another run's."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY_MODEL, TINY_TEMPLATE, ledger_rows, tiny_config, tiny_seeds, weights
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from serl_trl import SeRLTrainer
from serl_trl.training.beginning import resolve_checkpoint
from serl_trl.training.checkpoints import MANIFEST_FILE, find_damage, last_checkpoint, read_manifest, write_manifest


SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}


def make_trainer(output_dir, seeds=None, model=str(TINY_MODEL), peft_config=None, **changes) -> SeRLTrainer:
    config = tiny_config(output_dir, **SAVING | changes)
    return SeRLTrainer(model, config, tiny_seeds() if seeds is None else seeds, peft_config=peft_config)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return Path(trainer.args.output_dir), weights(trainer.model)


@pytest.fixture
def run(whole_run, tmp_path):
    """Return a copy of a run with the checkpoints 2 and 4."""
    shutil.copytree(whole_run[0], tmp_path / "run")
    return tmp_path / "run"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [(cut, "bytes instead of"), (flip, "has changed since it was saved"), (Path.unlink, "is missing")],
)
def test_each_damaged_file_is_named_and_its_checkpoint_passed_over(run, damage, said):
    names = sorted(path.name for path in (run / "checkpoint-4").iterdir() if path.name != MANIFEST_FILE)
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"} < set(names)
    assert {"serl_state.json", "serl_run.json", "serl_rollouts_0.tensors"} < set(names)
    # vLLM takes each of these for weights, and `serl-trl eval` of a checkpoint would fail.
    assert [name for name in names if name.endswith(".safetensors")] == ["model.safetensors"]
    args, whole = tiny_config(run, **SAVING), run / "checkpoint-4-whole"
    (run / "checkpoint-4").rename(whole)
    for name in names:
        shutil.copytree(whole, run / "checkpoint-4")
        damage(run / "checkpoint-4" / name)
        assert resolve_checkpoint(True, args) == str(run / "checkpoint-2")
        with pytest.raises(
            ValueError, match=f"in '.*checkpoint-4': {name} .*{said}.* The last one is .*checkpoint-2'"
        ):
            resolve_checkpoint(str(run / "checkpoint-4"), args)
        shutil.rmtree(run / "checkpoint-4")


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", '{"files": 3}', '{"files": {}}', '{"files": {"a": 1}}', "\0"]
)
def test_a_manifest_that_cannot_be_read_makes_no_checkpoint(run, content):
    manifest = run / "checkpoint-4" / MANIFEST_FILE
    manifest.unlink() if content is None else manifest.write_text(content)
    assert resolve_checkpoint("true", tiny_config(run, **SAVING)) == str(run / "checkpoint-2")


def test_a_manifest_lists_sub_folders(tmp_path):
    # As FSDP writes them.
    (tmp_path / "checkpoint-1" / "optimizer_0").mkdir(parents=True)
    (tmp_path / "checkpoint-1" / "optimizer_0" / "__0_0.distcp").write_bytes(b"shard")
    (tmp_path / "checkpoint-1" / "serl_state.json").write_text("{}")
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 1}')
    write_manifest(tmp_path / "checkpoint-1")
    assert list(read_manifest(tmp_path / "checkpoint-1"))[0] == "optimizer_0/__0_0.distcp"
    assert find_damage(tmp_path / "checkpoint-1") is None
    flip(tmp_path / "checkpoint-1" / "optimizer_0" / "__0_0.distcp")
    assert "optimizer_0/__0_0.distcp has changed" in find_damage(tmp_path / "checkpoint-1")


def test_a_run_goes_on_from_the_last_whole_checkpoint_to_the_same_end(whole_run, run, caplog):
    cut(run / "checkpoint-4" / "optimizer.pt")
    trainer = make_trainer(run)
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(*pair) for pair in zip(whole_run[1], weights(trainer.model), strict=True))
    assert ledger_rows(run) == ledger_rows(whole_run[0])
    # The damaged one is kept, and in nobody's way.
    aside = run / "_checkpoint-4-unfinished-1"
    assert f"goes on from {run}/checkpoint-2: checkpoint-4 is now {aside} (optimizer.pt has" in caplog.text
    assert aside.is_dir() and find_damage(run / "checkpoint-4") is None


def test_a_run_of_models_alone_is_not_begun_anew_when_it_is_to_go_on(run):
    with pytest.raises(ValueError, match="save_only_model is True: its checkpoints are models alone"):
        resolve_checkpoint(True, tiny_config(run, **SAVING, save_only_model=True))


def test_a_copy_under_another_number_is_passed_over(run):
    shutil.copytree(run / "checkpoint-2", run / "checkpoint-9")
    assert find_damage(run / "checkpoint-9") == "it was saved at step 2, under another name"
    assert resolve_checkpoint(True, tiny_config(run, **SAVING)) == str(run / "checkpoint-4")


def test_a_checkpoint_may_lie_on_another_disk(run, tmp_path):
    (run / "checkpoint-4").rename(tmp_path / "checkpoint-4")
    (run / "checkpoint-4").symlink_to(tmp_path / "checkpoint-4")
    assert resolve_checkpoint(True, tiny_config(run, **SAVING | {"max_steps": 6})) == str(run / "checkpoint-4")


def test_a_prolonged_run_whose_model_was_not_saved_goes_on_to_that(run):
    make_trainer(run, max_steps=4).save_state()  # of its first end
    make_trainer(run, max_steps=6).train(resume_from_checkpoint=True)  # killed before its model was saved
    resumed = make_trainer(run, max_steps=6)
    assert resumed.train(resume_from_checkpoint=True).global_step == 6


def test_a_run_without_its_ledger_is_refused_before_a_model_is_loaded(run):
    shutil.rmtree(run / "_ledger")
    with pytest.raises(ValueError, match="_ledger must hold the candidates 0 to"):
        resolve_checkpoint(True, tiny_config(run, **SAVING))


def test_a_trainer_does_not_train_a_second_run_over_its_checkpoints(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    with pytest.raises(ValueError, match="holds a run that is not finished"):
        trainer.train()


def test_without_a_whole_checkpoint_nothing_is_begun_anew(run):
    for step in (2, 4):
        (run / f"checkpoint-{step}" / "rng_state.pth").unlink()
    with pytest.raises(
        ValueError, match="No checkpoint in .* is whole: checkpoint-4, rng_state.pth is missing; checkp"
    ):
        resolve_checkpoint(True, tiny_config(run, **SAVING))


@pytest.mark.parametrize("resume", [None, True])  # by hand, and by a script that always resumes
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, caplog, resume):
    (tmp_path / "_ledger").mkdir()
    (tmp_path / "_ledger" / "batch-000007.parquet").write_text("of the killed run")
    (tmp_path / "checkpoint-2").mkdir()  # its save was cut off
    (tmp_path / "checkpoint-2" / "serl_state.json").write_text("{")
    trainer = make_trainer(tmp_path)
    assert (tmp_path / "_ledger" / "batch-000007.parquet").exists()  # nothing is moved before training begins
    trainer.train(resume_from_checkpoint=resume)
    assert (
        f"The run in {tmp_path} begins anew, since it had no checkpoint yet: checkpoint-2 is removed (its save was cut "
        f"off); the ledger is now {tmp_path}/_ledger-unfinished-1." in caplog.text
    )
    assert (tmp_path / "_ledger-unfinished-1" / "batch-000007.parquet").exists()
    assert not (tmp_path / "_ledger" / "batch-000007.parquet").exists() and ledger_rows(tmp_path)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_a_finished_run_is_not_begun_anew(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="no", max_steps=1)
    trainer.train()
    trainer.save_state()
    for resume in (None, True):
        with pytest.raises(ValueError, match="holds a finished run, and no checkpoint to go on from. Set output_dir"):
            make_trainer(tmp_path).train(resume_from_checkpoint=resume)


def test_going_back_puts_later_checkpoints_aside(run):
    make_trainer(run, max_steps=3).train(resume_from_checkpoint=str(run / "checkpoint-2"))
    assert (run / "_checkpoint-4-unfinished-1").is_dir() and last_checkpoint(run) == str(run / "checkpoint-3")


def test_older_checkpoints_go_only_after_the_manifest_is_written(tmp_path, monkeypatch):
    seen = []

    def recording(checkpoint):
        seen.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))
        write_manifest(checkpoint)

    monkeypatch.setattr("serl_trl.training.saving.write_manifest", recording)
    make_trainer(tmp_path, save_steps=1, save_total_limit=1, max_steps=3).train()
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    settings = torch.load(tmp_path / "checkpoint-3" / "training_args.bin", weights_only=False)
    assert settings.max_steps == 3


def other_model(folder: Path, **changes) -> str:
    """Return the folder of a model like the tiny one but for some changes of its configuration."""
    shutil.copytree(TINY_MODEL, folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **changes)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": tiny_seeds(49)}, r"seeds was 50 texts .* and is 49 texts"),
        ({"seeds": tiny_seeds().shuffle(seed=1)}, "seeds was 50 texts"),  # the draws go by their order
        ({"model": {}}, "model was weights .* and is weights"),  # the reference would be another
        ({"model": {"num_hidden_layers": 1}}, "num_hidden_layers 2, .* and is .*num_hidden_layers 1"),
        ({"peft_config": LoraConfig(r=4, task_type="CAUSAL_LM")}, "adapter was none and is r 4"),
        ({"prompt_template": "another"}, "prompt_template was one with the content"),
        ({"answer_format": "choice"}, "answer_format was math and is choice"),
        ({"instruction_source": "seeds"}, "instruction_source was self_instruction and is seeds"),
        ({"optim": "sgd"}, "optim was adamw_torch and is sgd"),
    ],
)
def test_another_run_does_not_go_on_from_a_checkpoint(run, tmp_path, changes, said):
    changes = dict(changes)
    if "model" in changes:
        changes["model"] = other_model(tmp_path / "another", **changes["model"])
    if "prompt_template" in changes:
        template = yaml.safe_load(TINY_TEMPLATE.read_text()) | {"answer_request": "!"}
        (tmp_path / "another.yaml").write_text(yaml.safe_dump(template))
        changes["prompt_template"] = str(tmp_path / "another.yaml")
    trainer = make_trainer(run, max_steps=6, **changes)
    with pytest.raises(ValueError, match=f"checkpoint-4' is of another run: .*{said}.* Set it back"):
        trainer.train(resume_from_checkpoint=True)


def test_weights_that_are_saved_otherwise_are_refused_before_the_model_is_loaded(run, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match="sharding was none and is FSDP.* Set it back"):
        make_trainer(run, max_steps=6, resume_from_checkpoint=True)


def test_a_run_with_its_model_template_and_seeds_elsewhere_is_the_same(run, tmp_path, caplog):
    shutil.copy(TINY_TEMPLATE, tmp_path / "moved.yaml")
    shutil.copytree(TINY_MODEL, tmp_path / "moved")
    seeds, template = tiny_seeds()["instruction"], str(tmp_path / "moved.yaml")
    make_trainer(run, list(seeds), str(tmp_path / "moved"), prompt_template=template).train(
        resume_from_checkpoint=True
    )
    assert "other settings" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "max_steps was 4 and is 6"),
        ({"num_generations": 8}, "num_generations was 4 and is 8 .surplus and buffered rollouts are dropped"),
        ({"seed": 7}, "seed was the default and is 7 .draws from here on are by the new one"),
        ({"weight_decay": 0.1}, "weight_decay was the default and is 0.1 .the optimizer keeps"),
        ({"beta": 0.1, "advantage_estimator": "rloo"}, "advantage_estimator was the default and is rloo; beta was"),
        ({"loss_type": "grpo", "max_rounds": 20}, "loss_type was the default and is grpo"),
    ],
)
def test_what_may_change_on_the_way_is_said(run, caplog, changes, said):
    # Out of the middle of a cycle, whose rollouts were made for other settings.
    changes = {"max_steps": 6, "num_iterations": 1} | changes
    with caplog.at_level(logging.WARNING):
        make_trainer(run, **changes).train(resume_from_checkpoint=True)
    warnings = [record.message for record in caplog.records if "was saved with other settings" in record.message]
    assert len(warnings) == 1 and said.replace(" .", " (") in warnings[0]


def test_a_learning_rate_of_0_can_be_gone_on_from(run, tmp_path):
    make_trainer(tmp_path / "zero", learning_rate=0.0, max_steps=2).train()
    trainer = make_trainer(tmp_path / "zero", learning_rate=1e-3, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 1e-3


def test_another_learning_rate_holds_from_the_next_step_on(run):
    trainer = make_trainer(run, learning_rate=2e-3, max_steps=8)
    trainer.train(resume_from_checkpoint=True)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[:4] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert rates[5:] == pytest.approx([2e-3 * (8 - step) / 8 for step in (5, 6, 7)])
