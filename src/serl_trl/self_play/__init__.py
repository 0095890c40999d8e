"""The method of SeRL in plain Python: needs no torch, transformers, accelerate, TRL, PEFT or vLLM.

Whoever has another trainer takes [`SelfPlayLoader`] from here, and brings a [`Sampler`] of its own.
"""

from .carriers import Batch, Candidate, Completion, Group, Message, SamplingSettings
from .difficulty import is_in_band
from .diversity import DiversityFilter
from .evidence import calibrated_pass_rate, lead, wilson_bound
from .funnel import Funnel
from .labels import MajorityLabels, TrueAnswerLabels, TrueAnswerOrMajorityLabels
from .ledger import Ledger
from .loop import SelfPlayLoader
from .nearness import NearnessGate
from .parsing import parse_instructions
from .pool import InstructionPool
from .prompt import PromptTemplate, answer_prompt, few_shot_prompt, load_template
from .quality import rejection_reason
from .sampler import Sampler, ScriptedSampler
from .settings import SelfPlaySettings
from .sources import SeedPasses, SelfInstruction
