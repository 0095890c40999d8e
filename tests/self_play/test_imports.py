"""The method alone, for whoever has another trainer."""

import subprocess
import sys


BLOCKED = ("torch", "transformers", "accelerate", "trl", "peft", "vllm")
CODE = f"""
import sys
sys.modules |= dict.fromkeys({BLOCKED}, None)  # importing one of them fails from here on
from serl_trl.self_play import (
    Ledger, MajorityLabels, ScriptedSampler, SelfInstruction, SelfPlayLoader, SelfPlaySettings
)

def reply(prompt, index):
    if prompt[-1]["role"] == "assistant":
        number = len(written)
        written.append(number)
        return "\\n".join(f"{{n}}. How many legs have {{number}} cats and {{n}} dogs" for n in range(9, 14))
    return f"\\\\boxed{{{{{{index % 3}}}}}}"

written = []
settings = SelfPlaySettings(num_generations=4, generation_batch_size=8, diversity_threshold=0.95)
sampler = ScriptedSampler(reply)
source = SelfInstruction(settings, [f"What is {{n}} plus {{n + 1}} ?" for n in range(8)], sampler, max_tokens=4096)
loader = SelfPlayLoader(settings, source, MajorityLabels(), sampler, Ledger(sys.argv[1]))
for _ in range(3):
    batch = next(loader)
    assert [group.vote.rewards for group in batch.groups] == [(1.0, 0.0, 0.0, 1.0)] * 2, batch
print(batch.metrics["pool/kept"])
"""


def test_whole_batches_run_without_any_training_library(tmp_path):
    result = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip() == "6.0"
