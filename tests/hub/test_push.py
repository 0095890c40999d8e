"""Training and pushing as users start them, by the real client, against a Hub on loopback."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import TINY_MODEL, TINY_SETTINGS, tiny_config, tiny_seeds
from hub_server import TOKEN, HubServer, Repository
from huggingface_hub import ModelCard

from serl_trl.hub.push import check_run, push_command
from serl_trl.train import SeRLScriptArguments, check_push


SERL_TRL = str(Path(sys.executable).parent / "serl-trl")
MODEL = {"config.json", "generation_config.json", "model.safetensors"}
BESIDE = {"README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
BESIDE |= {"trainer_state.json"}
SECRETS = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "MY_PASSWORD": "opensesame"}


def run(environment, *command) -> subprocess.CompletedProcess:
    """Run a command without the credentials of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=300)


def train(environment, folder, name, *arguments, model=TINY_MODEL) -> subprocess.CompletedProcess:
    settings = TINY_SETTINGS | {"model_name_or_path": str(model), "max_steps": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    tiny_seeds().to_json(folder / "questions.jsonl")
    command = [sys.executable, "-m", "serl_trl.train", "--config", str(folder / "recipe.yaml")]
    command += ["--seeds", str(folder / "questions.jsonl"), "--output_dir", str(folder / name)]
    return run(environment, *command, *arguments)


def failure(result) -> tuple[str, str]:
    """Return the sentence and the command of a push that failed; progress bars may be closed after them."""
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr[-3000:]
    said, command = ("\n" + result.stderr).split("\nerror: ")[-1].splitlines()[:2]
    return said, command


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        files = {path.name: path.read_bytes() for path in TINY_MODEL.iterdir()}
        server.repositories["tester/tiny"] = Repository("model", "public", files)
        yield server


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """A run that was trained and pushed with its instructions and its checkpoints' models; what it printed."""
    folder = tmp_path_factory.mktemp("pushed")
    arguments = ["--push_to_hub", "--push_instructions", "--hub_token", TOKEN, "--save_strategy", "steps"]
    arguments += ["--save_steps", "1", "--eval_data", str(folder / "labelled.jsonl"), "--eval_steps", "2"]
    (folder / "labelled.jsonl").write_text('{"question": "what is 2 plus 3 ?", "answer": 5}\n')
    environment = hub.environment(folder / "home") | {"HF_TOKEN": ""} | SECRETS
    return folder / "mine", train(environment, folder, "mine", *arguments, model="tester/tiny")


def test_training_pushes_the_model_and_its_instructions_and_no_seed(hub, pushed):
    output_dir, result = pushed
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"Pushed to {hub.url}/tester/mine" in result.stdout
    model, dataset = hub.repositories["tester/mine"], hub.repositories["tester/mine-instructions"]
    assert (model.visibility, dataset.visibility) == ("private", "private")
    assert set(model.files) == MODEL | BESIDE and model.lfs == {"model.safetensors"}
    assert model.files["model.safetensors"] == (output_dir / "model.safetensors").read_bytes()
    assert set(dataset.files) == {"README.md", "data/train.parquet", "data/withheld.parquet"}
    assert len(model.commits) > 1  # Trainer's own pushes of checkpoints, before ours

    everything = b"\n".join(data for repository in (model, dataset) for data in repository.files.values())
    rows = [row for name in ("train", "withheld") for row in read(dataset.files[f"data/{name}.parquet"])]
    everything += "\n".join(map(str, rows)).encode()  # Parquet is compressed
    assert [seed for seed in tiny_seeds()["instruction"] if seed.encode() in everything] == []
    assert not any(secret.encode() in everything for secret in (TOKEN, *SECRETS.values()))
    ledger = [row for path in (output_dir / "_ledger").iterdir() for row in pq.read_table(path).to_pylist()]
    admitted = {row["instruction"] for row in ledger if row["fate"] not in ("rejected", "unused")}
    assert {row["instruction"] for row in rows} - {None} == admitted and len(rows) == len(ledger)

    card = ModelCard(model.files["README.md"].decode())
    assert card.data.datasets == ["tester/mine-instructions"] and card.data.base_model == "tester/tiny"
    published = {(found.dataset_name, found.metric_type) for found in card.data.eval_results}
    assert published == {("labelled", f"{kind}@{k}") for kind in ("pass", "maj") for k in (1, 2, 4)}
    assert "--push_instructions" in card.text and "hub_token" not in card.text


def read(parquet: bytes) -> list[dict]:
    return pq.read_table(io.BytesIO(parquet)).to_pylist()


def test_no_file_and_no_log_of_a_run_holds_a_token_or_a_variable_of_the_environment(pushed):
    output_dir, result = pushed
    texts = {"log": result.stdout + result.stderr}
    for path in output_dir.rglob("*"):
        if path.suffix == ".parquet":  # compressed
            texts[path.name] = str(pq.read_table(path).to_pylist())
        elif path.is_file():
            texts[path.name] = path.read_bytes().decode("latin-1")
    assert {"_run.json", "README.md", "batch-000000.parquet", "training_args.bin", "serl_state.json"} <= texts.keys()
    assert [(name, secret) for name in texts for secret in (TOKEN, *SECRETS.values()) if secret in texts[name]] == []


PUSH_IN_PYTHON = """
import sys
from pathlib import Path
from run_tiny import make_trainer

settings = {"push_to_hub": True, "hub_private_repo": True, "log_completions": True, "save_strategy": "steps"}
trainer = make_trainer(sys.argv[1], save_steps=1, max_steps=2, **settings)
Path(sys.argv[1], "notes.txt").write_text("what is mine stays mine")
Path(sys.argv[1], "mine").mkdir()
Path(sys.argv[1], "mine", "config.json").write_text("what is mine stays mine")
trainer.train()
trainer.save_state()
trainer.push_to_hub("All of it")
"""


def test_the_habit_of_trl_pushes_public_files_only(hub, tmp_path):
    tests = str(Path(__file__).parent.parent)
    environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    result = run(environment, sys.executable, "-c", PUSH_IN_PYTHON, str(tmp_path / "habit"))
    assert result.returncode == 0, result.stderr[-3000:]
    prompts = [
        row["prompt"] for path in tmp_path.glob("habit/completions/*.parquet") for row in read(path.read_bytes())
    ]
    assert any(prompts)  # they lie beside what is pushed
    habit = hub.repositories["tester/habit"]
    assert habit.visibility == "private"
    assert habit.commits[0] == "Training in progress, step 1" and habit.commits[-1] == "All of it"
    assert set(habit.files) == MODEL | BESIDE
    everything = b"".join(habit.files.values())
    assert not any(seed.encode() in everything for seed in tiny_seeds()["instruction"])


def test_a_later_push_gives_the_same_elsewhere_and_changes_no_visibility(hub, pushed, tmp_path):
    output_dir, _ = pushed
    hub.repositories["tester/again-instructions"] = Repository("dataset", "public")
    for name in ("notes.txt", "hf_token.json", "tokens.json", "scratch.py", "vocab.bak", "model_seeds.safetensors"):
        (output_dir / name).write_text("what is mine stays mine")
    shutil.copytree(output_dir, tmp_path / "again")
    result = run(hub.environment(tmp_path), SERL_TRL, "push", str(tmp_path / "again"), "--push_instructions")
    assert result.returncode == 0, result.stderr[-3000:]
    model, again = hub.repositories["tester/mine"], hub.repositories["tester/again"]
    assert again.visibility == "private" and hub.repositories["tester/again-instructions"].visibility == "public"
    assert set(again.files) == set(model.files)
    assert {name for name in again.files if again.files[name] != model.files[name]} == {"README.md"}
    assert (
        again.files["README.md"].decode().replace("tester/again", "tester/mine") == model.files["README.md"].decode()
    )


def test_an_adapter_whose_push_failed_is_pushed_by_the_command_that_it_says(hub, tmp_path):
    hub.refuse["/commit/"] = 403
    environment = hub.environment(tmp_path / "home")
    arguments = ["--push_to_hub", "--use_peft", "--lora_target_modules", "all-linear", "--hub_private_repo", "false"]
    result = train(environment, tmp_path, "lora", *arguments, "--hub_model_id", "tester/adapter", model="tester/tiny")
    hub.refuse.clear()
    said, command = failure(result)
    assert said.startswith(f"The model is saved in {tmp_path}/lora, but not pushed: the token may not write")
    assert command == f"To push it: serl-trl push {tmp_path}/lora --hub_model_id tester/adapter --public"
    repeated = run(environment, SERL_TRL, *command.split()[4:])
    assert repeated.returncode == 0, repeated.stderr[-3000:]
    adapter = hub.repositories["tester/adapter"]
    assert adapter.visibility == "public"
    assert set(adapter.files) == {"adapter_config.json", "adapter_model.safetensors"} | BESIDE
    assert ModelCard(adapter.files["README.md"].decode()).data.base_model == "tester/tiny"
    assert b'"base_model_name_or_path": "tester/tiny"' in adapter.files["adapter_config.json"]


@pytest.mark.parametrize(
    ("refuse", "changes", "message"),
    [
        ({}, {"HF_TOKEN": "hf_ofsomebodyelse"}, "the Hub does not know the token (401). Run `hf auth login`"),
        ({}, {"HF_TOKEN": ""}, "there is no token of the Hub. Run `hf auth login`, or set HF_TOKEN."),
        ({"/commit/": 403}, {}, "the token may not write there (403)"),
        ({"PUT /storage/": 403}, {}, "the token may not write there (403)"),
        ({"/api/repos/create": 503}, {}, "the Hub answered 503. Try again later."),
        ({}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 is not reached (ConnectError"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set. Unset it."),
    ],
)
def test_failures_are_one_sentence_and_the_command_again(hub, pushed, tmp_path, refuse, changes, message):
    output_dir, _ = pushed
    hub.objects.clear()
    hub.refuse.update(refuse)
    result = run(hub.environment(tmp_path) | changes, SERL_TRL, "push", str(output_dir), "--hub_model_id", "failing")
    hub.refuse.clear()
    said, command = failure(result)
    assert message in said
    assert command == f"To push it: serl-trl push {output_dir} --hub_model_id failing"


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"HF_TOKEN": ""}, [], "push_to_hub is True, but there is no token of the Hub. Run `hf auth login`"),
        ({}, ["--hub_model_id", "somebody/else"], "The Hub: the token may not write there (403)"),
    ],
)
def test_what_a_push_lacks_is_said_before_training(hub, tmp_path, changes, arguments, message):
    environment = hub.environment(tmp_path / "home") | changes
    result = train(environment, tmp_path, "early", "--push_to_hub", *arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr[-3000:]
    assert f"error: {message}" in result.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "early" / "_ledger").exists()


