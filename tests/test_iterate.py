"""Self-play iterations: one command run several times, each time from the last iteration's model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, TINY_MODEL, TINY_SETTINGS, ledger_rows, tiny_config, tiny_seeds
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl.generation.vllm_generation import VLLMGeneration

from serl_trl import SeRLTrainer
from serl_trl.engine.adapters import merged_parameters
from serl_trl.iterate import iterate, read_settings


STUB = """
import json, sys, time
from pathlib import Path
def option(name):
    return sys.argv[len(sys.argv) - 1 - sys.argv[::-1].index(name) + 1] if name in sys.argv else None
folder = Path(option("--output_dir"))
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "starts.jsonl", "a") as file:
    names = ("--model_name_or_path", "--seed", "--resume_from_checkpoint")
    file.write(json.dumps([option(name) for name in names]) + "\\n")
behaviour = Path(option("--behaviour")).read_text() if option("--behaviour") else ""
if folder.name in behaviour and "dry" not in behaviour:
    if "checkpoint" in behaviour:
        (folder / "checkpoint-5").mkdir()
        for name in ("trainer_state.json", "serl_state.json", "serl_manifest.json"):
            (folder / "checkpoint-5" / name).write_text("{}")
    if "sleep" in behaviour:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            with open(folder / "interrupts", "a") as file:
                file.write("x")
            time.sleep(0.5)  # a second interrupt would be seen
            sys.exit(130)
    sys.exit(7)
log = [{"reward": 0.25, "self_rewarding/pass_rate": 0.5}, {"reward": 0.75, "self_rewarding/pass_rate": 0.6}]
if folder.name == "iteration-1":
    log.append({"eval_pass@1": 0.125})
