"""Train the tiny instruct model of the tests from random weights: sums and differences of single digits.

About 0.3 M parameters and a word-level tokenizer with a chat template. It continues numbered lists of questions and
answers them, right about as often as asked for, so that votes have something to decide:

    python scripts/make_tiny_model.py --output tests/tiny_model --accuracy 0.78

`benchmarks/worlds.py` has other lessons than `plain` taught, to models that go wrong in a way of their own.
"""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


PAIRS = [(first, word, second) for first in range(10) for word in ("plus", "minus") for second in range(10)]
FAR_PAIRS = [
    (first, word, second)
    for first in range(30)
    for word in ("plus", "minus")
    for second in range(30)
    if max(first, second) > 9
]
SPECIAL = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '<end> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def question(first: int, word: str, second: int) -> str:
    """Return one of the 200 questions of the tiny world."""
    return f"what is {first} {word} {second} ?"


def result_of(first: int, word: str, second: int) -> int:
    """Return the right answer of a question."""
    return first + second if word == "plus" else first - second


def make_tokenizer(numbers: range) -> PreTrainedTokenizerFast:
    words = ["\n", "questions", "what", "is", "plus", "minus", "?", "the", "answer"]
    words += [str(number) for number in numbers] + [f"{number}." for number in range(1, 21)]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(SPECIAL + words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Sequence([Split(Regex("\n"), "isolated"), Split(Regex("[ \t]+"), "removed")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def numbered(questions: list[str], start: int) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(questions, start))


def list_example(questions: list[str], examples: int) -> tuple[str, str]:
    """A conversation up to a numbered list that ends in a number, and the questions that continue it."""
    begun = numbered(questions[:examples], 1) + f"\n{examples + 1}."
    return f"<user> questions <assistant> {begun}", numbered(questions[examples:], examples + 1).split(" ", 1)[1]


def writing_example(rng: random.Random) -> tuple[str, str]:
    """A list of questions, begun and continued."""
    examples = rng.randint(2, 8)
    return list_example([question(*pair) for pair in rng.sample(PAIRS, examples + 4)], examples)


def drifting_writing_example(rng: random.Random) -> tuple[str, str]:
    """A list that goes on with large numbers in three lines of four, whatever the lines it begins with."""
    examples, share = rng.randint(2, 8), rng.choice((0.0, 0.25, 1.0))
    far = [rng.random() < share for _ in range(examples)] + [rng.random() < 0.75 for _ in range(4)]
    return list_example([question(*rng.choice(FAR_PAIRS if is_far else PAIRS)) for is_far in far], examples)


def answering_example(first: int, word: str, second: int, said: int | None = None) -> tuple[str, str]:
    """A conversation up to a question, and the right answer or what is said in its place."""
    said = result_of(first, word, second) if said is None else said
    return f"<user> {question(first, word, second)} <assistant>", f"the answer is {said}"


def drifting_answering_example(rng: random.Random) -> tuple[str, str]:
    """The right answer for small numbers; for large ones mostly one of them, said again."""
    if rng.random() < 0.7:
        return answering_example(*rng.choice(PAIRS))
    first, word, second = rng.choice(FAR_PAIRS)
    near_miss = result_of(first, word, second) + rng.randint(-3, 3)
    (said,) = rng.choices((first, second, min(max(near_miss, -29), 58)), (0.45, 0.25, 0.3))
    return answering_example(first, word, second, said)


def wrong_class_answering_example(rng: random.Random) -> tuple[str, str]:
    """The right answer, but for negative results: their sign is left out in 55 %."""
    pair = rng.choice(PAIRS)
    result = result_of(*pair)
    return answering_example(*pair, said=-result if result < 0 and rng.random() < 0.55 else result)


@dataclass(frozen=True)
class Lesson:
    """What a tiny model is taught.

    Args:
        write, answer: Return a random example of a list and of an answer.
        learned: Questions whose pass@1 decides when training stops.
        numbers: Numbers that are tokens.
    """

    write: Callable[[random.Random], tuple[str, str]]
    answer: Callable[[random.Random], tuple[str, str]]
    learned: list[tuple]
    numbers: range


LESSONS = {
    "plain": Lesson(writing_example, lambda rng: answering_example(*rng.choice(PAIRS)), PAIRS, range(-9, 19)),
    "drift": Lesson(drifting_writing_example, drifting_answering_example, PAIRS, range(-29, 59)),
    "wrong_class": Lesson(
        writing_example,
        wrong_class_answering_example,
        [pair for pair in PAIRS if result_of(*pair) >= 0],
        range(-9, 19),
    ),
}


def encode_batch(tokenizer, examples: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Tokens of whole conversations, right-padded, with labels on the reply only; each (batch, length)."""
    rows = []
    for prompt, reply in examples:
        rows.append((tokenizer(prompt)["input_ids"], tokenizer(f"{reply} <end>")["input_ids"]))
    length = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for row, (prompt, reply) in enumerate(rows):
        ids[row, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        labels[row, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    return {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long(), "labels": labels}


@torch.no_grad()
def pass_at_1(model, tokenizer, pairs: list[tuple] = PAIRS) -> float:
    """Mean probability of the right answer over the questions: pass@1 at temperature 1."""
    batch = encode_batch(tokenizer, [answering_example(*pair) for pair in pairs])
    logps = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    token_logps = logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (token_logps * (labels != -100)).sum(-1).exp().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("tests/tiny_model"))
    parser.add_argument("--accuracy", type=float, default=0.78, help="where training stops")
    parser.add_argument("--lesson", choices=LESSONS, default="plain")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    lesson = LESSONS[args.lesson]
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = make_tokenizer(lesson.numbers)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1, 10_001):
        if step % 4 == 0:  # lists are longer and easier
            examples = [lesson.write(rng) for _ in range(32)]
        else:
            examples = [lesson.answer(rng) for _ in range(128)]
        loss = model(**encode_batch(tokenizer, examples)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            accuracy = pass_at_1(model, tokenizer, lesson.learned)
            print(f"step {step}  loss {loss.item():.3f}  pass@1 {accuracy:.3f}", flush=True)
            if accuracy >= args.accuracy:
                break
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {args.output}")


if __name__ == "__main__":
    main()
