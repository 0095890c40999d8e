import pytest
from conftest import TINY_MODEL, ledger_rows, tiny_config, tiny_seeds
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from serl_trl import SeRLTrainer, accuracy_reward, majority_vote_reward, self_play_reward


def assistant(*texts: str) -> list:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_consecutive_equal_prompts_form_a_group():
    prompts = ["a", "a", "a", "b", "b", "a", "a"]
    completions = ["1", "1", "2", "2", "2", "1", "2"]
    assert majority_vote_reward(prompts, completions) == [1, 1, 0, 1, 1, 0, 0]


def test_conversations_are_read_like_texts():
    prompts = [[{"role": "user", "content": "What is 2 + 3?"}]] * 3
    assert majority_vote_reward(prompts, assistant("\\boxed{5}", "4", "5")) == [1, 0, 1]


def test_a_vote_already_taken_is_handed_through():
    assert majority_vote_reward(["a", "a"], ["1", "1"], vote_reward=[0.0, 1.0]) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("so it is \\boxed{18}", "18", 1.0),
        ("\\boxed{18}", "She sells 9 * 2 = 18.\n#### 18", 1.0),  # as in GSM8K
        ("\\boxed{0.5}", "\\boxed{\\frac{1}{2}}", 1.0),
        ("\\boxed{2\\sqrt{3}}", "2\\sqrt{3}", 1.0),  # bare LaTeX, as in MATH: read whole
        ("\\boxed{2}", "2\\sqrt{3}", 0.0),
        ("\\boxed{6+9i}", "6+9i", 1.0),
        ("\\boxed{(3, \\frac{\\pi}{2})}", "(3, \\frac{\\pi}{2})", 1.0),
        ("\\boxed{1000}", "#### 1,000", 1.0),
        ("\\boxed{17}", "18", 0.0),
        ("no idea", "18", 0.0),  # unparsed is wrong, not left out
        ("\\boxed{18}", None, None),  # no true answer, no reward
    ],
)
def test_accuracy(completion, answer, reward):
    assert accuracy_reward(assistant(completion), [answer]) == [reward]


def test_accuracy_without_answers_is_left_out():
    assert accuracy_reward(["5", "4"]) == [None, None]


def test_both_rewards_work_in_a_plain_grpo_trainer(tmp_path):
    questions = ["what is 2 plus 3 ?", "what is 9 minus 4 ?"]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    config = GRPOConfig(
        str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        logging_steps=1,
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=8,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        str(TINY_MODEL),
        reward_funcs=[majority_vote_reward, accuracy_reward],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts, "answer": ["5", "5"]}),
    )
    trainer.train()
    completions = list(trainer._logs["completion"])
    rewards = {name: list(values) for name, values in trainer._logs["rewards"].items()}
    answers = [completion[0]["content"].split()[-1] for completion in completions]
    assert rewards["accuracy_reward"] == [float(answer == "5") for answer in answers]
    groups = [answers[:4], answers[4:]]
    majorities = [max(group, key=group.count) for group in groups]
    assert rewards["majority_vote_reward"] == [
        float(answer == majority and group.count(majority) > 1)
        for group, majority in zip(groups, majorities, strict=True)
        for answer in group
    ]
    assert 0 < sum(rewards["accuracy_reward"])  # the tiny model knows most answers


def test_an_unreadable_true_answer_is_an_error():
    with pytest.raises(ValueError, match="No answer can be read in ''"):
        accuracy_reward(["5"], [""])


def test_a_reward_of_ones_own_stands_beside_the_vote_and_gets_its_columns(tmp_path):
    calls = []

    def short_reward(completions, instruction, pseudo_label, pass_rate, votes, vote_reward, **kwargs):
        calls.append(list(zip(instruction, pseudo_label, pass_rate, votes, vote_reward, strict=True)))
        return [float(len(completion[0]["content"]) < 2) for completion in completions]

    config = tiny_config(tmp_path, max_steps=2, reward_weights=[1.0, 0.25])
    trainer = SeRLTrainer(str(TINY_MODEL), config, tiny_seeds(), reward_funcs=[self_play_reward, short_reward])
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        vote, short = (entry[f"rewards/{name}/mean"] for name in ("self_play_reward", "short_reward"))
        assert entry["reward"] == pytest.approx(vote + 0.25 * short)
    trained = {row["instruction"]: row for row in ledger_rows(tmp_path) if row["fate"] == "trained"}
    assert [len(rows) for rows in calls] == [8, 8]
    for rows in calls:
        for place, (instruction, pseudo_label, pass_rate, votes, vote_reward) in enumerate(rows):
            row = trained[instruction]
            assert (pseudo_label, pass_rate, votes) == (row["pseudo_label"], row["pass_rate"], row["answers"])
            assert vote_reward == row["rewards"][place % 4]
