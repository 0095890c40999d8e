import pytest

from serl_trl import parse_instructions


@pytest.mark.parametrize(
    ("reply", "instructions"),
    [
        # the prompt ends in "9.", so the first question has no number of its own
        ("What is 2 + 3?\n10. What is 4 - 1?", ["What is 2 + 3?", "What is 4 - 1?"]),
        # a model that repeats the number
        ("9. What is 2 + 3?\n10. What is 4 - 1?", ["What is 2 + 3?", "What is 4 - 1?"]),
        # numbers inside the text stay there, also before a full stop
        ("Add 3 to 5. 7 birds came. How many?\n10. Next", ["Add 3 to 5. 7 birds came. How many?", "Next"]),
        # case, LaTeX and other scripts are kept as they are; white space is squeezed
        ("Let $ABC$ have\n  angle $\\Delta$.\n10. 七 加 三 ？", ["Let $ABC$ have angle $\\Delta$.", "七 加 三 ？"]),
        # an introduction is no instruction
        ("Here are some more:\n\n9. One\n10. Two", ["One", "Two"]),
        # brackets and bold numbers, and a number alone on its line
        ("One\n10) Two\n**11.** Three\n12.\nFour", ["One", "Two", "Three", "Four"]),
        # cut off right after a number
        ("One\n10. Two\n11.", ["One", "Two"]),
        # nothing at all
        ("", []),
        (" \n\n ", []),
    ],
)
def test_replies_split_into_instructions(reply, instructions):
    assert parse_instructions(reply) == instructions
