"""The command line: what each command says of itself, what it loads for that, and how it ends."""

import subprocess
import sys

import pytest
from conftest import ROOT

from serl_trl.cli import COMMANDS, main
from serl_trl.launch import without


@pytest.mark.parametrize(
    ("command", "usage", "never"),
    [
        ([], "serl-trl NAME ...", ("torch", "trl", "vllm", "transformers", "numpy")),
        (["push"], "serl-trl push RUN", ("torch", "trl", "vllm", "transformers")),
        (["report"], "serl-trl report RUN", ("torch", "trl", "vllm", "transformers", "matplotlib")),
        (["plan"], "serl-trl plan --model MODEL", ("torch", "trl", "vllm", "transformers")),
        (["eval"], "serl-trl eval --model MODEL --data FILE", ("torch", "trl", "vllm")),
    ],
)
def test_help_is_alike_and_waits_for_nothing_that_it_does_not_need(command, usage, never):
    code = f"import sys; from serl_trl.cli import main; sys.argv[1:] = {[*command, '--help']}\n"
    code += f"try:\n    main()\nfinally:\n    print([name for name in {never} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    shown, loaded = result.stdout.rstrip().rsplit("\n", 1)
    assert result.returncode == 0 and shown.startswith(f"usage: {usage}"), result.stderr
    assert loaded == "[]"
    if command:
        assert shown.split("\n\n")[1] == COMMANDS[command[0]][1]
        assert "(default: " in shown
    else:
        assert all(f"\n    {name} " in shown for name in COMMANDS)


def ending(arguments: list[str], monkeypatch, capsys) -> tuple[int, str]:
    """Return the exit code of `serl-trl ARGUMENTS` and all that it wrote, as the shell sees them."""
    monkeypatch.setattr(sys, "argv", ["serl-trl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


def test_help_of_training_lists_recipe_launcher_and_settings(monkeypatch, capsys):
    code, said = ending(["train", "--help"], monkeypatch, capsys)
    assert code == 0 and said.startswith("usage: serl-trl train [--recipe NAME | --config PATH] --seeds FILE")
    assert said.split("\n\n")[1] == COMMANDS["train"][1]
    for option in ("--recipe", "--config", "--accelerate_config", "--min_pass_rate", "--learning-rate", "--lora_r"):
        assert f"\n  {option} " in said or f", {option} " in said, option


TRAIN = ["train", "--recipe", "demo", "--seeds", "missing.jsonl", "--output_dir"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["fly"], 2, "argument NAME: invalid choice: 'fly' (choose from"),
        # an argument that is unknown, missing, or of a wrong type
        (["push", "mine", "--fly"], 2, "unrecognized arguments: --fly"),
        (["push"], 2, "the following arguments are required: RUN"),
        (["plan", "--model", "m", "--gpu", "7"], 2, "argument --gpu: invalid choice: 7"),
        (["eval", "--model", "m", "--data", "d", "--fly", "3"], 2, "unrecognized arguments: --fly 3"),
        ([*TRAIN, "out", "--fly", "3"], 2, "unrecognized arguments: --fly 3"),
        (["train", "--recipe"], 2, "argument --recipe: expected one argument"),
        # neither training nor accelerate knows it
        ([*TRAIN, "out", "--fly", "--accelerate_config", "cpu"], 2, "unrecognized arguments: --fly"),
        # accelerate's, and nothing is launched through it
        ([*TRAIN, "out", "--num_processes", "2"], 2, "unrecognized arguments: --num_processes 2"),
        # what can't be done
        (["push", "nowhere"], 2, "There is no folder 'nowhere'. Name the output_dir of a run."),
        (["report", "nowhere"], 2, "There is no folder 'nowhere'. Name the output_dir of a run."),
        (["plan", "--model", "./nowhere"], 2, "The model './nowhere' is neither a folder here nor"),
        (["eval", "--model", "m", "--data", "d", "--top-p", "2"], 2, "top_p is 2.0. Set it within"),
        ([*TRAIN, "out", "--top_k", "3"], 2, "top_k is 3, which biases"),
        (["train", "--config", "nowhere.yaml"], 2, "The settings in 'nowhere.yaml' can't be read: [Errno 2]"),
        (["check", "--config", "nowhere.yaml"], 2, "The settings in 'nowhere.yaml' can't be read: [Errno 2]"),
        (["train", "--recipe", "nowhere"], 2, "--recipe is 'nowhere'. Set it to one of demo, llama3.2_3b_8gpu,"),
        (["train", "--recipe", "demo", "--config", "r.yaml"], 2, "argument --config: not allowed with argument --recipe"),
        (["train", "--accelerate-config", "nowhere"], 2, "--accelerate_config is 'nowhere'. Set it to one of cpu, fsdp2,"),
        (["train", "--config", "unknown.yaml", "--seeds", "s"], 2, "unknown.yaml has --fly 1, which is no setting."),
        (["train", "--config", "broken.yaml"], 2, "The settings in 'broken.yaml' can't be read: while parsing"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "unknown.yaml").write_text((ROOT / "recipes" / "demo.yaml").read_text() + "fly: 1\n")
    (tmp_path / "broken.yaml").write_text("[1, 2")
    found, said = ending(arguments, monkeypatch, capsys)
    assert found == code and said.splitlines()[-1].startswith(f"error: {sentence}") and "usage:" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.yaml", "unknown.yaml"]


@pytest.mark.parametrize(
    ("arguments", "unknown", "known"),
    [
        (["--a", "1"], [], ["--a", "1"]),
        (["--n", "2", "--a", "2"], ["--n", "2"], ["--a", "2"]),
        (["--a", "2", "--n", "2", "--q"], ["--n", "2", "--q"], ["--a", "2"]),  # the same value before it
        (["--n=2", "--a", ""], ["--n=2"], ["--a", ""]),
    ],
)
def test_arguments_of_the_launcher_are_parted_from_those_of_training(arguments, unknown, known):
    assert without(arguments, unknown) == known
