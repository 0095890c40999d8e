"""Adapters (PEFT): their way to vLLM without touching the frozen base, and what can't go that way."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from itertools import groupby
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from .models import read_config


ADAPTER_SETTINGS = (
    "r lora_alpha lora_dropout use_rslora use_dora target_modules target_parameters modules_to_save".split()
)


def empty_model(config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the model of a configuration without weights: all parameters are on the meta device."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:  # transformers' message lists every type that there is
        raise ValueError(f"A model of type {config.model_type} is no causal language model. Use one.") from error


def add_empty_adapter(model: PreTrainedModel, peft_config) -> nn.Module:
    """Return a model without weights with an adapter without weights; `peft_config` is left as it is."""
    from peft import get_peft_model

    peft_config = deepcopy(peft_config)
    if hasattr(peft_config, "init_lora_weights"):
        peft_config.init_lora_weights = False  # PiSSA and others compute on the weights, of which there are none
    return get_peft_model(model, peft_config)


def check_adapter(model: nn.Module) -> None:
    """Raise `ValueError` for an adapter that can't be merged into weights of the names and shapes that vLLM knows.

    Args:
        model ([`~peft.PeftModel`]): The model with its adapter; without weights will do.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    peft_config = model.active_peft_config
    advice = "or use_vllm to False for transformers generation."
    if peft_config.peft_type != "LORA":  # some others merge by swapping modules, or change no weights at all
        raise ValueError(
            f"The adapter is of type {peft_config.peft_type.value}. Use LoRA, whose way to vLLM is tested, {advice}"
        )
    for name in ("trainable_token_indices", "target_parameters", "layer_replication"):
        if getattr(peft_config, name, None):
            raise ValueError(
                f"The adapter sets {name} to {getattr(peft_config, name)!r}, whose merged weights have no name in vLLM. "
                f"Leave it out, {advice}"
            )
    if _has_tied_embeddings_of(model, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        raise ValueError(
            "The adapter changes the input or output embeddings, which the model ties together: vLLM has one tensor for "
            f"both. Leave them out of target_modules and modules_to_save, {advice}"
        )


def merged_parameters(vllm_generation) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each weight as vLLM knows it, adapters merged in: in the place of TRL's `_iter_named_params`.

    TRL merges into the base itself and subtracts again, which changes a base in 16 bits: 9.5 % of its weights have
    changed after 100 steps (TRL#6688). Here PEFT merges into a copy, a layer at a time, so that each kind of LoRA
    (rsLoRA, DoRA) is merged as PEFT does it, and the base keeps its bits. For weights that no other process holds a part of.

    Args:
        vllm_generation ([`~trl.generation.vllm_generation.VLLMGeneration`]): Of a trainer of a [`~peft.PeftModel`].
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = vllm_generation.model
    tuned = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    layer_of = {id(weight): layer for layer in tuned for weight in layer.get_base_layer().parameters(recurse=False)}
    others = [f"modules_to_save.{other}." for other in model.peft_config if other != model.active_adapter]
    # The adapter itself, what a saved module stands in for, and the reference's.
    left_out, own = (model.prefix, "original_module", *others), f"modules_to_save.{model.active_adapter}."
    # Weight and bias of a layer follow each other: merged once for both.
    for layer, parameters in groupby(model.named_parameters(), key=lambda item: layer_of.get(id(item[1]))):
        with nullcontext() if layer is None else _merged(layer):
            for name, parameter in parameters:
                name = name.removeprefix("base_model.model.").replace(".base_layer", "")
                if any(part in name for part in left_out):
                    continue
                yield vllm_generation._fix_param_name_to_vllm(name, extra_prefixes=[own]), parameter.data


def check_mergeable(model: nn.Module) -> None:
    """Raise `ValueError` for an adapter on tied embeddings: merged, it would change the other one of them, too."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if _has_tied_embeddings_of(model, BaseTunerLayer):
        raise ValueError(
            "The adapter changes the input or output embeddings, which the model ties together: merged, it would change "
            "both. Train one without them in target_modules, or leave the adapter as it is."
        )


def _has_tied_embeddings_of(model: nn.Module, kinds: type | tuple[type, ...]) -> bool:
    """Return whether the input and output embeddings are tied, and one of them is a module of these kinds."""
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    tied = model.get_base_model().config.get_text_config().tie_word_embeddings
    return tied and any(isinstance(module, kinds) for module in embeddings)


@contextmanager
def _merged(layer) -> Iterator[None]:
    """Let a layer hold copies of its base weights with the adapter merged in for the length of the block."""
    parameters = list(layer.get_base_layer().parameters(recurse=False))
    before = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = parameter.data.clone()
    try:
        layer.merge()
        yield
    finally:
        layer.merged_adapters.clear()
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


def load_trainable(folder: str, peft_config, quantization_config, args) -> nn.Module:
    """Return the adapter saved in `folder` on its base model, so that training goes on with it.

    Args:
        folder (`str`): Of the adapter, with the name and the revision of its base model.
        peft_config ([`~peft.PeftConfig`], *optional*): Settings that the saved adapter must have.
        quantization_config, args: As in [`SeRLTrainer`].

    Raises:
        ValueError: if the saved adapter has other settings, or its base model is not found.
    """
    from peft import AutoPeftModelForCausalLM, PeftConfig

    saved = PeftConfig.from_pretrained(folder)
    for name in ADAPTER_SETTINGS if peft_config is not None else ():
        given, found = getattr(peft_config, name, None), getattr(saved, name, None)
        # PEFT resolves both on the model, and saves what they stand for.
        if given != found and not (name == "target_modules" and given in (None, "all-linear")):
            raise ValueError(
                f"The adapter in {folder!r} was saved with {name}={found!r}, and the settings say {given!r}. Training "
                "goes on with the saved adapter: use its settings, or leave out use_peft."
            )
    read_config(saved.base_model_name_or_path, saved.revision, args.trust_remote_code)  # raises if there is no base
    kwargs = {"dtype": "float32", "quantization_config": quantization_config} | (args.model_init_kwargs or {})
    kwargs |= {"trust_remote_code": args.trust_remote_code, "revision": None}  # the adapter names its base's revision
    return AutoPeftModelForCausalLM.from_pretrained(folder, is_trainable=True, **kwargs)


def load_merged(folder: str | Path, **kwargs) -> PreTrainedModel:
    """Return the base model of the adapter saved in `folder` with the adapter merged in; `kwargs` go to its loading.

    Raises:
        ValueError: As in [`check_mergeable`].
    """
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(folder, **kwargs)
    check_mergeable(model)
    return model.merge_and_unload()


def save_merged(folder: str | Path, trust_remote_code: bool = False) -> Path:
    """Merge the adapter saved in `folder` into its base model, save that in `folder/_merged`, and return the path.

    The base is loaded afresh, on the CPU and as it was published: one that was trained on quantized is merged whole. An
    error, such as a full disk, leaves no half of it behind.
    """
    from transformers import AutoTokenizer
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # under ZeRO-3, `from_pretrained` would wait for the other processes
    target = Path(folder) / "_merged"  # the underscore keeps it out of `push_to_hub` of the adapter
    model = load_merged(folder, dtype="auto", trust_remote_code=trust_remote_code)
    try:
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code).save_pretrained(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target
