"""The evaluation of a trainer: when it happens, what it measures, and that training does not notice."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY_MODEL, TINY_TEMPLATE, tiny_config, tiny_seeds, weights
from run_evaluation import QUESTIONS, evaluations
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from serl_trl import SeRLTrainer
from serl_trl.engine.standalone import StandaloneSampler
from serl_trl.evaluation.arguments import EvaluationArguments
from serl_trl.evaluation.job import evaluate
from serl_trl.evaluation.model_index import training_results


METRICS = ["pass@1", "pass@2", "pass@4", "maj@1", "maj@2", "maj@4", "unparsed", "truncated"]


def make_trainer(folder, eval_dataset=QUESTIONS, **changes) -> SeRLTrainer:
    return SeRLTrainer(str(TINY_MODEL), tiny_config(folder, **changes), tiny_seeds(), eval_dataset=eval_dataset)


def evaluated_steps(trainer, key: str = "eval_pass@1") -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if key in entry]


class SpoiledAtTheEnd(TrainerCallback):
    """Sets all weights to zero after the last step, before it is evaluated."""

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == args.max_steps:
            for parameter in model.parameters():
                parameter.data.zero_()


@pytest.mark.distributed
def test_two_processes_measure_what_one_does(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "tests" / "run_evaluation.py"), str(tmp_path)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    alone = evaluations(tmp_path / "alone")
    assert first["scripted"] == second["scripted"] == alone["scripted"]
    assert first["scripted"]["eval_maj@16"] == pytest.approx(1 / 3)
    for count, name in (3, "three"), (1, "one"):
        assert first[name] == second[name] and first[f"texts of {name}"] == second[f"texts of {name}"]
        assert [len(texts) for texts in first[f"texts of {name}"]] == [16] * count
    (texts,) = first["texts of one"]
    assert texts[:8] != texts[8:]  # each process has sampled one half


def test_it_measures_what_the_command_line_does(tmp_path):
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS.to_list()))
    args = EvaluationArguments(
        model=str(TINY_MODEL),
        data=[str(tmp_path / "sums.jsonl")],
        output_dir=str(tmp_path / "eval"),
        num_samples=4,
        max_completion_length=8,
        prompt_template=str(TINY_TEMPLATE),
        use_vllm=False,
    )
    wanted = evaluate(args)["datasets"]["sums"]["metrics"]
    trainer = make_trainer(tmp_path / "run", str(tmp_path / "sums.jsonl"))
    trainer.loader.sampler = StandaloneSampler(args)  # the same completions, by the same seed
    metrics = trainer.evaluate()
    assert list(wanted) == METRICS and 0 < wanted["pass@1"]["value"] < 1
    assert metrics == {f"eval_{name}": value["value"] for name, value in wanted.items()} | {
        f"eval_{name}_{end}": value[end] for name, value in wanted.items() for end in ("low", "high")
    }


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, []),
        ({"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2}, [0, 2, 4]),
        ({"eval_strategy": "steps", "eval_steps": 3}, [3, 4]),  # transformers evaluates the last step too
    ],
)
def test_training_does_not_notice(tmp_path, changes, steps):
    trainer = make_trainer(tmp_path / "evaluated", max_steps=4, **changes)
    trainer.train()
    assert evaluated_steps(trainer) == steps
    without = make_trainer(tmp_path / "without", None, max_steps=4)
    without.train()
    pairs = zip(weights(trainer.model), weights(without.model), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    logged = [[entry["reward"] for entry in t.state.log_history if "reward" in entry] for t in (trainer, without)]
    assert logged[0] == logged[1] and len(logged[0]) == 4


def test_resuming_does_not_evaluate_a_step_again(tmp_path):
    settings = {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps"}
    settings |= {"save_steps": 2, "max_steps": 4}
    data = {"first": QUESTIONS, "second": QUESTIONS.select([0])}
    whole = make_trainer(tmp_path, data, **settings)
    whole.train()
    resumed = make_trainer(tmp_path, data, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for trainer in whole, resumed:
        for key in "eval_first_pass@1", "eval_second_pass@1":
            assert evaluated_steps(trainer, key) == [0, 2, 4]
    last = [[entry for entry in t.state.log_history if "eval_first_pass@1" in entry] for t in (whole, resumed)]
    assert last[0] == last[1]
    results = {(result["dataset"], result["metric"]): result for result in training_results(whole)}
    assert set(results) == {(name, metric) for name in data for metric in METRICS if "@" in metric}
    entry, result = last[0][-1], results["first", "maj@4"]
    assert result["value"] == round(entry["eval_first_maj@4"], 4) and result["details"]["step"] == 4
    interval = [round(entry[f"eval_first_maj@4_{end}"], 4) for end in ("low", "high")]
    assert result["details"]["interval_95"] == interval and interval[0] < interval[1]
    assert result["details"]["num_samples"] == 4 and result["details"]["instructions"] == 3
    # Another dataset comes beside them.
    whole.evaluate(QUESTIONS.select([2]))
    assert {result["dataset"] for result in training_results(whole)} == {"first", "second", "a dataset in memory"}


def test_the_best_model_is_loaded_by_a_metric_and_trackers_show_it(tmp_path, monkeypatch):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "pass@1"}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = make_trainer(tmp_path, report_to="tensorboard", **settings)
    trainer.add_callback(SpoiledAtTheEnd())
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_pass@1" in entry]
    best = max(entries, key=lambda entry: entry["eval_pass@1"])  # the first of equal ones
    assert trainer.state.best_metric == best["eval_pass@1"] and trainer.state.best_global_step == best["step"]
    assert best["step"] < 3 and {result["details"]["step"] for result in training_results(trainer)} == {best["step"]}
    assert trainer.evaluate()["eval_pass@1"] == best["eval_pass@1"]  # of the model that is loaded, by the same draws
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    shown = [event.value for event in events.Scalars("eval/pass@1")]
    assert shown[:3] == pytest.approx([entry["eval_pass@1"] for entry in entries])
    assert {"eval/maj@4", "eval/maj@4_low", "eval/maj@4_high"} <= set(events.Tags()["scalars"])
