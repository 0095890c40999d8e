"""Adapters on their way to vLLM and to disk: what arrives is the merged model, and the base keeps its bits."""

import copy
import shlex
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest import TINY_MODEL, TINY_SETTINGS, tiny_config, tiny_seeds
from peft import AutoPeftModelForCausalLM, LNTuningConfig, LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration

from serl_trl import SeRLTrainer
from serl_trl.engine.adapters import add_empty_adapter, check_adapter, empty_model, merged_parameters, save_merged
from serl_trl.engine.models import tokenize_prompts
from serl_trl.train import main, make_parser


def lora(**changes) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes)


def small_model(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 40, "attention_bias": True, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).to(dtype)


def generation_of(model) -> VLLMGeneration:
    """TRL's own object, without its engine."""
    generation = object.__new__(VLLMGeneration)
    accelerator = Accelerator(cpu=True)
    generation.model, generation.accelerator, generation._dist = model, accelerator, DistributedBackend(accelerator)
    return generation


ADAPTERS = {
    "LoRA": lora(),
    "rsLoRA": lora(use_rslora=True),
    "DoRA": lora(use_dora=True),
    "LoRA of some layers": lora(target_modules=["q_proj", "down_proj"]),
    "LoRA with a bias": lora(target_modules=["q_proj"], lora_bias=True),
    "LoRA of the embeddings": lora(target_modules=["embed_tokens", "q_proj"]),
    "LoRA and whole modules": lora(modules_to_save=["lm_head", "embed_tokens"]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAPTERS)
def test_vllm_gets_the_merged_model_and_the_base_keeps_its_bits(name, dtype):
    base = small_model(dtype)
    names = [parameter_name for parameter_name, _ in base.named_parameters()]
    model = get_peft_model(base, ADAPTERS[name])
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as after some training
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    merged = copy.deepcopy(model).merge_and_unload().state_dict()
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}

    for _ in range(3):  # at each step
        sent = [(key, weight.clone()) for key, weight in merged_parameters(generation_of(model))]

    assert [key for key, _ in sent] == names
    for key, weight in sent:
        assert weight.dtype == dtype and torch.equal(weight, merged[key]), key
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, before[key]), key


def test_names_and_order_are_those_of_trl():
    model = get_peft_model(small_model(), lora(modules_to_save=["lm_head"]))
    generation = generation_of(model)
    assert [name for name, _ in merged_parameters(generation)] == [name for name, _ in generation._iter_named_params()]


def test_the_reference_of_a_loaded_adapter_is_not_sent():
    model = get_peft_model(small_model(), lora(modules_to_save=["lm_head"]))
    before = [name for name, _ in merged_parameters(generation_of(model))]
    model.add_adapter("ref", model.peft_config["default"])  # as TRL does for an adapter to be trained on
    assert [name for name, _ in merged_parameters(generation_of(model))] == before


def test_an_interrupted_push_leaves_the_base_as_it_was():
    model = get_peft_model(small_model(), lora(init_lora_weights=False))
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    weights = merged_parameters(generation_of(model))
    for _ in range(3):
        next(weights)
    weights.close()
    assert all(torch.equal(parameter, before[key]) for key, parameter in model.named_parameters())
    assert not any(getattr(module, "merged", False) for module in model.modules())


@pytest.mark.parametrize(
    ("peft_config", "tied", "message"),
    [
        (lora(), True, None),
        (lora(use_dora=True, modules_to_save=["lm_head"]), False, None),
        # vLLM has one tensor for the two embeddings, which would no longer be equal
        (lora(target_modules=["embed_tokens"]), True, "ties together"),
        (lora(modules_to_save=["lm_head"]), True, "ties together"),
        (lora(trainable_token_indices=[1, 2]), False, "trainable_token_indices to [1, 2]"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), False, "PREFIX_TUNING"),
        (lora(layer_replication=[[0, 2], [0, 2]]), False, "layer_replication to [[0, 2], [0, 2]]"),
        (LNTuningConfig(task_type="CAUSAL_LM"), False, "LN_TUNING"),
        (lora(target_modules=["no_such"]), False, "no_such"),  # PEFT's own message
    ],
)
def test_what_vllm_cannot_hold_is_refused(peft_config, tied, message):
    config = small_model(tie_word_embeddings=tied).config
    if message is None:
        check_adapter(add_empty_adapter(empty_model(config), peft_config))
        return
    with pytest.raises(ValueError, match=r"[\s\S]*") as error:
        check_adapter(add_empty_adapter(empty_model(config), peft_config))
    assert message in str(error.value)


