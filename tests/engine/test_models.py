from conftest import TINY_MODEL, TINY_TEMPLATE
from transformers import AutoTokenizer

from serl_trl.engine.models import tokenize_prompts
from serl_trl.self_play.prompt import answer_prompt, few_shot_prompt, load_template


def test_the_model_goes_on_in_its_turn_and_begins_one_otherwise():
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    few_shot = few_shot_prompt(["what is 2 plus 3 ?"], load_template(str(TINY_TEMPLATE)))
    answer = answer_prompt("what is 2 plus 3 ?", load_template(str(TINY_TEMPLATE)))
    texts = [tokenizer.decode(tokenize_prompts(tokenizer, [prompt])[0]) for prompt in (few_shot, answer)]
    assert texts == [
        "<user> questions <assistant> 1. what is 2 plus 3 ? \n 2.",
        "<user> what is 2 plus 3 ? <assistant>",
    ]
