"""The evaluation of a trainer beside `serl-trl eval`: the same 500 questions, 16 completions of each.

    python benchmarks/evaluation.py

The 0.3 M-parameter model, transformers generation, one core: seconds by the clock of three rounds in turns, without
loading the model.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent
QUESTIONS, SAMPLES = 500, 16


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from datasets import Dataset

    from serl_trl import SeRLConfig, SeRLTrainer
    from serl_trl.evaluation.arguments import EvaluationArguments
    from serl_trl.evaluation.job import evaluate

    pairs = [(first, second) for first in range(1, 26) for second in range(1, 21)]
    rows = [{"question": f"what is {first} plus {second}?", "answer": str(first + second)} for first, second in pairs]
    shared = {"prompt_template": str(ROOT / "tests" / "tiny_template.yaml"), "max_completion_length": 8}
    took = {"`serl-trl eval`": [], "`SeRLTrainer.evaluate`": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "questions.jsonl"
        Dataset.from_list(rows).to_json(data)
        config = SeRLConfig(
            f"{folder}/run",
            use_cpu=True,
            bf16=False,
            use_vllm=False,
            max_steps=1,
            num_generations=SAMPLES,
            per_device_train_batch_size=8 * SAMPLES,
            gradient_accumulation_steps=1,
            max_instruction_length=40,
            report_to="none",
            disable_tqdm=True,
            **shared,
        )
        trainer = SeRLTrainer(str(ROOT / "tests" / "tiny_model"), config, str(data), eval_dataset=str(data))
        for number in range(3):
            arguments = EvaluationArguments(
                model=str(ROOT / "tests" / "tiny_model"),
                data=[str(data)],
                num_samples=SAMPLES,
                batch_size=8 * SAMPLES,
                use_vllm=False,
                output_dir=f"{folder}/eval-{number}",
                **shared,
            )
            for name, run in zip(took, (lambda: evaluate(arguments), trainer.evaluate), strict=True):  # noqa: B023
                start = time.perf_counter()
                run()
                took[name].append(time.perf_counter() - start)
    print("| evaluation | s |\n| --- | --- |")
    for name, times in took.items():
        print(f"| {name} | {statistics.median(times):.1f} |")
    command, method = took.values()
    ratios = [one / other for one, other in zip(method, command, strict=True)]
    print(f"\nIn training it takes {statistics.median(ratios):.2f} x as long.")


if __name__ == "__main__":
    main()
