"""Self-play reinforcement learning (SeRL, arXiv 2505.20347) on TRL.

Names are imported when they are first used, so that `import serl_trl` and its text functions stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .rewards import accuracy_reward, majority_vote_reward
    from .seeds import load_seeds
    from .self_instruction.diversity import DiversityFilter
    from .self_instruction.parsing import parse_instructions
    from .self_instruction.quality import rejection_reason
    from .self_rewarding.voting import majority_vote
    from .serl_config import SeRLConfig
    from .serl_trainer import SeRLTrainer
    from .types import Vote

_MODULES = {
    "DiversityFilter": "self_instruction.diversity",
    "SeRLConfig": "serl_config",
    "SeRLTrainer": "serl_trainer",
    "Vote": "types",
    "accuracy_reward": "rewards",
    "load_seeds": "seeds",
    "majority_vote": "self_rewarding.voting",
    "majority_vote_reward": "rewards",
    "parse_instructions": "self_instruction.parsing",
    "rejection_reason": "self_instruction.quality",
}

__all__ = [
    "DiversityFilter",
    "SeRLConfig",
    "SeRLTrainer",
    "Vote",
    "accuracy_reward",
    "load_seeds",
    "majority_vote",
    "majority_vote_reward",
    "parse_instructions",
    "rejection_reason",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
