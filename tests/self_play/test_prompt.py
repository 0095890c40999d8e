import pytest

from serl_trl.self_play.prompt import answer_prompt, few_shot_prompt, load_template


def test_the_models_turn_begins_with_a_list_that_ends_in_the_next_number():
    system, user, assistant = few_shot_prompt(["What is $\\{1\\}$?", "Name two."], load_template("math"))
    assert [system["role"], user["role"], assistant["role"]] == ["system", "user", "assistant"]
    assert assistant["content"] == "1. What is $\\{1\\}$?\n2. Name two.\n3."


def test_a_request_needs_neither_a_system_role_nor_a_turn_of_the_models():
    template = load_template("math")
    user, assistant = few_shot_prompt(["Name two."], template, turns=2)
    assert user == {"role": "user", "content": f"{template.system}\n\n{template.user}"}
    assert assistant == {"role": "assistant", "content": "1. Name two.\n2."}
    assert few_shot_prompt(["Name two."], template, turns=1) == [
        {"role": "user", "content": f"{template.system}\n\n{template.user}\n\n1. Name two.\n2."}
    ]


def test_instructions_are_answered_with_a_request_for_a_box():
    (message,) = answer_prompt("What is 2 + 3?", load_template("math"))
    assert message["content"].startswith("What is 2 + 3?\n") and "\\boxed{}" in message["content"]


def test_answers_have_a_system_prompt_where_the_template_has_one(tmp_path):
    path = tmp_path / "template.yaml"
    path.write_text("system: x\nuser: y\nanswer_request: z\nanswer_system: Think first.\nthinking_end: </think>")
    template = load_template(str(path))
    assert answer_prompt("What is 2 + 3?", template) == [
        {"role": "system", "content": "Think first."},
        {"role": "user", "content": "What is 2 + 3?\nz"},
    ]
    assert template.thinking_end == "</think>" and load_template("math").thinking_end == ""


def test_prompts_are_plain_text_for_a_base_model(tmp_path):
    path = tmp_path / "template.yaml"
    path.write_text('system: ""\nuser: Questions.\nanswer_request: In a box.\nplain_answer: "Q: {instruction}\\nA:"')
    template = load_template(str(path))
    assert few_shot_prompt(["Name two."], template) == "Questions.\n\n1. Name two.\n2."
    assert answer_prompt("What is {1}?", template) == "Q: What is {1}?\nIn a box.\nA:"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a template"),  # no such file
        ("system: x\nuser: y", "has other keys than"),
        (
            "system: x\nuser: y\nanswer_request: z\nthinking: w",
            "has other keys than .* of answer_system, thinking_end, plain_answer what",
        ),
        (
            "system: x\nuser: y\nanswer_request: z\nplain_answer: Q",
            "plain_answer .* is 'Q'. Write {instruction} where",
        ),
        ("- a list", "has other keys than"),
        ("system: x\nuser: y\n3: z", "has other keys than"),
        (
            "system: x\nuser: y\nanswer_request: [z]",
            "answer_request of prompt_template .* is \\['z'\\]. Make it a text",
        ),
    ],
)
def test_a_broken_template_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "template.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_template(str(path))