def test_an_empty_model_has_the_sizes_of_the_real_one():
    empty = empty_model(AutoConfig.from_pretrained(TINY_MODEL))
    real = AutoModelForCausalLM.from_pretrained(TINY_MODEL)
    assert [p.shape for p in empty.parameters()] == [p.shape for p in real.parameters()]
    assert {p.device.type for p in empty.parameters()} == {"meta"}


def train(output_dir, **changes) -> None:
    """Run the script's main with the tiny model, as `serl-trl train` does."""
    settings = TINY_SETTINGS | {"model_name_or_path": str(TINY_MODEL), "output_dir": str(output_dir), "max_steps": 2}
    arguments = ["--seeds", str(output_dir.parent / "seeds.jsonl")]
    for name, value in (settings | changes).items():
        arguments += [f"--{name}", str(value)]
    tiny_seeds().to_json(output_dir.parent / "seeds.jsonl")
    main(*make_parser().parse_args_and_config(arguments))


def test_the_saved_adapter_and_the_merged_model_are_what_was_trained(tmp_path):
    run = tmp_path / "run"
    train(
        run, use_peft=True, lora_r=4, lora_target_modules="all-linear", use_rslora=True, merge=True, num_iterations=2
    )
    assert not (run / "model.safetensors").exists() and (run / "adapter_model.safetensors").exists()
    tokenizer = AutoTokenizer.from_pretrained(run)
    prompt = [{"role": "user", "content": "what is 2 plus 3 ?"}]
    ids = torch.tensor(tokenize_prompts(tokenizer, [prompt]))
    adapter = AutoPeftModelForCausalLM.from_pretrained(run)
    merged = AutoModelForCausalLM.from_pretrained(run / "_merged")
    start = AutoModelForCausalLM.from_pretrained(TINY_MODEL)
    with torch.no_grad():
        from_adapter, from_merged, before = (model(ids).logits.log_softmax(-1) for model in (adapter, merged, start))
    torch.testing.assert_close(from_merged, from_adapter, rtol=0, atol=1e-5)
    assert (from_adapter - before).abs().max() > 1e-3
    assert AutoTokenizer.from_pretrained(run / "_merged").chat_template == tokenizer.chat_template


def test_merging_after_zero_3_waits_for_no_other_process(tmp_path):
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled, set_hf_deepspeed_config

    base = AutoModelForCausalLM.from_pretrained(TINY_MODEL)
    get_peft_model(base, lora()).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(tmp_path)
    deepspeed = type("ZeRO3", (), {"is_zero3": lambda self: True})()  # what Trainer's settings leave behind
    set_hf_deepspeed_config(deepspeed)
    assert is_deepspeed_zero3_enabled()
    assert (save_merged(tmp_path) / "model.safetensors").is_file()


def test_the_saved_adapter_gives_the_trained_models_log_probabilities(tmp_path):
    trainer = SeRLTrainer(
        str(TINY_MODEL), tiny_config(tmp_path, max_steps=2), tiny_seeds(), peft_config=lora(use_dora=True)
    )
    trainer.train()
    trainer.save_model()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        trained, again = (model(ids).logits.log_softmax(-1) for model in (trainer.model.eval(), loaded.eval()))
    torch.testing.assert_close(again, trained, rtol=0, atol=1e-5)


def test_a_merge_that_fails_costs_neither_the_run_nor_its_summary(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", full_in("_merged", full))
        train(run, use_peft=True, lora_r=4, lora_target_modules="all-linear", merge=True)
    printed = capsys.readouterr()
    assert "No space left on device" in printed.err and "instructions" in printed.out
    assert (run / "adapter_model.safetensors").is_file() and not (run / "_merged").exists()
    _, _, code = shlex.split(printed.err.partition("To merge it: ")[2].splitlines()[0])
    exec(code)
    assert (run / "_merged" / "model.safetensors").is_file()


def full_in(folder, error):
    """Return `save_pretrained` of tokenizers, but with `error` in a folder of that name, which was written to before."""
    own = PreTrainedTokenizerBase.save_pretrained
    return lambda self, path, **kwargs: (error if Path(path).name == folder else own)(self, path, **kwargs)


def test_merging_without_an_adapter_is_refused(tmp_path, refused):
    with refused("merge is True, and there is no adapter to merge"):
        train(tmp_path / "run", merge=True)


def test_merging_into_tied_embeddings_is_refused(tmp_path, refused):
    with refused("which the model ties together: merged, it would change both"):
        train(tmp_path / "run", use_peft=True, lora_target_modules=".*embed_tokens", merge=True)
