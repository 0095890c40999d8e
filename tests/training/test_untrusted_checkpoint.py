import pickle
import zipfile
from pathlib import Path

import pytest
from conftest import TINY_MODEL, tiny_config, tiny_seeds

from serl_trl import SeRLTrainer


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def as_torch_file(path: Path, value) -> None:
    """Write a pickle as `torch.save` does, with no tensors."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("run")
    settings = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    SeRLTrainer(str(TINY_MODEL), tiny_config(output_dir, **settings), tiny_seeds()).train()
    return output_dir


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_checkpoint_does_not_run(interrupted, tmp_path, name):
    path = interrupted / "checkpoint-1" / name
    before, ran = path.read_bytes(), tmp_path / "ran"
    as_torch_file(path, Touch(ran))
    settings = {"max_steps": 2, "save_strategy": "no"}
    trainer = SeRLTrainer(str(TINY_MODEL), tiny_config(interrupted, **settings), tiny_seeds())
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        trainer.train(resume_from_checkpoint=True)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Touch(ran)))  # it would have
    assert ran.exists()
    path.write_bytes(before)
