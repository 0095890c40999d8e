"""`make demo`: SeRL on a real language model, SmolLM2-135M-Instruct, without a GPU and without the Hub."""

import logging
import os
from importlib.util import find_spec
from pathlib import Path

from demo_model import make_demo_model


ROOT = Path(__file__).resolve().parent.parent


def free_folder() -> Path:
    """Return `outputs/demo`, or the first of `outputs/demo-2`, `-3`, ... that holds no earlier demo."""
    folder, number = ROOT / "outputs" / "demo", 1
    while folder.exists():
        number += 1
        folder = ROOT / "outputs" / f"demo-{number}"
    return folder


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel that only QLoRA would use
    print("Converting SmolLM2-135M-Instruct to a checkpoint (once) ...", flush=True)
    model = make_demo_model()
    engine = "colocated vLLM" if find_spec("vllm") else "transformers generation, since vLLM is not installed here"
    print(f"Training {model} with {engine}.", flush=True)

    from serl_trl.train import run

    arguments = ["--config", str(ROOT / "recipes" / "demo.yaml"), "--model_name_or_path", str(model)]
    arguments += ["--save_strategy", "no"]  # a checkpoint of it has 1.6 GB
    arguments += ["--seeds", str(ROOT / "src" / "serl_trl" / "data" / "arithmetic.jsonl")]
    run([*arguments, "--output_dir", os.path.relpath(free_folder())])


if __name__ == "__main__":
    main()
