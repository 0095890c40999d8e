"""The paper's claim on a real language model: SmolLM2-135M-Instruct on two CPU cores, colocated vLLM, two-digit sums.

1. Warm-up, on labelled questions of its own: as it comes, the model's majority is right too seldom for self-play (23 % of
   two-digit sums, docs/runs.md). A few supervised steps bring it to where the majority is mostly right.
2. From 60 seeds without answers: the paper's rule; the paper's rule with a gate fitted to the seeds, with a band nearer to
   agreement, and with both; and the rule `trusted`. And RL with true labels on the same 60 seeds (without the band, as RL
   with true labels usually is). All other settings are the same, and were fixed before the runs.
3. `serl-trl eval` on 300 held-out questions before and after, and `--compare` between them.

    python benchmarks/real_model.py --output outputs/real_model --arms trusted paper --seeds 0 1 2

Each part is skipped if its result is there, so that an interrupted run goes on.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import yaml


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
SEEDS, HELD_OUT, WARM_UP = 60, 300, 6000
STEPS = 16
SAMPLED = ("self_instruction/tokens", "self_rewarding/tokens", "self_rewarding/confirming_tokens")
TRAINED = "self_rewarding/trained_tokens"
# Short prompts, since a CPU computes every token of them again and again: no system prompt, and no request.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATE = {"system": "", "user": "Write a numbered list of new questions.", "answer_request": ""}

TRAINING = {
    "method": "paper",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_steps": STEPS,
    "learning_rate": 1e-5,
    "warmup_steps": 0.1,
    "beta": 0.0,
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "max_completion_length": 12,
    "max_instruction_length": 96,
    "instruction_presence_penalty": 0.0,  # the words of a sum return in the next
    "diversity_threshold": 0.9,  # two sums may share a number
    "vllm_max_model_length": 384,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
}
BAND = {"min_pass_rate": 0.5, "max_pass_rate": 0.9}
ARMS = {
    "paper": {},
    "nearness": {"nearness_level": 1.0},
    "band": BAND,
    "nearness_and_band": {"nearness_level": 1.0, **BAND},
    "trusted": {"method": "trusted"},
    "true_labels": {
        "instruction_source": "seeds",
        "label_source": "true_answer",
        "min_pass_rate": 0.0,
        "max_pass_rate": 1.0,
    },
}


def make_questions() -> dict[str, list[dict]]:
    """Return the three disjoint sets of questions, each with its answer."""
    rng = random.Random(0)
    two_digits = [(first, second) for first in range(10, 100) for second in range(10, 100)]
    drawn = rng.sample(two_digits, SEEDS + HELD_OUT)
    # Wider than the seeds: the model writes sums of larger numbers too, and its majority must be right on those.
    wider = [(first, second) for first in range(1, 200) for second in range(1, 200)]
    drawn += rng.sample(sorted(set(wider) - set(drawn)), WARM_UP)
    rows = [{"question": f"What is {first} + {second}?", "answer": str(first + second)} for first, second in drawn]
    return {
        "seeds": rows[:SEEDS],
        "held_out": rows[SEEDS : SEEDS + HELD_OUT],
        "warm_up": rows[SEEDS + HELD_OUT :],
    }


def warm_up(model_folder: Path, rows: list[dict], target: float, template_file: Path, output: Path) -> None:
    """Train on labelled questions until the right answer's probability, on those not yet seen, is `target`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from serl_trl.engine.models import tokenize_prompts
    from serl_trl.self_play.prompt import answer_prompt, load_template

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)  # bfloat16 is slow on a CPU
    template = load_template(str(template_file))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.0)

    def answer_logps(batch: list[dict]) -> torch.Tensor:
        """Log-probability of each right answer, shape (batch,)."""
        prompts = tokenize_prompts(tokenizer, [answer_prompt(row["question"], template) for row in batch])
        answers = [tokenizer(f"\\boxed{{{row['answer']}}}<|im_end|>")["input_ids"] for row in batch]
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        ids = torch.full((len(batch), length), tokenizer.pad_token_id)
        mask = torch.zeros(len(batch), length)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            mask[row, len(prompt) : len(prompt) + len(answer)] = 1.0
        logps = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (logps * mask[:, 1:]).sum(1)

    size, recent = 16, []
    for step, start in enumerate(range(0, len(rows), size), start=1):
        logps = answer_logps(rows[start : start + size])
        recent = [*recent, logps.exp().mean().item()][-5:]
        print(f"warm-up step {step}  right answers' probability {sum(recent) / len(recent):.2f}", flush=True)
        if len(recent) == 5 and sum(recent) / 5 >= target:
            break
        (-logps.mean() / 8).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def run(*command: str) -> None:
    """Run a command of serl-trl as a user would, and say how long it took."""
    print("$ serl-trl " + " ".join(command), flush=True)
    began = time.perf_counter()
    program = str(Path(sys.executable).parent / "serl-trl")
    subprocess.run([program, *command], env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes", flush=True)


def evaluate(model: Path, output: Path, dtype: str, baseline: Path | None = None) -> None:
    """Measure a model on the held-out questions, and by how much it differs from `baseline`."""
    arguments = ["--model", str(model), "--data", str(output / "held_out.jsonl"), "--num_samples", "8"]
    arguments += ["--dtype", dtype, "--prompt_template", str(output / "template.yaml")]
    arguments += ["--max_completion_length", str(TRAINING["max_completion_length"])]
    compare = ["--compare", str(baseline / "results.json")] if baseline else []
    run("eval", *arguments, "--output_dir", str(output / f"eval_{model.name}"), *compare)


def gains(output: Path, runs: list[str]) -> str:
    """Return the table of the arms: pass@1 and maj@8 in %, and their paired differences from the start."""
    lines = ["| | pass@1 | gain, 95 % interval | maj@8 | gain, 95 % interval |", "| --- | --- | --- | --- | --- |"]
    for arm in ("start", *runs):
        results = json.loads((output / f"eval_{arm}" / "results.json").read_text())
        measured, cells = results["datasets"]["held_out"]["metrics"], []
        for metric in ("pass@1", "maj@8"):
            cells.append(f"{100 * measured[metric]['value']:.1f}")
            if arm == "start":
                cells.append("")
                continue
            difference = results["comparison"]["datasets"]["held_out"][metric]
            values = [100 * difference[name] for name in ("difference", "low", "high")]
            cells.append("{:+.1f} [{:+.1f}, {:+.1f}]".format(*values))
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def read_trained(output: Path, run: str) -> list[dict]:
    """Return what was trained on, as in the ledger, with its numbers and whether the label is right."""
    import pyarrow.parquet as pq

    files = sorted((output / run / "_ledger").glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path).to_pylist() if row["fate"] == "trained"]
    for row in rows:
        row["numbers"] = [int(number) for number in re.findall(r"\d+", row["instruction"])]
        row["right"] = str(sum(row["numbers"])) == row["pseudo_label"]
    return rows


