"""A LoRA adapter to vLLM as it is, instead of merged into all weights: seconds, memory, and log-probabilities.

    python benchmarks/adapter_sync.py

SmolLM2-135M-Instruct in float32 on one core, rank 32 on all linear layers. The adapter goes by PEFT's files in a folder in
memory (`/dev/shm`) and vLLM's `LoRARequest`; merged weights go the way that serl-trl takes. Medians of five, in turns. The
answers are greedy ones; log-probabilities are compared where both give a token.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace


ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
PROMPTS, TOKENS, ROUNDS = 32, 16, 5


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import torch
    from demo_model import make_demo_model
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from serl_trl.engine.vllm_cpu import reload_weights, seeded_cpu_settings
    from serl_trl.plan import LORA

    torch.manual_seed(0)
    path = str(make_demo_model())
    tokenizer = AutoTokenizer.from_pretrained(path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(**LORA, task_type="CAUSAL_LM"))
    adapter = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for name, weight in adapter.items():
            if "lora_B" in name:
                weight.normal_(std=1e-2)
    merged = get_peft_model(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), model.peft_config["default"]
    )
    merged.load_state_dict(model.state_dict())
    merged = merged.merge_and_unload()

    settings = seeded_cpu_settings(256) | {"max_model_len": 256}
    settings |= {"logprobs_mode": "processed_logprobs", "enable_prefix_caching": False}
    full = LLM(path, **settings)
    light = LLM(path, **settings, enable_lora=True, max_lora_rank=LORA["r"], max_loras=1)
    chats = [[{"role": "user", "content": f"How many legs have {number} cats?"}] for number in range(PROMPTS)]
    prompts = [
        {"prompt_token_ids": tokenizer.apply_chat_template(c, add_generation_prompt=True)["input_ids"]} for c in chats
    ]
    took = {"merged": [], "adapter": []}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            reload_weights(SimpleNamespace(llm=full, model=merged, _iter_named_params=merged.named_parameters))
            took["merged"].append(time.perf_counter() - start)
            start = time.perf_counter()
            model.save_pretrained(folder)
            request = LoRARequest("policy", 1, folder, load_inplace=True)
            light.llm_engine.add_lora(request)
            took["adapter"].append(time.perf_counter() - start)
        request = LoRARequest("policy", 1, folder)
        greedy = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, logprobs=0)
        found, speed = {}, {}
        for name, engine, lora in (("merged", full, None), ("adapter", light, request), ("base", light, None)):
            start = time.perf_counter()
            answers = engine.generate(prompts * 4, greedy, lora_request=lora, use_tqdm=False)
            speed[name] = 4 * PROMPTS * TOKENS / (time.perf_counter() - start)
            found[name] = [answer.outputs[0] for answer in answers[:PROMPTS]]
    same, apart = {}, {}
    for name in ("adapter", "base"):
        pairs = list(zip(found["merged"], found[name], strict=True))
        same[name] = sum(list(one.token_ids) == list(other.token_ids) for one, other in pairs)
        apart[name] = max(
            abs(first[token].logprob - second[token].logprob)
            for one, other in pairs
            for token, first, second in zip(one.token_ids, one.logprobs, other.logprobs, strict=True)
            if token in second
        )
    merged_bytes = sum(weight.nbytes for weight in merged.parameters())
    adapter_bytes = sum(weight.nbytes for weight in adapter.values())
    print("| to vLLM | seconds | MB sent | tokens a second | same answers | log-probabilities, largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| merged | {statistics.median(took['merged']):.2f} | {merged_bytes / 1e6:.0f} | {speed['merged']:.0f} | | |"
    )
    print(
        f"| the adapter alone | {statistics.median(took['adapter']):.2f} | {adapter_bytes / 1e6:.0f} | "
        f"{speed['adapter']:.0f} | {same['adapter']} of {PROMPTS} | {apart['adapter']:.1e} |"
    )
    print(
        f"| no adapter, for comparison | | | {speed['base']:.0f} | {same['base']} of {PROMPTS} | {apart['base']:.1e} |"
    )


if __name__ == "__main__":
    main()
