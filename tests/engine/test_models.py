import pytest
from conftest import TINY_MODEL, TINY_TEMPLATE, tiny_config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serl_trl.engine.models import control_tokens, request_turns, tokenize_prompts
from serl_trl.engine.sampler import as_completions
from serl_trl.seeds import Seeds
from serl_trl.self_play.parsing import parse_instructions
from serl_trl.self_play.prompt import answer_prompt, few_shot_prompt, load_template
from serl_trl.self_play.sampler import ScriptedSampler
from serl_trl.self_play.sources import SelfInstruction
from serl_trl.training.checks import usable_seeds


def test_the_model_goes_on_in_its_turn_and_begins_one_otherwise():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    few_shot = few_shot_prompt(["what is 2 plus 3 ?"], load_template(str(TINY_TEMPLATE)))
    answer = answer_prompt("what is 2 plus 3 ?", load_template(str(TINY_TEMPLATE)))
    texts = [tokenizer.decode(tokenize_prompts(tokenizer, [prompt])[0]) for prompt in (few_shot, answer)]
    assert texts == [
        "<user> questions <assistant> 1. what is 2 plus 3 ? \n 2.",
        "<user> what is 2 plus 3 ? <assistant>",
    ]


# A turn of each family's template, its special tokens, other added tokens, and what its template marks by text alone.
_NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
FAMILIES = {
    "chatml": (  # Qwen, SmolLM2: a system prompt of its own
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ["<|im_end|>", "<|im_start|>", "<|endoftext|>"],
        ["<think>", "</think>", "<tool_call>", "  ", "\n\n", "Pythagoras"],  # blanks and words mark nothing
        [],
    ),
    "llama 3": (
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ["<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        ["<|python_tag|>"],
        [],
    ),
    "gemma": (
        _NO_SYSTEM + "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ["<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"],
        ["[multimodal]", "<unused7>"],
        [],
    ),
    "llama 2": (
        "{% for m in messages %}{% if m.role == 'system' %}<s>[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
        "{% elif m.role == 'user' %}{{ '' if loop.index0 == 1 else '<s>[INST] ' }}{{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}",
        ["</s>", "<s>"],
        [],
        ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"],
    ),
    "mistral": (
        _NO_SYSTEM + "<s>{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        ["</s>", "<s>"],
        ["[INST]", "[/INST]", "[TOOL_CALLS]"],
        [],
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ["</s>"],
        [],
        ["<|user|>", "<|assistant|>", "<|system|>"],
    ),
}
MARKERS = [(name, marker) for name, family in FAMILIES.items() for kind in family[1:] for marker in kind]
HONEST = [
    "Does the user, the assistant or the system of the model have the last turn?",
    "System: you are a helpful assistant. User: how much is 2 + 3? Assistant: 5. Is it?",
    "Let a = [1, 2, 3] and f[0] = a[1]. Is a[i] < f[0] or a[i] > 2?",
    "Which theorem of Pythagoras holds for <x, y> and [INSTITUTE]?",
    "### Instruction: what is left of 7 - 2? | <br> | `x` | {{ y }}",
]


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with the special and added tokens of a family, and its template."""
    template, special, added, _ = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=special[0], pad_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.add_tokens(added)
    tokenizer.chat_template = template
    return tokenizer


def is_rejected(tokenizer, text: str, tmp_path) -> tuple[bool, bool]:
    """Return whether the text is rejected as a seed, and as a candidate."""
    settings = tiny_config(tmp_path, prompt_template=str(TINY_TEMPLATE), num_few_shot_examples=1, max_kept_examples=0)
    seeds = usable_seeds(Seeds({text: None, "How much is 2 + 3?": None}, "q.txt"), tokenizer, 10_000, settings)
    sampler = ScriptedSampler(lambda prompt, index: "")
    source = SelfInstruction(settings, seeds.instructions, sampler, 10_000, control_tokens(tokenizer))
    return text not in seeds.instructions, source.unsound(text) == "control_token"


@pytest.mark.parametrize(("family", "marker"), MARKERS)
def test_no_instruction_opens_or_ends_a_turn(tmp_path, family, marker):
    text = f"How much is 2 + 3? {marker}How much is 4?"
    marks = bool(marker.strip()) and marker != "Pythagoras"
    assert is_rejected(tokenizer_of(family), text, tmp_path) == (marks, marks)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", HONEST)
def test_honest_instructions_pass_and_leave_the_turns_as_they_are(tmp_path, family, text):
    tokenizer = tokenizer_of(family)
    assert is_rejected(tokenizer, text, tmp_path) == (False, False)
    markers = [
        [
            token
            for token in tokenize_prompts(tokenizer, [answer_prompt(content, load_template("math"))])[0]
            if token > 255
        ]
        for content in (text.replace("Pythagoras", "Euclid"), "How much is 2 + 3?")
    ]
    assert markers[0] == markers[1]


# What a template refuses, the turns of a request that it takes, and the end of that.
_NO_OWN_TURN = "{% if messages[-1].role == 'assistant' %}{{ raise_exception('the last turn is the user') }}{% endif %}"
REQUESTS = [
    ("chatml", "", 3, "<|im_start|>assistant\n1. Name two.\n2."),
    ("gemma", "", 2, "<start_of_turn>model\n1. Name two.\n2."),
    ("gemma", _NO_OWN_TURN, 1, "\n\n1. Name two.\n2.<end_of_turn>\n<start_of_turn>model\n"),
    ("mistral", "", 2, "[/INST]1. Name two.\n2."),
    # a template that changes the text of the model's turn: transformers does not find it again
    ("chatml", "{% if messages[-1].role == 'assistant' %}<|im_end|>{% else %}", 1, None),
]


@pytest.mark.parametrize(("family", "refusal", "turns", "end"), REQUESTS)
def test_a_request_has_the_turns_that_the_chat_template_takes(family, refusal, turns, end):
    tokenizer, template = tokenizer_of(family), load_template("math")
    close = "{% endif %}" if "{% else %}" in refusal else ""
    tokenizer.chat_template = refusal + tokenizer.chat_template + close
    assert request_turns(tokenizer, template) == turns
    text = tokenizer.decode(tokenize_prompts(tokenizer, [few_shot_prompt(["Name two."], template, turns)])[0])
    assert template.system in text and template.user in text
    assert end is None or text.endswith(end)


def test_a_chat_template_that_takes_no_request_says_what_to_set():
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ValueError, match=r"refuses a request for instructions \(no\). Set tokenizer.chat_template"):
        request_turns(tokenizer, load_template("math"))


@pytest.mark.parametrize(
    ("reply", "instructions", "answer"),
    [
        # A special token in the middle stays to be seen, where it glued two instructions together.
        (
            "What is 2+3?<|im_start|>What is 4?<|im_end|>",
            ["What is 2+3?<|im_start|>What is 4?"],
            "What is 2+3?What is 4?",
        ),
        ("What is 2+3?\n2. What is 4?<|im_end|>", ["What is 2+3?", "What is 4?"], "What is 2+3?\n2. What is 4?"),
        ("What is 4?<|im_end|><|im_end|><|im_end|>", ["What is 4?"], "What is 4?"),  # with padding
        ("What is 4", ["What is 4"], "What is 4"),  # truncated
        ("<|im_end|>", [], ""),
        ("", [], ""),
    ],
)
def test_a_special_token_in_a_reply_is_seen_in_instructions_and_not_in_answers(reply, instructions, answer):
    tokenizer = tokenizer_of("chatml")
    ids = tokenizer(reply)["input_ids"]
    as_instructions, as_answer = (
        as_completions(tokenizer, [ids], [tokenizer.eos_token_id], keep_special=keep)[0] for keep in (True, False)
    )
    assert parse_instructions(as_instructions.text) == instructions and as_answer.text == answer
    assert as_instructions.token_ids == as_answer.token_ids == tuple(ids)
    assert as_instructions.truncated == as_answer.truncated == (not reply.endswith("<|im_end|>"))
