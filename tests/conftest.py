"""What the tests share: the tiny model, its world of 200 questions, and a quick configuration."""

import os
import random
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset


ROOT = Path(__file__).parent.parent
TINY_MODEL = Path(__file__).parent / "tiny_model"
TINY_TEMPLATE = Path(__file__).parent / "tiny_template.yaml"
sys.path.insert(0, str(ROOT / "scripts"))


def tiny_seeds(count: int = 50) -> Dataset:
    """Return some of the 200 questions that the tiny model knows."""
    from make_tiny_model import PAIRS, question

    return Dataset.from_dict({"instruction": [question(*pair) for pair in random.Random(1).sample(PAIRS, count)]})


# Settings that train the tiny model in seconds: 2 groups of 4 completions a generation batch.
TINY_SETTINGS = {
    "method": "paper",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_vllm": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_steps": 3,
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 8,
    "max_instruction_length": 40,
    "instruction_requests": 2,
    "prompt_template": str(TINY_TEMPLATE),
    # Questions of the tiny world differ in few words: only the same ones are too similar.
    "diversity_threshold": 0.99,
}


def tiny_config(output_dir, **changes):
    """Return the tiny settings with changes."""
    from serl_trl import SeRLConfig

    return SeRLConfig(str(output_dir), **TINY_SETTINGS | changes)


def ledger_rows(output_dir) -> list[dict]:
    """Return the rows of a run's ledger, in order."""
    files = sorted((Path(output_dir) / "_ledger").glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def weights(model) -> list:
    """Return copies of all parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def pytest_collection_modifyitems(items) -> None:
    """Mark as `training` what stands in a file that uses the tiny model or a notebook; `make test-fast` leaves it out."""
    for item in items:
        if {"TINY_MODEL", "make_trainer", "run_notebook"} & vars(item.module).keys():
            item.add_marker("training")


@pytest.fixture(scope="module", autouse=True)
def own_environment():
    """Give the environment back as it was: TRL's colocated vLLM names its process group there."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def refused(capsys):
    """Return a context in which a command must end in one sentence and the exit code of a bad argument."""

    @contextmanager
    def refused(message: str):
        with pytest.raises(SystemExit) as ended:
            yield
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert ended.value.code == 2 and re.search(f"^error: .*{message}", said), said

    return refused


@pytest.fixture
def reference_votes() -> Path:
    path = ROOT.parent / "shared" / "reference" / "votes.jsonl"
    if not path.exists():
        pytest.skip("the reference votes lie outside the repository, in ../shared")
    return path
