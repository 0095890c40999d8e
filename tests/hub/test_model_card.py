import pytest
from huggingface_hub import ModelCard
from trl.trainer.utils import generate_model_card

from serl_trl import SeRLTrainer
from serl_trl.evaluation.model_index import add_results
from serl_trl.hub.card import add_repositories, add_training, curves, method
from serl_trl.hub.run_record import RunRecord


RECORD = RunRecord("tiny", "q.jsonl", ["What is 2 + 2?", "What is 3 + 3?"], {"max_steps": 3}, "serl-trl train")
HISTORY = [
    {"step": 0, "eval_pass@1": 0.25},
    {"step": 1, "reward": 0.5, "self_rewarding/pass_rate": 0.625, "pool/kept": 2.0},
    {"step": 2, "reward": 0.75, "self_rewarding/pass_rate": 0.5, "pool/kept": 2000.0},
    {"step": 2, "eval_pass@1": 0.5},
    {"step": 2, "train_runtime": 12.0},
]


def trl_card(path, base_model=None):
    generate_model_card(
        base_model=base_model, model_name="mine", hub_model_id=None, dataset_name=None, tags=["serl"], wandb_url=None,
        trackio_url=None, comet_url=None, trainer_name="SeRL", trainer_citation=SeRLTrainer._paper["citation"],
    ).save(path)  # fmt: skip
    return path


def test_a_card_says_how_the_model_was_trained_without_the_seeds(tmp_path):
    path = trl_card(tmp_path / "README.md")
    add_training(path, RECORD, HISTORY)
    card = ModelCard.load(path)
    for part in (
        "fine-tuned version of the local model tiny",
        "Base model: tiny. Seeds: 2 instructions from q.jsonl",
        "```bash\nserl-trl train\n```",
        "```yaml\nmax_steps: 3\n```",
        "| 2 | 0.75 | 0.5 | 2000 | 0.5 |",
        "- TRL:",
        "fang2025serl",
        "vonwerra2020trl",
    ):
        assert part in card.text, part
    assert not any(seed in card.text for seed in RECORD.seeds) and "None" not in card.text
    assert f'model="{tmp_path.name}"' in card.text  # until it is pushed, the folder


def test_repositories_are_written_into_a_card_again_and_again(tmp_path):
    path = trl_card(tmp_path / "README.md", base_model="tester/tiny")
    add_training(path, RECORD, HISTORY)
    add_results(path, [{"dataset": "gsm8k", "metric": "accuracy", "value": 0.5}])
    add_repositories(path, "me/mine", "me/mine-instructions")
    add_repositories(path, "us/ours", "us/ours-instructions")
    once = path.read_text()
    add_repositories(path, "us/ours", None)  # a push of the model alone keeps the link
    assert path.read_text() == once and "me/mine" not in once
    card = ModelCard.load(path)
    assert card.data.datasets == ["us/ours-instructions"] and card.data.base_model == "tester/tiny"
    assert card.text.count("(https://huggingface.co/datasets/us/ours-instructions)") == 1
    assert 'pipeline("text-generation", model="us/ours", device_map="auto")' in card.text
    assert card.data.eval_results[0].metric_value == 0.5


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, ["wrote new instructions", "no true answer was used"]),
        ({"advantage_estimator": "rloo"}, ["advantages: `rloo`"]),
        ({"instruction_source": "seeds"}, ["took its seeds", "no true answer was used"]),
        ({"instruction_source": "seeds", "label_source": "true_answer"}, ["took its seeds", "was the true one"]),
        ({"seed_share": 0.5, "label_source": "true_answer_or_vote"}, ["took seeds beside", "the true one of a seed"]),
    ],
)
def test_the_method_is_the_one_that_was_set(settings, parts):
    assert all(part in method(settings) for part in parts)


def test_curves_show_some_ten_rows_with_the_first_and_the_last():
    history = [{"step": step, "reward": 0.5} for step in range(1, 1001)]
    rows = curves(history).splitlines()[2:]
    assert len(rows) == 10 and rows[0].startswith("| 1 | 0.5 |") and rows[-1].startswith("| 1000 | 0.5 |")
    assert curves(HISTORY).splitlines()[-1] == "| 2 | 0.75 | 0.5 | 2000 | 0.5 |" and len(curves([]).splitlines()) == 2


def test_a_card_whose_headings_trl_renamed_keeps_its_sections(tmp_path):
    path = trl_card(tmp_path / "README.md")
    path.write_text(path.read_text().replace("### Framework versions", "### Versions"))
    add_training(path, RECORD, HISTORY)
    add_repositories(path, "me/mine", "me/mine-instructions")
    assert "### Recipe" in path.read_text() and "datasets/me/mine-instructions" in path.read_text()
