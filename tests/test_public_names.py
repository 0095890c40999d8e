import subprocess
import sys

import serl_trl


def test_public_names():
    assert serl_trl.__all__ == sorted(serl_trl.__all__)
    for name in serl_trl.__all__:
        assert getattr(serl_trl, name).__doc__
        assert name in dir(serl_trl)
    assert not hasattr(serl_trl, "nothing")


def test_text_functions_need_neither_torch_nor_an_extra():
    code = """
import sys
for name in ("torch", "vllm", "peft", "bitsandbytes", "deepspeed"):
    sys.modules[name] = None
from serl_trl import DiversityFilter, Vote, majority_vote, majority_vote_reward, parse_instructions, rejection_reason
assert majority_vote(["5", "5"]).pass_rate == 1.0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_everything_needs_none_of_the_extras():
    code = """
import sys
for name in ("vllm", "peft", "bitsandbytes", "deepspeed"):
    sys.modules[name] = None
import serl_trl
[getattr(serl_trl, name) for name in serl_trl.__all__]
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
