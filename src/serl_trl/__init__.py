"""Self-play reinforcement learning (SeRL, arXiv 2505.20347) on TRL.

Names are imported when they are first used, so that `import serl_trl` and its text functions stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .answers.voting import Vote, majority_vote
    from .rewards import accuracy_reward, majority_vote_reward
    from .seeds import load_seeds
    from .self_play.diversity import DiversityFilter
    from .self_play.parsing import parse_instructions
    from .self_play.quality import rejection_reason
    from .serl_config import SeRLConfig
    from .serl_trainer import SeRLTrainer

_MODULES = {
    "DiversityFilter": "self_play.diversity",
    "SeRLConfig": "serl_config",
    "SeRLTrainer": "serl_trainer",
    "Vote": "answers.voting",
    "accuracy_reward": "rewards",
    "load_seeds": "seeds",
    "majority_vote": "answers.voting",
    "majority_vote_reward": "rewards",
    "parse_instructions": "self_play.parsing",
    "rejection_reason": "self_play.quality",
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
