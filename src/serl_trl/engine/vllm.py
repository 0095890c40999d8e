"""What vLLM needs of a trainer: weights as they are, a seed that counts, a server of the right length."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from accelerate.utils import broadcast_object_list, is_peft_model
from transformers import set_seed

from ..launch import free_port
from .adapters import merged_parameters
from .models import context_length, is_sharded
from .vllm_cpu import reload_weights, started_on_cpu


@contextmanager
def started(args) -> Iterator[None]:
    """Let TRL start vLLM in the block, beside other runs of this machine: at a port of its own.

    TRL takes one of four ports, seconds before vLLM listens there. With several processes the launcher has named one.
    """
    if args.use_vllm and args.vllm_mode == "colocate":
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    with started_on_cpu(args):
        yield


def prepare_vllm(trainer) -> None:
    """Let weights reach vLLM as they are, and make the seed count again after vLLM reset all generators."""
    if not trainer.use_vllm:
        return
    if is_peft_model(trainer.model) and not is_sharded(trainer.args):
        trainer.vllm_generation._iter_named_params = MethodType(merged_parameters, trainer.vllm_generation)
    if trainer.vllm_mode == "server":
        _check_server(trainer)
        return
    set_seed(engine_seed(trainer))  # vLLM seeds `random`, NumPy and torch with the rank at its start
    if trainer.accelerator.device.type == "cpu":
        trainer.vllm_generation.sync_weights = MethodType(reload_weights, trainer.vllm_generation)


def engine_seed(trainer) -> int:
    """Return the seed of this process: equal within a tensor-parallel group, whose ranks must draw alike, only."""
    together = trainer.vllm_tensor_parallel_size if trainer.use_vllm else 1
    return (trainer.args.seed * 10007 + trainer.accelerator.process_index // together) % 2**32


def _check_server(trainer) -> None:
    """Raise `ValueError` if the vLLM server's context is shorter than ours.

    It refuses a prompt whose tokens and `max_tokens` exceed it together. Only the first process would hear of that, in
    the midst of training, and the others would wait for it.
    """
    length = [None]
    if trainer.accelerator.is_main_process:
        length = [trainer.vllm_generation.vllm_client.get_server_info()["model_config"]["max_model_len"]]
    (length,) = broadcast_object_list(length)
    needed = context_length(trainer.model.config, trainer.args)
    if length < needed:
        raise ValueError(
            f"The vLLM server has a context of {length} tokens, and prompt and completion may have {needed} together. "
            f"Set vllm_max_model_length to {length}, or start the server with --max-model-len {needed}."
        )
