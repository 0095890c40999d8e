import pytest
from conftest import TINY_MODEL, TINY_TEMPLATE
from transformers import AutoTokenizer

from serl_trl.self_play.prompt import answer_prompt, few_shot_prompt, load_template, tokenize_prompts


def test_the_models_turn_begins_with_a_list_that_ends_in_the_next_number():
    system, user, assistant = few_shot_prompt(["What is $\\{1\\}$?", "Name two."], load_template("math"))
    assert [system["role"], user["role"], assistant["role"]] == ["system", "user", "assistant"]
    assert assistant["content"] == "1. What is $\\{1\\}$?\n2. Name two.\n3."


def test_the_model_goes_on_in_its_turn_and_begins_one_otherwise():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    few_shot = few_shot_prompt(["what is 2 plus 3 ?"], load_template(str(TINY_TEMPLATE)))
    answer = answer_prompt("what is 2 plus 3 ?", load_template(str(TINY_TEMPLATE)))
    texts = [tokenizer.decode(tokenize_prompts(tokenizer, [prompt])[0]) for prompt in (few_shot, answer)]
    assert texts == [
        "<user> questions <assistant> 1. what is 2 plus 3 ? \n 2.",
        "<user> what is 2 plus 3 ? <assistant>",
    ]


def test_instructions_are_answered_with_a_request_for_a_box():
    (message,) = answer_prompt("What is 2 + 3?", load_template("math"))
    assert message["content"].startswith("What is 2 + 3?\n") and "\\boxed{}" in message["content"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a template"),  # no such file
        ("system: x\nuser: y", "must hold exactly the keys"),
        ("- a list", "must hold exactly the keys"),
    ],
)
def test_a_broken_template_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "template.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_template(str(path))
