"""Pushing LoRA's weights to vLLM: serl-trl's way and TRL's, and what they do to the base."""

import time
from types import MethodType

import torch
from transformers import TrainerCallback

from .recorder import synchronize


class KeepAdapters(TrainerCallback):
    """Keeps the adapter after each optimizer step, on the CPU."""

    def __init__(self):
        self.states: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        trained = ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
        self.states.append({name: weight.detach().to("cpu", copy=True) for name, weight in trained})


def base_layers(model) -> list[torch.Tensor]:
    """Return the weights that the adapter is merged into."""
    return [weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")]


def base_weights(model) -> list[torch.Tensor]:
    """Return copies of the weights that the adapter is merged into, on the CPU."""
    return [weight.detach().to("cpu", copy=True) for weight in base_layers(model)]


def changed_share(before: list[torch.Tensor], model) -> float:
    """Return the share of the base's weights whose bits are others than before."""
    integer = {2: torch.int16, 4: torch.int32}[before[0].element_size()]
    pairs = zip(before, base_weights(model), strict=True)
    changed = sum(int((old.view(integer) != new.view(integer)).sum()) for old, new in pairs)
    return changed / sum(weight.numel() for weight in before)


@torch.no_grad()
def compare_syncs(trainer, before: list[torch.Tensor], adapters: list[dict[str, torch.Tensor]]) -> dict:
    """Push the weights with the adapter of each step once more, our way and TRL's: seconds, and what the base lost."""
    from trl.generation.vllm_generation import VLLMGeneration

    engine, found = trainer.vllm_generation, {}
    parameters = dict(trainer.model.named_parameters())
    ways = {"serl-trl": engine._iter_named_params, "TRL": MethodType(VLLMGeneration._iter_named_params, engine)}
    for name, iterate in ways.items():
        engine._iter_named_params = iterate
        seconds = []
        for adapter in adapters:
            for weight, values in adapter.items():
                parameters[weight].copy_(values)
            synchronize()
            start = time.perf_counter()
            engine.sync_weights()
            synchronize()
            seconds.append(time.perf_counter() - start)
        found[name] = {"seconds": seconds, "changed": changed_share(before, trainer.model)}
    return found
