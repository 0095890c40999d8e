"""Runs beside other runs on the same machine."""

import os
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from serl_trl.engine.vllm import started
from serl_trl.train import run as train


@pytest.fixture
def busy_port():
    """Let something listen on the port that torch, accelerate and TRL would take."""
    with socket.socket() as listener:
        try:
            listener.bind(("localhost", 29500))
            listener.listen()
        except OSError:
            pass  # another run's
        yield 29500


def test_a_second_run_with_vllm_takes_a_port_of_its_own(busy_port, monkeypatch):
    args = SimpleNamespace(use_vllm=True, vllm_mode="colocate", device=torch.device("cuda"))
    ports = []
    for _ in range(2):  # two runs that start at the same time: TRL would choose one port for both
        monkeypatch.delenv("MASTER_PORT", raising=False)
        with started(args):
            ports.append(int(os.environ["MASTER_PORT"]))
    assert busy_port not in ports and ports[0] != ports[1]
    monkeypatch.setenv("MASTER_PORT", "12345")  # the user's, or a launcher's for all processes
    with started(args):
        assert os.environ["MASTER_PORT"] == "12345"


@pytest.mark.parametrize(("given", "port"), [([], None), (["--main_process_port", "12345"], "12345")])
def test_a_second_launch_takes_a_port_of_its_own(busy_port, monkeypatch, given, port):
    def become(program, command):
        sys.exit(command)

    monkeypatch.setattr("os.execv", become)
    with pytest.raises(SystemExit) as ended:
        train(
            [
                "--accelerate_config",
                "cpu",
                *given,
                "--seeds",
                "seeds.jsonl",
                "--output_dir",
                "run",
                "--use_cpu",
                "true",
            ]
        )
    command = ended.value.code
    assert command.count("--main_process_port") == 1
    found = command[command.index("--main_process_port") + 1]
    assert found == port if port else int(found) not in (0, busy_port)
