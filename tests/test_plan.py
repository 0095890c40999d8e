"""`serl-trl plan`: the arithmetic, which methods fit which GPU, and a recipe that the trainer takes."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import yaml
from conftest import ROOT
from peft import LoraConfig
from transformers import GPT2Config, LlamaConfig, Qwen2Config, Qwen3MoeConfig

from serl_trl.engine.adapters import add_empty_adapter, empty_model
from serl_trl.memory import GIB, Workload, budget, model_sizes
from serl_trl.plan import GPUS, KEPT_FREE, LEARNING_RATES, LORA, LORA_SETTINGS, run
from serl_trl.train import make_parser


def qwen2(hidden, intermediate, layers, heads, key_value_heads, vocabulary, tied) -> Qwen2Config:
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
    )


CONFIGS = {
    "Qwen/Qwen2.5-0.5B-Instruct": qwen2(896, 4864, 24, 14, 2, 151936, True),
    "Qwen/Qwen2.5-1.5B-Instruct": qwen2(1536, 8960, 28, 12, 2, 151936, True),
    "Qwen/Qwen2.5-7B-Instruct": qwen2(3584, 18944, 28, 28, 4, 152064, False),
    "HuggingFaceTB/SmolLM2-360M-Instruct": LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        vocab_size=49152,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
}
SIZES = {  # billions of weights, from the models' cards
    "Qwen/Qwen2.5-0.5B-Instruct": 0.49,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54,
    "Qwen/Qwen2.5-7B-Instruct": 7.61,
    "HuggingFaceTB/SmolLM2-360M-Instruct": 0.362,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_are_counted_without_loading_any(name):
    sizes = model_sizes(empty_model(CONFIGS[name]), rank=32)
    assert (sizes.linear + sizes.other) / 1e9 == pytest.approx(SIZES[name], rel=0.01)
    # Tied embeddings once; the head is not quantized.
    embeddings = sizes.vocabulary * sizes.hidden * (1 if sizes.tied else 2)
    assert embeddings < sizes.other < 1.01 * embeddings
    adapted = add_empty_adapter(empty_model(CONFIGS[name]), LoraConfig(**LORA, task_type="CAUSAL_LM"))
    assert sizes.adapter == adapted.get_nb_trainable_parameters()[0]


def test_the_budget_by_hand():
    sizes = model_sizes(empty_model(CONFIGS["Qwen/Qwen2.5-7B-Instruct"]), rank=32)
    weights = sizes.linear + sizes.other
    full = budget(sizes, Workload("full", 1, reference=True))
    assert (full["weights"], full["gradients"], full["optimizer"]) == (4 * weights, 4 * weights, 8 * weights)
    assert full["reference model"] == 4 * weights
    lora = budget(sizes, Workload("lora", 1, reference=True))
    assert lora["weights"] == 2 * weights + 4 * sizes.adapter and lora["reference model"] == 0
    assert lora["optimizer"] == 8 * sizes.adapter
    qlora = budget(sizes, Workload("qlora", 1))
    assert qlora["weights"] == 0.5625 * sizes.linear + 2 * sizes.other + 2 * sizes.adapter


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"per_device_train_batch_size": 8}, {}),
        ({"completion_length": 1024}, {}),
        ({"gradient_checkpointing": False}, {}),
        ({"method": "full"}, {"method": "lora"}),
        ({}, {"method": "qlora"}),
        ({"sequences": 512, "completion_length": 2048}, {"sequences": 64, "completion_length": 2048}),
        ({"engine": GIB}, {}),
    ],
)
def test_what_takes_more_memory(more, less):
    sizes = model_sizes(empty_model(CONFIGS["Qwen/Qwen2.5-1.5B-Instruct"]), rank=32)
    work = Workload("lora", 4)
    assert sum(budget(sizes, replace(work, **more)).values()) > sum(budget(sizes, replace(work, **less)).values())


@pytest.mark.parametrize(
    ("model", "arguments", "fits", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", ["--gpu", "24"], "fits fits fits", {"use_peft": False, "use_vllm": True}),
        ("Qwen/Qwen2.5-0.5B-Instruct", ["--method", "lora"], "fits fits fits", {"dtype": "bfloat16"}),
        # A T4 computes in float16, and transformers samples there.
        ("Qwen/Qwen2.5-1.5B-Instruct", ["--gpu", "16"], "does not fit fits", {"fp16": True, "use_vllm": False}),
        ("Qwen/Qwen2.5-7B-Instruct", ["--gpu", "24"], "does not fit does not fit fits", {"load_in_4bit": True}),
        ("Qwen/Qwen2.5-7B-Instruct", ["--gpu", "80"], "does not fit fits fits", {"load_in_4bit": False}),
        ("Qwen/Qwen2.5-7B-Instruct", ["--gpu", "16"], "does not fit does not fit", None),
    ],
)
def test_the_first_method_that_fits_becomes_a_recipe_that_the_trainer_takes(
    tmp_path, capsys, monkeypatch, model, arguments, fits, expected
):
    CONFIGS[model].save_pretrained(tmp_path / "model")
    recipe = tmp_path / "recipe.yaml"
    with pytest.raises(SystemExit) if expected is None else nullcontext():
        run(["--model", str(tmp_path / "model"), *arguments, "--output", str(recipe)])
    printed = capsys.readouterr().out
    assert (f"serl-trl train --config {recipe} --accelerate_config single_gpu" in printed) == (expected is not None)
    cells = [line for line in printed.splitlines() if "fit" in line and line.startswith("|")][0]
    assert " ".join(cells.replace("|", " ").split()) == fits
    if expected is None:
        assert "None of them fits. Take a larger GPU" in printed and not recipe.exists()
        return
    monkeypatch.setattr("serl_trl.serl_config.is_vllm_available", lambda min_version: True)
    command = ["--config", str(recipe), "--seeds", "x.jsonl", "--output_dir", str(tmp_path / "run")]
    _, training, model_args = make_parser().parse_args_and_config([*command, "--use_cpu", "true"])
    settings = {**vars(training), **vars(model_args)}
    assert {name: settings[name] for name in expected} == expected
    assert training.gradient_accumulation_steps == training.steps_per_generation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/no/such/model"], "neither a folder here"),
        (["--max_completion_length", "40000"], "--max_completion_length is 40000. Set it from 1 to 32256"),
        (["--gpu", "16", "--method", "qlora"], "has no bfloat16"),
        (["--output", str(ROOT / "README.md")], "is there already"),
        (["--output", "no/such/folder/recipe.yaml"], "There is no folder 'no/such/folder'"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, refused, arguments, message):
    CONFIGS["Qwen/Qwen2.5-0.5B-Instruct"].save_pretrained(tmp_path)
    with refused(message):
        run(["--model", str(tmp_path), "--output", str(tmp_path / "recipe.yaml"), *arguments])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(n_positions=2048), "a model of type gpt2 is not known here"),
        (Qwen3MoeConfig(num_hidden_layers=1, num_experts=2), "a model of type qwen3_moe is not known here"),
        (GPT2Config(n_positions=256), "The model's context is 256 tokens, and 512 are for the prompt"),
    ],
    ids=["no intermediate_size", "experts", "short context"],
)
def test_models_that_the_arithmetic_does_not_hold_for_are_refused(tmp_path, refused, config, message):
    config.save_pretrained(tmp_path)
    with refused(message):
        run(["--model", str(tmp_path), "--output", str(tmp_path / "recipe.yaml"), "--gpu", "80"])
    assert not (tmp_path / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ("qwen2.5_0.5b", 24),
        ("smollm2_360m", 24),
        ("qwen2.5_1.5b_lora", 24),
        ("qwen2.5_1.5b_lora_t4", 16),
        ("qwen2.5_7b_qlora", 24),
        ("qwen2.5_7b_lora_80gb", 80),
    ],
)
def test_the_recipes_for_one_gpu_fit_it_by_the_plan(recipe, size):
    settings = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text())
    gpu, by_vllm = GPUS[size], settings.get("use_vllm", True)
    sizes = model_sizes(empty_model(CONFIGS[settings["model_name_or_path"]]), rank=32)
    work = Workload(
        method="qlora" if settings.get("load_in_4bit") else "lora" if settings.get("use_peft") else "full",
        per_device_train_batch_size=settings.get("per_device_train_batch_size", 8),
        sequences=0 if by_vllm else settings["generation_batch_size"],
        prompt_length=512,
        completion_length=settings.get("max_completion_length", 1024),
        reference=True,
        engine=settings["vllm_gpu_memory_utilization"] * gpu.memory * GIB if by_vllm else 0.0,
    )
    assert sum(budget(sizes, work).values()) + KEPT_FREE <= gpu.memory * GIB
    assert settings["learning_rate"] == LEARNING_RATES[work.method]
    lora = {name: value for name, value in settings.items() if name.startswith("lora_")}
    assert lora == ({} if work.method == "full" else LORA_SETTINGS)
    assert settings.get("bf16", False) == gpu.bfloat16 and settings.get("fp16", False) != gpu.bfloat16
    if by_vllm:  # its weights, and room for a completion of full length
        assert work.engine > 2 * (sizes.linear + sizes.other) + 1.5 * GIB
