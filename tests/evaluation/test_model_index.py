import pytest
from huggingface_hub import ModelCard
from trl.trainer.utils import generate_model_card

from serl_trl.evaluation.model_index import BACK_TO, add_results, evaluated_at


def result(dataset, metric, value, **details):
    return {"dataset": dataset, "metric": metric, "value": value, "details": details}


def values(path) -> dict:
    return {(r.dataset_name, r.metric_type): r.metric_value for r in ModelCard.load(path).data.eval_results}


def test_results_are_added_to_a_card_of_trl_and_replaced(tmp_path):
    path = tmp_path / "README.md"
    generate_model_card(
        base_model="tiny", model_name="mine", hub_model_id="me/mine", dataset_name=None, tags=["serl"],
        wandb_url=None, trackio_url=None, comet_url=None, trainer_name="SeRL",
    ).save(path)  # fmt: skip
    text = ModelCard.load(path).text
    add_results(path, [result("gsm8k", "pass@1", 0.5, num_samples=16), result("my sums", "maj@16", 0.25)])
    add_results(path, [result("gsm8k", "pass@1", 0.75), result("gsm8k", "maj@16", 0.875)])
    assert values(path) == {("my sums", "maj@16"): 0.25, ("gsm8k", "pass@1"): 0.75, ("gsm8k", "maj@16"): 0.875}
    card = ModelCard.load(path)
    (index,) = card.data.to_dict()["model-index"]
    assert index["name"] == "mine" and "serl" in card.data.tags and card.text == text
    assert "my-sums" in [entry["dataset"]["type"] for entry in index["results"]]


def test_a_card_without_a_name_takes_that_of_its_folder(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\nlicense: mit\n---\n\n# Mine\n")
    add_results(path, [{"dataset": "gsm8k", "metric": "pass@1", "value": 0.5}])
    assert ModelCard.load(path).data.model_name == tmp_path.name and values(path) == {("gsm8k", "pass@1"): 0.5}


def test_without_a_card_it_says_so(tmp_path):
    with pytest.raises(ValueError, match="There is no model card"):
        add_results(tmp_path / "README.md", [])


@pytest.mark.parametrize(
    ("log", "step", "found"),
    [
        ([{"step": 4, "eval_pass@1": 0.5}, {"step": 4, "eval_maj@2_pass@1": 0.75}], 4, {0.5, 0.75}),  # of two datasets
        ([{"step": 4, "eval_pass@1": 0.5}], 8, set()),
        ([{"step": 4, "eval_pass@1": 0.5}, {"step": 4, BACK_TO: 0.0}], 4, set()),  # of weights that are gone
        ([{"step": 4, "eval_pass@1": 0.5}, {"step": 8, BACK_TO: 4.0}], 4, {0.5}),  # of those that came back
        ([{"step": 4, BACK_TO: 0.0}, {"step": 4, "eval_pass@1": 0.5}], 4, {0.5}),  # measured after it
    ],
)
def test_what_was_measured_at_a_step(log, step, found):
    measured = evaluated_at(log, step)
    assert {value for name, value in measured.items() if name.endswith("pass@1")} == found