(folder / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": log}))
if behaviour.startswith("dry") and folder.name in behaviour:
    sys.exit(3)
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Return a command that writes what a run writes; the file `behaviour` can say in which iteration it fails."""
    monkeypatch.chdir(tmp_path)
    Path("stub.py").write_text(STUB)
    Path("behaviour").write_text("")
    return [
        sys.executable,
        "stub.py",
        "--model_name_or_path",
        "base",
        "--output_dir",
        "run",
        "--behaviour",
        "behaviour",
    ]


def starts(number: int) -> list:
    """Return (model, seed, resume) of each start of an iteration."""
    return [json.loads(line) for line in Path(f"run/iteration-{number}/starts.jsonl").read_text().splitlines()]


def test_each_iteration_starts_from_the_last_ones_model_with_a_seed_of_its_own(stub, capfd):
    assert iterate(3, stub) == 0
    assert starts(1) == [["base", "42", None]]
    assert starts(2) == [["run/iteration-1", "43", None]]
    assert starts(3) == [["run/iteration-2", "44", None]]
    summary = Path("run/summary.md").read_text()
    assert "| 1 | 2 | 0.250 | 0.750 | 0.550 | 0.125 | run/iteration-1 |" in summary
    assert "| 3 | 2 | 0.250 | 0.750 | 0.550 | - | run/iteration-3 |" in summary
    printed = capfd.readouterr().out
    assert summary in printed and "The final model is in run/iteration-3." in printed
    # Again: nothing is left. With more iterations: only these are run.
    assert iterate(3, stub) == 0
    assert "run/iteration-1 is finished." in capfd.readouterr().out and len(starts(3)) == 1
    assert iterate(4, stub) == 0 and starts(4) == [["run/iteration-3", "45", None]]


def test_a_failing_iteration_ends_the_run_and_the_same_command_goes_on(stub, capfd):
    Path("behaviour").write_text("iteration-2 checkpoint")
    assert iterate(3, stub) == 7
    assert "error: run/iteration-2 ended with exit code 7. Run the same command" in capfd.readouterr().err
    assert not Path("run/iteration-3").exists() and not Path("run/summary.md").exists()
    Path("behaviour").write_text("")
    assert iterate(3, stub) == 0
    assert "run/iteration-2 goes on from run/iteration-2/checkpoint-5." in capfd.readouterr().out
    assert starts(2) == [["run/iteration-1", "43", None], ["run/iteration-1", "43", "true"]]
    assert len(starts(1)) == len(starts(3)) == 1


def test_a_dry_iteration_is_gone_on_from(stub, capfd):
    Path("behaviour").write_text("dry iteration-2")
    assert iterate(3, stub) == 0
    assert "run/iteration-2 ended with exit code 3 after its model was saved." in capfd.readouterr().out
    assert starts(3) == [["run/iteration-2", "44", None]]


def test_an_iteration_that_was_taken_away_ends_the_run(stub):
    assert iterate(3, stub) == 0
    Path("run/iteration-2").rename("elsewhere")
    with pytest.raises(
        ValueError, match="run/iteration-3 is finished and run/iteration-2, .* is not. Bring that folder back"
    ):
        iterate(3, stub)


def test_a_command_that_trains_nothing_ends_the_run(stub):
    with pytest.raises(ValueError, match="left no run in nothing/iteration-1. Is it one that trains"):
        iterate(2, [sys.executable, "-c", "", "--output_dir", "nothing"])


def test_what_an_iteration_without_a_checkpoint_left_is_kept_beside_it(stub, capfd):
    Path("behaviour").write_text("iteration-2")
    assert [iterate(2, stub), iterate(2, stub)] == [7, 7]
    Path("run/iteration-2/trainer_state.json").write_text('{"log_hist')  # cut off while it was written
    Path("behaviour").write_text("")
    assert iterate(2, stub) == 0
    assert "What it wrote is now in run/iteration-2-unfinished-2." in capfd.readouterr().out
    assert starts(2) == [["run/iteration-1", "43", None]]
    assert all(Path(f"run/iteration-2-unfinished-{count}/starts.jsonl").exists() for count in (1, 2))


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [
        (signal.SIGINT, True, 130),  # Ctrl-C in a terminal: to the whole process group
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
    ],
)
def test_signals_reach_the_child_once(stub, number, to_group, code):
    Path("behaviour").write_text("iteration-1 sleep")
    driver = [sys.executable, "-c", "from serl_trl.cli import main; main()", "iterate", "--iterations", "2", "--"]
    process = subprocess.Popen([*driver, *stub], stdout=-1, stderr=-1, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not Path("run/iteration-1/starts.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    (os.killpg if to_group else os.kill)(process.pid, number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert "Interrupted in run/iteration-1. Run the same command again" in stderr and "Traceback" not in stderr
    assert Path("run/iteration-1/interrupts").exists() == (number == signal.SIGINT)
    if number == signal.SIGINT:
        assert Path("run/iteration-1/interrupts").read_text() == "x"
    assert not Path("run/iteration-2").exists()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train", "--output_dir", "mine"], ("mine", 42)),
        (["train", "--output-dir=mine", "--seed=7"], ("mine", 7)),
        (["train", "--output_dir", "a", "--output_dir", "b"], ("b", 42)),  # the last one counts
        (["train", "--config", "recipe.yaml"], ("recipes_own", 5)),
        (["train", "--config", "recipe.yaml", "--output_dir", "mine", "--seed", "7"], ("mine", 7)),
        # An option of the launcher and the seeds are something else.
        (["accelerate", "launch", "--config_file", "x", "t.py", "--seeds", "q", "--output_dir", "o"], ("o", 42)),
    ],
)
def test_settings_come_from_the_command_or_its_recipe(command, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("output_dir: recipes_own\nseed: 5\nresume_from_checkpoint: null\n")
    assert read_settings(command) == (Path(expected[0]), expected[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--iterations", "0", "--", "true", "--output_dir", "x"], "error: iterations is 0. Set it to at least 1."),
        (["--iterations", "2", "--", "true"], "error: output_dir is missing"),
        (
            ["--iterations", "2", "--", "true", "--config", "none.yaml"],
            "error: The settings in 'none.yaml' can't be read",
        ),
        (["--iterations", "2", "--", "true", "--config", "list.yaml"], "error: 'list.yaml' is no YAML mapping"),
        (
            ["--iterations", "2", "--", "nothing-like-it", "--output_dir", "x"],
            "error: There is no command 'nothing-like-it'",
        ),
        (
            ["--iterations", "2", "--", "true", "--output_dir", "x", "--resume_from_checkpoint", "true"],
            "error: resume_from_checkpoint is 'true'. Leave it out",
        ),
        (["--iterations", "2", "train", "--output_dir", "x"], "error: unrecognized arguments"),
        (["--", "true"], "error: the following arguments are required: --iterations"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, message, tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    driver = [sys.executable, "-c", "from serl_trl.cli import main; main()", "iterate", *arguments]
    result = subprocess.run(driver, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2 and not (tmp_path / "x").exists()
    assert result.stderr.strip().splitlines()[-1].startswith(message), result.stderr


def test_the_driver_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import serl_trl.iterate"
    subprocess.run([sys.executable, "-c", code], check=True)


# Really, with the tiny model.

# Without dropout, which blurs the KL of an adapter that is not zero.
LORA = {
    "lora_dropout": 0.0,
    "use_peft": True,
    "learning_rate": 1e-2,
    "lora_r": 4,
    "lora_alpha": 64,
    "lora_target_modules": ["q_proj", "down_proj"],
}
SAVING = {"max_steps": 2, "beta": 0.1, "save_strategy": "steps", "save_steps": 1}


def make_command(folder: Path, *launcher: str, **changes) -> list[str]:
    """Return the command that trains the tiny model for two steps, with its files in `folder`."""
    settings = TINY_SETTINGS | SAVING | {"model_name_or_path": str(TINY_MODEL), "output_dir": str(folder / "run")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings | changes))
    tiny_seeds().to_json(folder / "questions.jsonl")
    start = launcher or (sys.executable, str(ROOT / "train.py"))
    return [*start, "--config", str(folder / "recipe.yaml"), "--seeds", str(folder / "questions.jsonl")]


def first_kl(folder: Path) -> float:
    """Return the distance from the reference model at the first step of a run."""
    return json.loads((folder / "trainer_state.json").read_text())["log_history"][0]["kl"]


def check_two_iterations(run: Path, weights_file: str = "model.safetensors") -> None:
    """Assert that the second iteration starts from the first one's model, and moves away from it."""
    first, second = (load_file(run / f"iteration-{number}" / weights_file) for number in (1, 2))
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)
    settings = [json.loads((run / f"iteration-{number}" / "_run.json").read_text()) for number in (1, 2)]
    assert [record["settings"].get("seed", 42) for record in settings] == [42, 43]
    for number in (1, 2):
        assert first_kl(run / f"iteration-{number}") == pytest.approx(0.0, abs=1e-6)
        log = json.loads((run / f"iteration-{number}" / "trainer_state.json").read_text())["log_history"]
        assert log[1]["kl"] > 1e-5  # so that a reference that is the base model would be seen at the first step
    assert (run / "summary.md").read_text().count(str(run)) == 2
    # Other few-shot examples are drawn.
    rows = [ledger_rows(run / f"iteration-{number}") for number in (1, 2)]
    assert rows[0][0]["parents"] != rows[1][0]["parents"]


