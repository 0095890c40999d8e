"""Facts about a model and its tokenizer, read before any weights are loaded."""

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from ..self_play.carriers import Message


_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def load_model_config(model, args) -> PretrainedConfig:
    """Return the configuration of a model given by name or as an instance."""
    if not isinstance(model, str):
        return model.config
    return read_config(model, (args.model_init_kwargs or {}).get("revision"), args.trust_remote_code)


def load_tokenizer(model, args) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model given by name or as an instance."""
    revision = (args.model_init_kwargs or {}).get("revision")
    if "default" in getattr(model, "peft_config", {}):
        revision = model.peft_config["default"].revision  # the base's
    return AutoTokenizer.from_pretrained(
        model if isinstance(model, str) else model.name_or_path,
        revision=revision,
        padding_side="left",
        trust_remote_code=args.trust_remote_code,
    )


def read_config(model: str, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """Return the configuration of a model given by name; raise `ValueError` if there is none."""
    try:
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"The model {model!r} is neither a folder here nor found on the Hub: {reason}") from error


def read_tokenizer(model: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model by name, of its base if it is an adapter without its own; `ValueError` if none."""
    source = model if (Path(model) / "tokenizer_config.json").is_file() else base_model(model) or model
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ValueError(f"{source!r} has no tokenizer: {str(error).strip().splitlines()[0]}") from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def base_model(model: str) -> str | None:
    """Return the base model of a PEFT adapter's folder, `None` if `model` is none."""
    path = Path(model) / "adapter_config.json"
    return json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] if path.is_file() else None


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

    These are all special tokens, and whatever stands in brackets, such as `<think>` or `[INST]`, among the other added
    tokens or in the text that the chat template puts around contents.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = {*(token.content for token in added if token.special), *tokenizer.all_special_tokens} - {""}
    texts = [*(token.content for token in added), _template_text(tokenizer)]
    return sorted(special.union(*map(_MARKER.findall, texts)))


def _template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a conversation in which every role speaks; without a system where the template knows none."""
    conversation = [{"role": role, "content": "text"} for role in ("system", "user", "assistant", "user")]
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        return tokenizer.apply_chat_template(conversation[1:], tokenize=False, add_generation_prompt=True)


def is_fsdp(args) -> bool:
    """Return whether FSDP will wrap the model."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


def is_sharded(args) -> bool:
    """Return whether each process will hold a part of each weight only: FSDP or ZeRO-3."""
    return is_fsdp(args) or (args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3)


def tokenize_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[Message]], **template_kwargs
) -> list[list[int]]:
    """Return the tokens of each conversation up to where the model goes on; all must end in the same role."""
    goes_on = prompts[0][-1]["role"] == "assistant"
    return tokenizer.apply_chat_template(
        conversation=list(prompts),
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
        tokenize=True,
        return_dict=True,
        **template_kwargs,
    )["input_ids"]
