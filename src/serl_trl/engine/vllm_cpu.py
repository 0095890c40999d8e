"""All that is special to vLLM on a CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .sampling_settings import attributes


@contextmanager
def started_on_cpu(args) -> Iterator[None]:
    """Let TRL start vLLM on the CPU in float32, like the trainer, without compiling, and with small blocks.

    TRL hands none of these on. Sampling is 4 times and starting 7 times faster than as vLLM does by itself on a CPU
    without bfloat16 arithmetic (benchmarks/vllm_cpu.py, docs/runs.md).
    """
    if not (args.use_vllm and args.vllm_mode == "colocate" and args.device.type == "cpu"):
        yield
        return
    from trl.generation import vllm_generation

    with attributes(vllm_generation, {"LLM": partial(vllm_generation.LLM, **_cpu_settings())}):
        yield


def seeded_cpu_settings(max_length: int) -> dict:
    """Return the settings of an [`~vllm.LLM`] on the CPU whose requests have seeds and at most `max_length` tokens."""
    # A prompt that is computed in parts can't have a seed of its own there ("CPU Generator does not use offset").
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_length, 8192)}
    return _cpu_settings() | whole_prompts


def _cpu_settings() -> dict:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; vLLM would take most of the machine's memory
    # The completions of a group share whole blocks of their prompt: 32 tokens are the fewest, 128 vLLM's own.
    return {"dtype": "float32", "enforce_eager": True, "block_size": 32}


def reload_weights(vllm_generation) -> None:
    """Push the weights by vLLM's layerwise reload: on the CPU its kernels repack them, and a plain load is lost."""
    weights = ((name, weight.detach()) for name, weight in vllm_generation._iter_named_params())
    vllm_generation.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
    model = vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    head, embeddings = getattr(model, "lm_head", None), vllm_generation.model.get_input_embeddings()
    if head is not None and vllm_generation.model.get_output_embeddings().weight is embeddings.weight:
        # The reload passes a head over that is tied to the embeddings: the weight is new, its repacked copy is not.
        head.quant_method.process_weights_after_loading(head)
    vllm_generation.llm.reset_prefix_cache()
