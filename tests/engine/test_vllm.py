"""A real vLLM, colocated with the trainer: the weights it samples from are the trainer's."""

import copy
import platform
import sys

import pytest
import torch
from conftest import TINY_MODEL, tiny_config, tiny_seeds

from serl_trl import SeRLTrainer
from serl_trl.engine.log_probabilities import log_probabilities
from serl_trl.engine.slow_weights import SlowWeights
from serl_trl.engine.vllm import prepare_vllm
from serl_trl.self_play.carriers import SamplingSettings


# Where `make test` can install vLLM, a missing one is a failure, not a skip.
HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not HAS_WHEEL, reason="there is no vLLM for this machine")]

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, presence_penalty=0.0, max_tokens=20)
QUESTION = [{"role": "user", "content": "what is 2 plus 3 ?"}]
FEW_SHOT = [
    {"role": "user", "content": "questions"},
    {"role": "assistant", "content": "1. what is 2 plus 3 ?\n2. what is 7 minus 1 ?\n3."},
]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """One engine for all tests: it takes most of the time, and a process can hold only one."""
    from peft import LoraConfig

    settings = {"use_vllm": True, "vllm_max_model_length": 256, "max_steps": 4, "gradient_accumulation_steps": 2}
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    config = tiny_config(tmp_path_factory.mktemp("vllm"), **settings)
    return SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), peft_config=lora)


def sample(trainer, prompt, settings, n=1):
    sampler = trainer.loader.sampler
    return sampler.sample(sampler.tokenize([prompt]), n, settings)[0]


def test_a_run_trains_on_what_vllm_sampled(trainer):
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    logged = trainer.state.log_history
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) == ("lora" not in name), name  # the base keeps its bits
    # Engine and trainer hold the same weights in the same precision after every step: their log-probabilities agree. Those
    # of surplus groups are of a step before.
    fresh = [entry for entry in logged if "loss" in entry and entry["self_rewarding/surplus_groups"] == 0]
    differences = [entry["sampling/sampling_logp_difference/mean"] for entry in fresh]
    assert len(differences) >= 2 and max(differences) < 1e-3


def test_changed_weights_reach_the_engine(trainer):
    (before,) = sample(trainer, QUESTION, GREEDY)
    assert before.text.startswith("the answer is")
    parameters = {n: p for n, p in trainer.model.named_parameters() if "lora_B" in n}
    saved = copy.deepcopy({name: parameter.data for name, parameter in parameters.items()})
    generator = torch.Generator().manual_seed(0)
    for parameter in parameters.values():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    trainer._last_loaded_step = -1  # as after an optimizer step
    (after,) = sample(trainer, QUESTION, GREEDY)
    assert after.token_ids != before.token_ids
    # ... and the engine's log-probabilities are those of the changed weights, at the trainer's temperature of 1.
    (drawn,) = sample(trainer, QUESTION, None)
    prompt_ids = tuple(trainer.loader.sampler.tokenize([QUESTION])[0])
    (expected,) = log_probabilities(trainer, [(prompt_ids, drawn.token_ids)])
    torch.testing.assert_close(torch.tensor(drawn.logprobs), torch.tensor(expected), rtol=0, atol=1e-3)
    for name, parameter in parameters.items():
        parameter.data = saved[name]
    trainer._last_loaded_step = -1
    assert sample(trainer, QUESTION, GREEDY)[0].token_ids == before.token_ids


def test_slow_weights_answer_in_their_block_and_only_there(trainer):
    before = sample(trainer, QUESTION, GREEDY)[0].token_ids
    trainer.trust.slow_weights = SlowWeights(trainer.model, decay=0.98)
    generator = torch.Generator().manual_seed(0)
    for slow in trainer.trust.slow_weights.tensors:
        slow += 0.5 * torch.randn(slow.shape, generator=generator)
    prompt_ids = tuple(trainer.loader.sampler.tokenize([QUESTION])[0])
    with trainer.loader.sampler.slow_weights():
        assert sample(trainer, QUESTION, GREEDY)[0].token_ids != before
        (drawn,) = sample(trainer, QUESTION, None)
        (expected,) = log_probabilities(trainer, [(prompt_ids, drawn.token_ids)])
    torch.testing.assert_close(torch.tensor(drawn.logprobs), torch.tensor(expected), rtol=0, atol=1e-3)
    assert sample(trainer, QUESTION, GREEDY)[0].token_ids == before


def test_changed_embeddings_reach_the_engine_in_both_their_roles(trainer):
    assert trainer.model.config.tie_word_embeddings
    embeddings = trainer.model.get_input_embeddings().weight
    saved = embeddings.data.clone()
    embeddings.data += 0.1 * saved.std() * torch.randn(saved.shape, generator=torch.Generator().manual_seed(0))
    trainer._last_loaded_step = -1
    (drawn,) = sample(trainer, QUESTION, None)
    prompt_ids = tuple(trainer.loader.sampler.tokenize([QUESTION])[0])
    (expected,) = log_probabilities(trainer, [(prompt_ids, drawn.token_ids)])
    embeddings.data = saved
    trainer._last_loaded_step = -1
    torch.testing.assert_close(torch.tensor(drawn.logprobs), torch.tensor(expected), rtol=0, atol=1e-5)


def test_presence_penalty_and_lengths_reach_the_engine_and_are_undone(trainer):
    engine = trainer.vllm_generation
    before = (engine.temperature, engine.top_p, engine.max_completion_length, dict(engine.generation_kwargs))
    (plain,) = sample(trainer, FEW_SHOT, GREEDY)
    (penalized,) = sample(trainer, FEW_SHOT, SamplingSettings(0.0, 1.0, 2.0, 20))
    assert len(plain.token_ids) <= 20 and len(set(penalized.token_ids)) > len(set(plain.token_ids))
    assert (engine.temperature, engine.top_p, engine.max_completion_length, dict(engine.generation_kwargs)) == before


def test_the_config_seed_determines_what_vllm_samples(trainer):
    drawn = []
    hot = SamplingSettings(temperature=2.0, top_p=1.0, presence_penalty=0.0, max_tokens=20)
    for seed in (1, 1, 2):
        trainer.args.seed = seed
        prepare_vllm(trainer)  # as after vLLM's start, which resets all generators to the rank
        drawn.append([completion.token_ids for completion in sample(trainer, FEW_SHOT, hot, n=4)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 1  # the completions of a group differ