def means(output: Path, arms: list[str], seeds: list[int]) -> str:
    """Return the table of the arms over the random seeds, with t-intervals; tokens of answers and instructions alone."""
    from learning_figures import interval

    lines = [
        "| arm | runs | gain in pass@1 | gain in maj@8 | labels right | numbers over 99 | sampled for a trained token |"
    ]
    lines.append("| --- " * 7 + "|")
    for arm in arms:
        gains, rows, tokens = {"pass@1": [], "maj@8": []}, [], Counter()
        for run in [f"{arm}_{seed}" for seed in seeds]:
            results = json.loads((output / f"eval_{run}" / "results.json").read_text())
            for metric, values in gains.items():
                values.append(100 * results["comparison"]["datasets"]["held_out"][metric]["difference"])
            rows += read_trained(output, run)
            for entry in json.loads((output / run / "trainer_state.json").read_text())["log_history"]:
                tokens.update({name: entry.get(name, 0.0) for name in (*SAMPLED, TRAINED)})
        shown = "{:+.1f} ± {:.1f}" if len(seeds) > 1 else "{:+.1f}"
        cells = [shown.format(*interval(values)) for values in gains.values()]
        cells += [f"{sum(row['right'] for row in rows)} of {len(rows)}"]
        cells += [f"{sum(max(row['numbers'], default=0) > 99 for row in rows)} of {len(rows)}"]
        cells += [f"{sum(tokens[name] for name in SAMPLED) / tokens[TRAINED]:.1f}"]
        lines.append(f"| {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curves(output: Path, arm: str, parts: int = 6) -> str:
    """Return a table of a run in equal parts: rewards, and of the trained groups what the ledger says."""
    rows = read_trained(output, arm)
    log = json.loads((output / arm / "trainer_state.json").read_text())["log_history"]
    lines = ["| steps | reward | pass rate | labels right | numbers over 99 |", "| --- | --- | --- | --- | --- |"]
    for part in range(parts):
        first, last = part * STEPS // parts, (part + 1) * STEPS // parts  # steps taken before
        rewards = [entry["reward"] for entry in log if "reward" in entry and first < entry["step"] <= last]
        trained = [row for row in rows if first <= row["trained_step"] < last]
        right = sum(row["right"] for row in trained)
        large = sum(max(row["numbers"], default=0) > 99 for row in trained)
        pass_rate = sum(row["pass_rate"] for row in trained) / len(trained)
        lines.append(
            f"| {first + 1} to {last} | {sum(rewards) / len(rewards):.2f} | {pass_rate:.2f} "
            f"| {right} of {len(trained)} | {large} of {len(trained)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "real_model")
    parser.add_argument("--target", type=float, default=0.65, help="right answers' probability after the warm-up")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="random seeds of each arm")
    parser.add_argument(
        "--dtype", default="float32", help="of the evaluations: bfloat16 is faster where the CPU has it"
    )
    parser.add_argument("--warm_up_only", action="store_true", help="stop after measuring the start")
    args = parser.parse_args()
    from demo_model import make_demo_model

    output, questions = args.output, make_questions()
    output.mkdir(parents=True, exist_ok=True)
    unlabelled = [{"question": row["question"]} for row in questions["seeds"]]
    for name, rows in {**questions, "seeds_without_answers": unlabelled}.items():
        (output / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = output / "template.yaml"
    template.write_text(yaml.safe_dump(TEMPLATE))
    start = output / "start"
    if not start.exists():
        unfinished = output / "start_unfinished"
        warm_up(make_demo_model(), questions["warm_up"], args.target, template, unfinished)
        unfinished.rename(start)
    evaluate(start, output, args.dtype)
    runs = {f"{arm}_{seed}": ARMS[arm] | {"seed": seed} for seed in args.seeds for arm in args.arms}
    for arm, settings in {} if args.warm_up_only else runs.items():
        recipe, seeds = output / f"{arm}.yaml", "seeds" if "label_source" in settings else "seeds_without_answers"
        recipe.write_text(
            yaml.safe_dump(TRAINING | settings | {"model_name_or_path": str(start), "prompt_template": str(template)})
        )
        if not (output / arm / "model.safetensors").exists():
            shutil.rmtree(output / arm, ignore_errors=True)  # what an interrupted run left
            arguments = ["--config", str(recipe), "--seeds", str(output / f"{seeds}.jsonl")]
            run("train", *arguments, "--output_dir", str(output / arm))
        evaluate(output / arm, output, args.dtype, output / "eval_start")
    if not args.warm_up_only:
        print(gains(output, runs))
        print(f"\n{means(output, args.arms, args.seeds)}")
        for arm in runs:
            print(f"\n{arm}\n\n{curves(output, arm)}")


if __name__ == "__main__":
    main()
