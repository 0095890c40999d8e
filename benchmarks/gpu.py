"""What only a GPU shows, in one go: seconds by stage, memory, weight sync, sleep mode, and learning on a real model.

    python benchmarks/gpu.py --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --seeds gsm8k_train.jsonl --held_out gsm8k_test.jsonl --output outputs/gpu

Needs one GPU, vLLM and PEFT. Seeds and held-out questions have answers (`question` and `answer`, say). The parts, each in
a process of its own, since a process can hold one vLLM engine and its memory is measured:

- steps: SeRL, full fine-tuning in bfloat16, colocated vLLM
- grpo: TRL's own GRPOTrainer with the same settings, on the seeds and their true answers
- lora: SeRL with LoRA on a bfloat16 base; its weight sync against TRL's
- sleep: `steps` with vLLM's sleep mode
- learning: SeRL for more steps, with `serl-trl eval` before and after

Each part writes OUTPUT/PART.json and its log to OUTPUT/PART.log; a part whose JSON is there is not run again, so that an
interrupted run goes on. The tables are printed and written to OUTPUT/gpu.md. To try it out on a CPU (seeds of the tiny
world: tests/test_gpu_benchmark.py): `--model tests/tiny_model --settings benchmarks/gpu_tiny.yaml --steps 2
--learning_steps 4`.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml


ROOT = Path(__file__).resolve().parent.parent
PARTS = ("steps", "grpo", "lora", "sleep", "learning")


def run(part: str, arguments: dict) -> bool:
    """Run a part in a process of its own, if it is not done; return whether it is."""
    output = Path(arguments["output"])
    if (output / f"{part}.json").exists():
        print(f"{part}: done before", flush=True)
        return True
    if part != "learning":
        shutil.rmtree(output / part, ignore_errors=True)  # what an interrupted run left
    print(f"{part} ... ", end="", flush=True)
    began = time.perf_counter()
    with (output / f"{part}.log").open("a") as log:
        command = [sys.executable, __file__, "--run_part", part, "--output", str(output)]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes" if code == 0 else f"FAILED after {minutes:.1f} minutes, see {log.name}", flush=True)
    return code == 0


def run_here(part: str, output: Path) -> None:
    """Run a part in this process and write its measures."""
    from gpu_parts.training import run_part

    from serl_trl.atomic_write import atomic_write

    found = run_part(part, json.loads((output / "arguments.json").read_text()))
    with atomic_write(output / f"{part}.json") as path:
        path.write_text(json.dumps(found))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", help="questions with answers; SeRL itself does not read the answers")
    parser.add_argument("--held_out", help="questions with answers, to measure before and after")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--settings", help="a YAML file of settings of SeRLConfig, which have the last word")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of all parts but `learning`")
    parser.add_argument("--learning_steps", type=int, default=200)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, with commas")
    parser.add_argument("--run_part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_part:
        return args
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"--parts has {', '.join(sorted(unknown))}. Choose from {', '.join(PARTS)}.")
    if args.steps < 2:
        parser.error(f"--steps is {args.steps}. Set it to 2 or more: the first ones are left out of the means.")
    for name in ("seeds", "held_out", "settings"):
        path = getattr(args, name)
        if path is None and (name == "seeds" or (name == "held_out" and "learning" in args.parts)):
            parser.error(f"--{name} is missing.")
        if path is not None and not Path(path).is_file():
            parser.error(f"--{name}: there is no file {path!r}.")
    return args


def keep_arguments(args: argparse.Namespace) -> dict:
    """Write the arguments that the measures depend on, for the parts; exit if the folder holds others."""
    arguments = {"model": args.model, "output": str(args.output), "seeds": args.seeds, "held_out": args.held_out}
    arguments |= {"steps": args.steps, "learning_steps": args.learning_steps, "settings": {}}
    if args.settings:
        arguments["settings"] = yaml.safe_load(Path(args.settings).read_text()) or {}
    path = args.output / "arguments.json"
    before = json.loads(path.read_text()) if path.exists() else arguments
    other = [name for name, value in arguments.items() if value != before[name] and None not in (value, before[name])]
    if other:
        sys.exit(
            f"error: {args.output} holds measures with another {', '.join(other)} ({path}). Set --output to a new folder."
        )
    arguments |= {"held_out": args.held_out or before["held_out"]}
    args.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(arguments))
    return arguments


def main() -> None:
    args = read_arguments()
    if args.run_part:
        run_here(args.run_part, args.output)
        return
    arguments = keep_arguments(args)
    try:
        finished = [run(part, arguments) for part in args.parts]
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on.")
        sys.exit(130)
    from gpu_parts.report import report

    found = {part: args.output / f"{part}.json" for part in PARTS}
    found = {part: json.loads(path.read_text()) for part, path in found.items() if path.exists()}
    if found:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        command = shlex.join([Path(sys.executable).name, os.path.relpath(__file__), *sys.argv[1:]])
        text = report(found, arguments, command, commit.stdout.strip())
        (args.output / "gpu.md").write_text(text + "\n", encoding="utf-8")
        print(f"\n{text}\n\nThe same in {args.output}/gpu.md; all steps in {args.output}/*.json.")
    sys.exit(0 if all(finished) else 1)


if __name__ == "__main__":
    main()
