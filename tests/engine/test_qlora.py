"""QLoRA on the CPU, as far as bitsandbytes computes there: 4-bit base, transformers generation."""

import pytest
import torch
from conftest import TINY_MODEL, tiny_config, tiny_seeds
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import BitsAndBytesConfig

from serl_trl import SeRLTrainer


bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
FOUR_BITS = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
LORA = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def test_the_adapter_is_trained_and_the_packed_base_keeps_its_bits(tmp_path):
    trainer = SeRLTrainer(
        str(TINY_MODEL), tiny_config(tmp_path), tiny_seeds(), quantization_config=FOUR_BITS, peft_config=LORA
    )
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in trainer.model.modules())
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) == ("lora" not in name), name
    trainer.save_model()
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path)  # on the base as it was published
    moved = [parameter for name, parameter in adapter.named_parameters() if "lora_B" in name]
    assert moved and all(parameter.abs().max() > 0 for parameter in moved)


def test_vllm_is_refused_with_the_way_out(tmp_path):
    pytest.importorskip("vllm")
    config = tiny_config(tmp_path / "run", use_vllm=True)
    with pytest.raises(ValueError, match="packed weights can't be sent to vLLM.*Set use_vllm to False"):
        SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), quantization_config=FOUR_BITS, peft_config=LORA)
    assert not (tmp_path / "run").exists()
