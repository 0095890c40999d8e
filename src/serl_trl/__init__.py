"""Self-play reinforcement learning (SeRL, arXiv 2505.20347) on TRL.

Names are imported when they are first used, so that `import serl_trl` and its text functions stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .answers.voting import Vote, majority_vote
    from .rewards import accuracy_reward, majority_vote_reward, self_play_reward
    from .seeds import load_seeds
    from .self_play import DiversityFilter, parse_instructions, rejection_reason
    from .serl_config import SeRLConfig
    from .serl_trainer import SeRLTrainer

_MODULES = {
    "answers.voting": ["Vote", "majority_vote"],
    "rewards": ["accuracy_reward", "majority_vote_reward", "self_play_reward"],
    "seeds": ["load_seeds"],
    "self_play": ["DiversityFilter", "parse_instructions", "rejection_reason"],
    "serl_config": ["SeRLConfig"],
    "serl_trainer": ["SeRLTrainer"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