def check_a_kill_in_the_middle(command: list[str], last: Path, file: str) -> None:
    """Check that the last iteration, killed after its first checkpoint, goes on and ends with the same bits."""
    trained = load_file(last / file)
    for name in (file, "trainer_state.json"):
        (last / name).unlink()
    shutil.rmtree(last / "checkpoint-2")
    assert iterate(2, command) == 0
    saved = load_file(last / file)
    assert trained and all(torch.equal(trained[name], saved[name]) for name in trained)


def test_full_training(tmp_path):
    command = make_command(tmp_path)
    assert iterate(2, command) == 0
    check_two_iterations(tmp_path / "run")
    # Killed after its last checkpoint, before its model was saved: it is saved, and nothing is trained.
    last = tmp_path / "run" / "iteration-2"
    trained = load_file(last / "model.safetensors")
    for name in ("model.safetensors", "trainer_state.json"):
        (last / name).unlink()
    ledger = ledger_rows(last)
    assert iterate(2, command) == 0
    saved = load_file(last / "model.safetensors")
    assert all(torch.equal(trained[name], saved[name]) for name in trained) and ledger_rows(last) == ledger
    check_a_kill_in_the_middle(command, last, "model.safetensors")


def test_lora_goes_on_with_the_same_adapter(tmp_path):
    command = make_command(tmp_path, sys.executable, "-m", "serl_trl.train", **LORA)
    assert iterate(2, command) == 0
    check_two_iterations(tmp_path / "run", "adapter_model.safetensors")
    last = tmp_path / "run" / "iteration-2"
    config = json.loads((last / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(TINY_MODEL) and config["r"] == 4
    # What is at the top of the folder is what was trained, and the reference beside it is not.
    checkpoint = load_file(last / "checkpoint-2" / "adapter_model.safetensors")
    top, reference = (load_file(last / name / "adapter_model.safetensors") for name in ("", "ref"))
    before = load_file(tmp_path / "run" / "iteration-1" / "adapter_model.safetensors")
    assert all(torch.equal(top[name], checkpoint[name]) for name in top)
    assert all(torch.equal(before[name], reference[name]) for name in before)
    model = AutoPeftModelForCausalLM.from_pretrained(last, is_trainable=True)
    trained = {name: parameter for name, parameter in model.named_parameters() if "lora" in name}
    assert len(trained) == len(top)
    for name, parameter in trained.items():
        assert parameter.requires_grad and torch.equal(parameter, top[name.replace(".default", "")])
    check_a_kill_in_the_middle(command, last, "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, "was saved with r=4, and the settings say 8"),
        (
            {"target_modules": ["q_proj"]},
            "was saved with target_modules={'.*', '.*'}, and the settings say {'q_proj'}",
        ),
        ({"target_modules": "all-linear"}, None),  # PEFT saves what it stood for
        ({}, None),
        ({"base_model_name_or_path": "/no/such/model"}, "The model '/no/such/model' is neither a folder here nor"),
    ],
)
def test_other_settings_than_the_saved_adapters_are_refused(changes, message, tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(TINY_MODEL), lora)
    model.peft_config["default"].base_model_name_or_path = changes.pop("base_model_name_or_path", str(TINY_MODEL))
    model.save_pretrained(tmp_path / "adapter")
    given = LoraConfig(**{"r": 4, "target_modules": ["down_proj", "q_proj"], "task_type": "CAUSAL_LM"} | changes)
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        SeRLTrainer(str(tmp_path / "adapter"), tiny_config(tmp_path / "run"), tiny_seeds(), peft_config=given)


def test_vllm_gets_the_trained_adapter_merged_in_and_not_the_references(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    settings = SAVING | {"save_strategy": "no", "learning_rate": 1e-2}
    first = SeRLTrainer(str(TINY_MODEL), tiny_config(tmp_path / "1", **settings), tiny_seeds(), peft_config=lora)
    first.train()
    first.save_model()
    second = SeRLTrainer(str(tmp_path / "1"), tiny_config(tmp_path / "2", **settings), tiny_seeds())
    model = second.model
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if ".ref." in name)
    second.train()
    second.save_model()

    generation = object.__new__(VLLMGeneration)  # TRL's own object, without its engine
    generation.model = model
    sent = {name: data.clone() for name, data in merged_parameters(generation)}
    merged = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "2").merge_and_unload().state_dict()
    assert sent and all(torch.equal(data, merged[name]) for name, data in sent.items())
    assert not any("ref" in name for name in sent)


