"""What this package needs of TRL's private parts; a failure here says which of them a new TRL changed."""

import inspect

from trl import GRPOTrainer
from trl.generation import vllm_generation

from serl_trl import SeRLTrainer


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_overridden_methods_have_the_signatures_they_are_called_with():
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters(GRPOTrainer._generate_single_turn)[1:5] == [
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
    ]
    assert "output = self.rollout_func(prompts, self)" in inspect.getsource(GRPOTrainer._generate)
    assert parameters(GRPOTrainer.compute_loss)[:4] == ["self", "model", "inputs", "return_outputs"]
    assert "self._calculate_rewards(" in inspect.getsource(GRPOTrainer._generate_and_score_completions)
    # Advantages may be (batch, completion_length).
    assert "if advantages.dim() == 1" in inspect.getsource(GRPOTrainer._compute_loss)
    assert parameters(GRPOTrainer._save_checkpoint) == ["self", "model", "trial"]
    assert parameters(GRPOTrainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]
    assert "batch_size" in parameters(GRPOTrainer._get_per_token_logps_and_entropies)


def test_private_attributes_that_are_read_or_set_still_exist():
    source = inspect.getsource(GRPOTrainer)
    for name in (
        "_step",
        "_buffered_inputs",
        "_metrics",
        "_last_loaded_step",
        "_tokenizer",
        "eos_token_ids",
        "rollout_func",
    ):
        assert f"self.{name}" in source
    generation = vllm_generation.VLLMGeneration
    assert parameters(generation._fix_param_name_to_vllm) == ["self", "name", "extra_prefixes"]
    assert "self._iter_named_params()" in inspect.getsource(generation.sync_weights)
    assert "LLM(" in inspect.getsource(vllm_generation.VLLMGeneration._init_vllm)


def test_overridden_methods_of_transformers_still_exist():
    names = {"_run_epoch", "_evaluate", "_load_from_checkpoint", "create_scheduler", "evaluate", "create_model_card"}
    assert names <= set(vars(SeRLTrainer)) & set(dir(GRPOTrainer))
    assert parameters(GRPOTrainer._evaluate)[1:3] == ["trial", "ignore_keys_for_eval"]
    assert parameters(GRPOTrainer._load_from_checkpoint)[1:] == ["resume_from_checkpoint", "model"]
    assert parameters(GRPOTrainer.create_scheduler)[1:] == ["num_training_steps", "optimizer"]
    assert "self._run_epoch(" in inspect.getsource(GRPOTrainer._inner_training_loop)


def test_the_overrides_are_the_ones_that_the_docstring_names():
    own = {name for name, value in vars(SeRLTrainer).items() if inspect.isfunction(value)}
    overrides = own & set(dir(GRPOTrainer)) - {"__init__"}
    assert all(f"`{name}`" in SeRLTrainer.__doc__ for name in overrides)
