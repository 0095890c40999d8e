"""`serl-trl eval` on the tiny model with transformers: as users start it, and its job in this process."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL, TINY_TEMPLATE
from huggingface_hub import ModelCard
from make_tiny_model import PAIRS, question
from transformers import AutoModelForCausalLM, AutoTokenizer

from serl_trl.evaluation.arguments import EvaluationArguments
from serl_trl.evaluation.command import run
from serl_trl.evaluation.job import evaluate


ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CHOICE = {"question": "what is 2 plus 3 ?", "options": ["4", "5"], "answer": "B"}


def sums(path: Path, count: int = 40, word: str = "plus") -> str:
    """Write some questions of the tiny world with their answers."""
    pairs = [pair for pair in PAIRS if pair[1] == word][:count]
    rows = [
        {"question": question(a, word, b), "answer": str(a + b if word == "plus" else a - b), "level": 1 + b // 5}
        for a, word, b in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(folder: Path, **changes) -> dict:
    return {
        "model": str(TINY_MODEL),
        "data": changes.get("data") or [sums(folder / "sums.jsonl")],
        "output_dir": str(folder / "eval"),
        "num_samples": 8,
        "max_completion_length": 8,
        "prompt_template": str(TINY_TEMPLATE),
        "use_vllm": False,
    } | changes


def command(values: dict) -> list[str]:
    arguments = [str(Path(sys.executable).parent / "serl-trl"), "eval"]
    for name, value in values.items():
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return arguments


def small(folder: Path, **changes) -> dict:
    return evaluate(EvaluationArguments(**settings(folder, **changes)))


def rows_of(results: dict, name: str = "sums") -> list[dict]:
    return results["datasets"][name]["rows"]


@pytest.fixture(autouse=True)
def one_thread():
    """The tiny model's operations are small: on a busy machine, threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path) -> str:
    """A copy of the tiny model with a model card."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in TINY_MODEL.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text("---\nmodel_name: tiny\n---\n\n# Tiny\n")
    return str(folder)


def test_two_files_from_the_command_line(tmp_path, model):
    data = [sums(tmp_path / "plus.jsonl", 100), sums(tmp_path / "minus.jsonl", 60, "minus")]
    values = settings(tmp_path, model=model, data=data, write_card=True)
    values["num-samples"] = values.pop("num_samples")  # as people write it
    result = subprocess.run(command(values), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["settings"]["engine"] == "transformers" and results["settings"]["temperature"] == 1.0
    for name, count in (("plus", 100), ("minus", 60)):
        metrics = results["datasets"][name]["metrics"]
        assert len(rows_of(results, name)) == count
        # The tiny model is right in about 75 % of its answers, more often in differences.
        assert 0.6 < metrics["pass@1"]["value"] < 0.95 and metrics["maj@8"]["value"] > metrics["pass@1"]["value"]
        assert metrics["pass@1"]["low"] < metrics["pass@1"]["value"] < metrics["pass@1"]["high"]
        assert metrics["unparsed"]["value"] < 0.05
        assert f"{100 * metrics['pass@1']['value']:.1f} [" in result.stdout
    assert results["datasets"]["plus"]["levels"]["2"]["instructions"] == 50
    assert "| level 2: pass@1" in result.stdout and "95 % intervals" in result.stdout
    assert (tmp_path / "eval" / "results.md").read_text().strip() in result.stdout
    card = {(r.dataset_name, r.metric_type): r for r in ModelCard.load(f"{model}/README.md").data.eval_results}
    assert card["minus", "maj@8"].metric_value == round(metrics["maj@8"]["value"], 4)
    assert card["minus", "maj@8"].metric_args["num_samples"] == 8 and len(card) == 16


def test_ctrl_c_and_a_half_written_line_cost_nothing(tmp_path):
    values = settings(tmp_path, num_samples=32, batch_size=32)
    whole = small(tmp_path, num_samples=32, batch_size=32, output_dir=str(tmp_path / "whole"))
    process = subprocess.Popen(
        command(values), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    samples, deadline = tmp_path / "eval" / "sums.jsonl", time.monotonic() + 120
    while not (samples.exists() and samples.read_bytes().count(b"\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr[-2000:]
    assert "run the same command again to go on" in stdout and "Traceback" not in stderr
    assert 4 <= samples.read_bytes().count(b"\n") < 41 and not (tmp_path / "eval" / "results.json").exists()
    samples.write_bytes(samples.read_bytes()[:-20])
    before = samples.read_bytes().rpartition(b"\n")[0]
    resumed = subprocess.run(command(values), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert samples.read_bytes().startswith(before)
    assert json.loads((tmp_path / "eval" / "results.json").read_text())["datasets"] == whole["datasets"]


def test_a_batch_that_was_cut_is_drawn_again_alike(tmp_path):
    whole = small(tmp_path)  # batches of 8 instructions
    samples = tmp_path / "eval" / "sums.jsonl"
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[:4] + lines[20:30]))
    assert small(tmp_path) == whole
    drawn = [row["answers"] for row in rows_of(whole)]
    assert len({tuple(answers) for answers in drawn}) > 20 and any(len(set(answers)) > 1 for answers in drawn)
    assert rows_of(small(tmp_path, seed=1, output_dir=str(tmp_path / "other"))) != rows_of(whole)


def test_the_results_are_made_again_without_a_model(tmp_path, monkeypatch):
    whole = small(tmp_path)
    (tmp_path / "eval" / "results.json").unlink()
    monkeypatch.setattr("serl_trl.engine.standalone.load_transformers", None)  # it would fail if it were called
    state = torch.random.get_rng_state()
    assert small(tmp_path) == whole
    assert torch.equal(state, torch.random.get_rng_state())
    # ... and read by other rules: here, half of the true answers were corrected.
    rows = [json.loads(line) for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    rows = [row | {"answer": "77"} if index % 2 else row for index, row in enumerate(rows)]
    (tmp_path / "corrected").mkdir()
    corrected = tmp_path / "corrected" / "sums.jsonl"
    corrected.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = rows_of(small(tmp_path, data=[str(corrected)]))
    assert [row["answers"] for row in again] == [row["answers"] for row in rows_of(whole)]
    assert not any(any(row["correct"]) for row in again[1::2]) and again[::2] == rows_of(whole)[::2]


def test_comparing_with_another_evaluation(tmp_path):
    before = small(tmp_path)
    data = [sums(tmp_path / "sums.jsonl", 20), sums(tmp_path / "minus.jsonl", 10, "minus")]
    compare = str(tmp_path / "eval" / "results.json")
    after = small(tmp_path, data=data, seed=1, output_dir=str(tmp_path / "after"), num_samples=4, compare=compare)
    difference = after["comparison"]["datasets"]["sums"]
    assert list(after["comparison"]["datasets"]) == ["sums"]
    assert list(difference) == ["pass@1", "pass@2", "pass@4", "maj@1", "maj@2", "maj@4", "unparsed", "truncated"]
    ours, theirs = (sum(sum(row["correct"]) for row in rows_of(r)[:20]) for r in (after, before))
    assert difference["pass@1"]["difference"] == pytest.approx(ours / 80 - theirs / 160)
    assert (difference["pass@1"]["instructions"], difference["pass@1"]["left_out"]) == (20, 20)
    text = (tmp_path / "after" / "results.md").read_text()
    assert "Settings that differ: num_samples 4 instead of 8; seed 1 instead of 0." in text and "left out" in text


def test_greedy_truncated_and_multiple_choice(tmp_path):
    path = tmp_path / "choice.jsonl"
    path.write_text(json.dumps(CHOICE) + "\n")
    changes = {"data": [str(path)], "answer_format": "choice", "temperature": 0, "num_samples": 1}
    (row,) = rows_of(small(tmp_path, **changes, max_completion_length=2), "choice")
    assert row["instruction"] == "what is 2 plus 3 ?\n(A) 4\n(B) 5"
    assert row["truncated"] == [True] and row["answers"] == [None] and row["correct"] == [0]


def test_answers_that_are_texts(tmp_path):
    path = tmp_path / "words.jsonl"
    path.write_text(json.dumps({"question": "what is 2 plus 3 ?", "answer": "The 5!"}) + "\n")
    results = small(tmp_path, data=[str(path)], answer_format="text", num_samples=64)
    (row,) = rows_of(results, "words")
    assert row["correct"] == [int(answer == "5") for answer in row["answers"]] and sum(row["correct"]) > 16
    assert results["settings"]["answer_format"] == "text"


def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path, refused):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(TINY_MODEL), config).save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(tmp_path / "adapter")
    with refused("The adapter changes the input or output embeddings"):
        run(command(settings(tmp_path, model=str(tmp_path / "adapter")))[2:])


def test_an_adapter_is_merged_into_its_base(tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype="float32"),
        LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    greedy = {"temperature": 0, "num_samples": 1}
    merged = small(tmp_path, model=str(tmp_path / "adapter"), output_dir=str(tmp_path / "merged"), **greedy)
    assert rows_of(merged) != rows_of(small(tmp_path, **greedy))
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    lines = (tmp_path / "merged" / "sums.jsonl").read_text().splitlines()[1:]
    for row in map(json.loads, lines[:5]):
        prompt = tokenizer(f"<user> {row['instruction']} <assistant>", return_tensors="pt")
        output = adapted.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert row["completions"] == [tokenizer.decode(output, skip_special_tokens=True)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0. Set it to at least 1"),
        ({"temperature": 0}, "all 8 completions would be the same. Set num_samples to 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"chat_template_kwargs": "{enable"}, "chat_template_kwargs is '{enable', which is no JSON"),
        ({"answer_format": "yes"}, "answer_format is 'yes'. Set it to one of math, choice"),
        ({"data": ["missing.jsonl"]}, "There is no file 'missing.jsonl'"),
        ({"model": "./nowhere"}, "The model './nowhere' is neither a folder here nor found on the Hub"),
        ({"prompt_template": "nowhere"}, "prompt_template 'nowhere' is neither"),
        ({"max_completion_length": 510}, "row 1, 'what is 0 plus 0 \\?': its prompt has 8 tokens, .* Set it to at most 504"),
        ({"temperature": math.nan}, "temperature is nan. Set it to a finite number"),
        ({"chat_template_kwargs": "[1]"}, "chat_template_kwargs is '\\[1\\]'. Set it to an object"),
        ({"dtype": "bogus"}, "dtype is 'bogus'. Set it to one of bfloat16"),
        ({"output_dir": __file__}, "output_dir is .* nothing can be written into"),
        ({"compare": "{}"}, "which is no results.json of an evaluation \\('datasets'\\)"),
        ({"compare": '{"datasets": {"sums": {"rows": [{"instruction": "a"}]}}}'}, "which is no results.json"),
        ({"compare": "nowhere.json"}, "compare is 'nowhere.json', which is no results.json"),
        ({"write_card": True}, "There is no model card '.*README.md'. Use the folder of a trained model"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_sentence_before_a_model_is_loaded(tmp_path, refused, monkeypatch, changes, message):
    monkeypatch.setattr("serl_trl.evaluation.job.sample_missing", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if "{" in changes.get("compare", ""):
        (tmp_path / "compared.json").write_text(changes["compare"])
        changes = {"compare": str(tmp_path / "compared.json")}
    with refused(message):
        run(command(settings(tmp_path, **changes))[2:])
    assert not (tmp_path / "eval").exists()


def test_weights_that_were_trained_further_are_not_taken_for_the_old_ones(tmp_path, model):
    small(tmp_path, model=model)
    os.utime(Path(model) / "model.safetensors", (0, 0))
    with pytest.raises(ValueError, match="was made with weights_of '20.*' instead of '1970-01-01"):
        small(tmp_path, model=model)


def test_data_and_settings_that_do_not_go_together_are_refused(tmp_path):
    small(tmp_path)
    with pytest.raises(ValueError, match="was made with temperature 1.0 instead of 0.5. Set that back"):
        small(tmp_path, temperature=0.5)
    with pytest.raises(ValueError, match="instructions 40 instead of 39, instructions_sha256"):
        small(tmp_path, data=[sums(tmp_path / "sums.jsonl", 39)])
    (tmp_path / "other").mkdir()
    twice = [sums(tmp_path / "sums.jsonl"), sums(tmp_path / "other" / "sums.jsonl")]
    with pytest.raises(ValueError, match="Two of data have the same name: sums, sums"):
        small(tmp_path, data=twice)
    other = [sums(tmp_path / "minus.jsonl", 5, "minus")]
    with pytest.raises(ValueError, match="with results on sums, which share no instruction with minus"):
        small(tmp_path, data=other, compare=str(tmp_path / "eval" / "results.json"))
    with pytest.raises(ValueError, match="is in the way: it holds no samples of an evaluation"):
        small(tmp_path, output_dir=str(tmp_path))  # where the data lie