@pytest.mark.parametrize("lora", [False, True])
def test_a_plain_loop_does_the_same(lora, tmp_path):
    model, changes, peft_config = str(TINY_MODEL), SAVING, None
    if lora:
        changes = SAVING | {"learning_rate": 1e-2}
        peft_config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    for number in (1, 2):
        config = tiny_config(tmp_path / f"iteration-{number}", seed=41 + number, **changes)
        trainer = SeRLTrainer(model=model, args=config, train_dataset=tiny_seeds(), peft_config=peft_config)
        trainer.train()
        trainer.save_model()
        assert trainer.state.log_history[0]["kl"] == pytest.approx(0.0, abs=1e-6)
        assert trainer.state.log_history[1]["kl"] > 1e-5
        model = config.output_dir
    parents = [ledger_rows(tmp_path / f"iteration-{number}")[0]["parents"] for number in (1, 2)]
    assert parents[0] != parents[1]


def test_an_iteration_ends_with_its_instructions(tmp_path):
    saving = {"max_steps": -1, "instructions_per_iteration": 7, "save_strategy": "steps", "save_steps": 1}
    config = tiny_config(tmp_path, **saving)
    assert config.max_steps == 4  # two groups a batch, if every instruction is trained on
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())
    trainer.train()
    rows = ledger_rows(tmp_path)
    admitted = [row for row in rows if row["fate"] not in ("unused", "rejected")]
    last = max(row["step"] for row in rows)
    assert len(admitted) >= 7 > sum(row["step"] < last for row in admitted)  # the batch before was not enough


FSDP_SCRIPT = """
from accelerate import PartialState
from accelerate.utils import DistributedType
from serl_trl.train import main, make_parser
parsed = make_parser().parse_args_and_config()
PartialState().distributed_type = DistributedType.MULTI_GPU  # accelerate passes FSDP over on the CPU
main(*parsed)
"""


@pytest.mark.distributed
@pytest.mark.parametrize(("configuration", "lora"), [("multi_gpu", True), ("fsdp2", False)])
def test_two_processes(configuration, lora, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "fsdp.py").write_text(FSDP_SCRIPT)
    launcher = [str(Path(sys.executable).parent / "accelerate"), "launch", "--num_processes", "2"]
    launcher += ["--config_file", str(ROOT / "accelerate_configs" / f"{configuration}.yaml")]
    launcher += ["--mixed_precision", "no", "--main_process_port", "0"]
    launcher += [str(tmp_path / "fsdp.py" if configuration == "fsdp2" else ROOT / "train.py")]
    command = make_command(tmp_path, *launcher, **(LORA if lora else {}))
    assert iterate(2, command) == 0
    check_two_iterations(tmp_path / "run", "adapter_model.safetensors" if lora else "model.safetensors")
