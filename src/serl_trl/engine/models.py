"""Facts about a model and its tokenizer, read before any weights are loaded."""

import json
import os
import re
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from pickle import UnpicklingError

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from ..self_play.carriers import Prompt
from ..self_play.prompt import PromptTemplate, few_shot_prompt


_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def load_model_config(model, args) -> PretrainedConfig:
    """Return the configuration of a model given by name or as an instance; of an adapter's folder, that of its base."""
    if not isinstance(model, str):
        return model.config
    name, revision = _source(model, args)
    config = read_config(name, revision, args.trust_remote_code)
    check_model(name, config)
    return config


def load_tokenizer(model, args) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model given by name or as an instance; of an adapter, that of its base."""
    name, revision = _source(model, args)
    return _read_tokenizer(name, revision=revision, padding_side="left", trust_remote_code=args.trust_remote_code)


def _source(model, args) -> tuple[str, str | None]:
    """Return the name and the revision of the model that configuration and tokenizer are read from."""
    if isinstance(model, str) and (adapter := _adapter_config(model)):
        return adapter["base_model_name_or_path"], adapter.get("revision")
    if "default" in getattr(model, "peft_config", {}):
        return model.name_or_path, model.peft_config["default"].revision  # the base's
    return model if isinstance(model, str) else model.name_or_path, (args.model_init_kwargs or {}).get("revision")


def read_config(model: str, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a model given by name; raise `ValueError` if there is none."""
    try:
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        what = "has no configuration" if Path(model).is_dir() else "is neither a folder here nor found on the Hub"
        raise ValueError(f"The model {model!r} {what}: {_reason(error)}") from error


def check_model(model: str, config: PretrainedConfig) -> None:
    """Raise `ValueError` if a model is no causal language model, or its folder has no weights that can be loaded."""
    architecture = (config.architectures or [None])[0]
    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
    if architecture not in known and not getattr(config, "auto_map", None):
        raise ValueError(f"The model {model!r} is a {architecture}, which is no causal language model. Use one.")
    if not Path(model).is_dir():
        return
    files = [*Path(model).glob("model*.safetensors")] or [*Path(model).glob("pytorch_model*.bin")]
    if not files:
        raise ValueError(f"The model folder {model!r} has no weights, e.g. model.safetensors. Name one that has.")
    for index in Path(model).glob("model*.safetensors.index.json"):
        for name in sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}):
            if not (Path(model) / name).is_file():
                raise ValueError(f"The model folder {model!r} has no {name}, which its index names. Fetch it again.")
    for path in files:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):  # it compares the header with the file's size
                    pass
            else:
                torch.load(path, map_location="meta", mmap=zipfile.is_zipfile(path), weights_only=True)
        except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(
                f"{str(path)!r} can't be loaded: it is broken, or holds more than weights ({_reason(error)}). Fetch "
                "it again, as safetensors."
            ) from error


def read_tokenizer(model: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model by name, of its base if it is an adapter without its own; `ValueError` if none."""
    source = model if (Path(model) / "tokenizer_config.json").is_file() else base_model(model) or model
    tokenizer = _read_tokenizer(source, trust_remote_code=trust_remote_code)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _read_tokenizer(model: str, **kwargs) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(model, **kwargs)
    except (OSError, ValueError) as error:
        raise ValueError(f"{model!r} has no tokenizer: {_reason(error)}") from error


def base_model(model: str) -> str | None:
    """Return the base model of a PEFT adapter's folder, `None` if `model` is none."""
    adapter = _adapter_config(model)
    return adapter and adapter["base_model_name_or_path"]


def _adapter_config(model: str) -> dict | None:
    path = Path(model) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON ({error}). Save the adapter again.") from error
    if not isinstance(content, dict) or not content.get("base_model_name_or_path"):
        raise ValueError(f"{str(path)!r} names no base model. Set base_model_name_or_path in it.")
    return content


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]


def weights_version(model: str, config: PretrainedConfig) -> str | None:
    """Return when the weights in a folder were written, or the commit of those on the Hub: others may take their place."""
    times = [path.stat().st_mtime for path in Path(model).glob("*.safetensors")]
    return datetime.fromtimestamp(max(times), UTC).isoformat() if times else getattr(config, "_commit_hash", None)


def model_length(config: PretrainedConfig) -> int:
    """Return the context of the model, in tokens."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or 2**31


def context_length(config: PretrainedConfig, args) -> int:
    """Return the tokens that a prompt and its completion may have together."""
    length = model_length(config)
    return min(length, args.vllm_max_model_length or length) if args.use_vllm else length


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts that could open or end a turn, such as `<|im_end|>`.

    These are all special tokens but single characters, and whatever stands in brackets, such as `<think>` or `[INST]`,
    among the other added tokens or in the text that the chat template puts around contents.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = {*(token.content for token in added if token.special), *tokenizer.all_special_tokens}
    special = {token for token in special if len(token) > 1}  # a pad token may be "!"
    texts = [*(token.content for token in added), _template_text(tokenizer)]
    return sorted(special.union(*map(_MARKER.findall, texts)))


def _template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation in which every role speaks; without a system where the template knows none, or without any."""
    if not tokenizer.chat_template:
        return ""
    conversation = [{"role": role, "content": "text"} for role in ("system", "user", "assistant", "user")]
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return tokenizer.apply_chat_template(conversation[1:], tokenize=False, add_generation_prompt=True)


def request_turns(tokenizer: PreTrainedTokenizerBase, template: PromptTemplate, **template_kwargs) -> int:
    """Return with how many turns the chat template takes a request for instructions, the most there are.

    Raises:
        ValueError: if it takes none, not even the user's alone.
    """
    for turns in (3, 2, 1):
        try:
            tokenize_prompts(tokenizer, [few_shot_prompt(["How much is 2 + 3?"], template, turns)], **template_kwargs)
        except (TemplateError, ValueError) as error:
            refused = error  # of a role, or of going on with the model's turn
        else:
            return turns
    raise ValueError(f"The chat template refuses a request for instructions ({refused}). Set tokenizer.chat_template.")


def is_fsdp(args) -> bool:
    """Return whether FSDP will wrap the model."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


def sharding(args) -> str:
    """Return what will spread the weights, or what belongs to them, over the processes: checkpoints are in its format."""
    if is_fsdp(args):
        return "FSDP"
    return "none" if args.deepspeed_plugin is None else f"ZeRO-{args.deepspeed_plugin.zero_stage}"


def is_sharded(args) -> bool:
    """Return whether each process will hold a part of each weight only: FSDP or ZeRO-3."""
    return sharding(args) in ("FSDP", "ZeRO-3")


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], **template_kwargs
) -> list[list[int]]:
    """Return the tokens of each prompt up to where the model goes on: of texts, or conversations that end in one role."""
    if isinstance(prompts[0], str):
        return tokenizer(list(prompts))["input_ids"]
    goes_on = prompts[0][-1]["role"] == "assistant"
    return tokenizer.apply_chat_template(
        conversation=list(prompts),
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
        tokenize=True,
        return_dict=True,
        **template_kwargs,
    )["input_ids"]