@pytest.mark.parametrize(
    ("pushes", "changes", "message"),
    [
        (False, {}, "push_instructions is True, but push_to_hub is not"),
        (True, {"instruction_source": "seeds"}, "the instructions are the seeds"),
    ],
)
def test_instructions_that_cannot_be_pushed_are_refused(tmp_path, pushes, changes, message):
    with pytest.raises(ValueError, match=message):
        check_push(
            SeRLScriptArguments(seeds="x.jsonl", push_instructions=True),
            tiny_config(tmp_path, push_to_hub=pushes, **changes),
        )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "There is no folder"),
        ([], "holds no run"),
        (["model.safetensors"], "holds no run"),
        (["_ledger/batch-000000.parquet"], "is not finished"),
        (["_ledger/batch-000000.parquet", "README.md", "trainer_state.json"], "is not finished"),
        (["_ledger/batch-000000.parquet", "README.md", "model.safetensors"], "is not finished"),  # Trainer's own push
        (["_ledger/batch-000000.parquet", "trainer_state.json", "model.safetensors"], "has a model, but no card"),
        (["README.md", "trainer_state.json", "model-00001-of-00002.safetensors"], None),
        (["README.md", "trainer_state.json", "adapter_model.safetensors"], None),
    ],
)
def test_only_a_finished_run_is_pushed(tmp_path, files, message):
    for name in files or []:
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if files == []:
        (tmp_path / "run").mkdir()
    if message is None:
        return check_run(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        check_run(tmp_path / "run")


def test_the_command_that_repeats_a_push_has_all_that_differs():
    assert push_command("outputs/my run", None) == "serl-trl push 'outputs/my run'"
    assert push_command("mine", "me/mine", private=False, push_instructions=True, revision="draft") == (
        "serl-trl push mine --hub_model_id me/mine --hub_revision draft --push_instructions --public"
    )
