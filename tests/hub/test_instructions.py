"""The dataset that is pushed holds every candidate, and no seed's text."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from serl_trl.hub.instructions import read_instructions, without_seeds, write_dataset
from serl_trl.hub.run_record import RunRecord
from serl_trl.self_play.carriers import Candidate
from serl_trl.self_play.ledger import Ledger


SEED, SHOWN, UNSEEN = "What is 2 + 2?", "What is 3 + 3?", "Name a prime above 90."  # the last was no example
RECORD = RunRecord("tiny", "q.jsonl", [SEED, UNSEEN], {"max_steps": 3})


def candidate(instruction, fate="trained", answers=("4", None), parents=(SEED, SHOWN), **columns):
    columns = {"nearest": SEED, "rouge_l": 0.5} | columns
    return Candidate(0, 0, 1, instruction, list(parents), fate, answers=list(answers), **columns)


def ledger(run, *candidates):
    Ledger(run).write(0, list(candidates))


@pytest.mark.parametrize(
    ("row", "is_shown"),
    [
        (candidate("What is 7 - 1?"), True),
        (candidate("What is 7 - 2?", parents=[SEED, "What is 7 - 1?"]), True),  # its own are no seeds
        (candidate("What is 2 + 2? And then?"), False),
        (candidate("Now what is  2 + 2?"), False),
        (candidate("WHAT IS 2 + 2? And 5?"), False),
        (candidate("Say: What is 3 + 3?"), False),  # an example of another seeds' file, before a resume
        (candidate("What comes then? Name a prime above 90."), False),
        (candidate("What is 2 + 2", rouge_l=1.0), False),  # with diversity_threshold=1 all are admitted
        (candidate("What is 8 - 1?", answers=["What is 2 + 2? 4", "7"]), False),
        (candidate("What is 8 - 2?", completions=["6", "As What is 2 + 2? shows, 6."]), True),  # these are left out
        (candidate("What is 2 +", fate="rejected"), False),
        (candidate("A seed of another file", parents=[]), False),  # resumed on seeds alone
        (candidate("What is 9 - 1?", fate="unused"), False),
    ],
)
def test_shown_is_what_was_admitted_and_has_no_seed_in_it(tmp_path, row, is_shown):
    ledger(tmp_path, row, candidate("What is 7 - 1?"))
    record, rows = read_instructions_of(tmp_path)
    train, withheld = without_seeds(rows, record.seeds)
    assert (row.instruction in [shown["instruction"] for shown in train]) == is_shown
    assert len(train) + len(withheld) == 2
    for hidden in withheld:
        assert (hidden["instruction"], hidden["answers"], hidden["pseudo_label"]) == (None, [], None)
        assert hidden["slow_answers"] == []
    assert not {"parents", "nearest", "completions"} & set((train + withheld)[0])


def read_instructions_of(run):
    RECORD.save(run)
    return read_instructions(run)


def test_the_dataset_loads_and_its_card_says_what_is_in_it(tmp_path):
    run = tmp_path / "run"
    ledger(
        run,
        candidate("What is 7 - 1?"),
        candidate("What is 7 - 2?", fate="out_of_band"),
        candidate(SEED, fate="rejected", rouge_l=1.0),
        candidate(SEED, fate="unused"),
    )
    before = sorted(path.read_bytes() for path in run.rglob("*.parquet"))
    write_dataset(*read_instructions_of(run), tmp_path / "dataset", "me/mine")
    assert sorted(path.read_bytes() for path in run.rglob("*.parquet")) == before
    dataset = load_dataset(str(tmp_path / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert dataset["train"]["instruction"] == ["What is 7 - 1?", "What is 7 - 2?"]
    assert dataset["withheld"]["instruction"] == [None, None]
    card = DatasetCard.load(tmp_path / "dataset" / "README.md")
    assert card.data.size_categories == "n<1K" and {"serl", "synthetic"} <= set(card.data.tags)
    for part in (
        "[me/mine](https://huggingface.co/me/mine)",
        "2 seeds (q.jsonl)",
        "`train` (2 rows)",
        "max_steps: 3",
    ):
        assert part in card.text
    assert all(f"`{column}`" in card.text for column in dataset["train"].column_names)
    written = b"".join(path.read_bytes() for path in (tmp_path / "dataset").rglob("*") if path.is_file())
    assert not any(seed.encode() in written for seed in (SEED, SHOWN, UNSEEN))


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "has no ledger"),
        ([candidate(SEED, parents=[])], "instruction_source is 'seeds'"),
    ],
)
def test_without_instructions_of_its_own_it_says_so(tmp_path, candidates, message):
    ledger(tmp_path, *candidates)
    with pytest.raises(ValueError, match=message):
        read_instructions_of(tmp_path)


def test_a_ledger_of_another_version_is_not_pushed(tmp_path):
    ledger(tmp_path, candidate("What is 7 - 1?"))
    (path,) = tmp_path.rglob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("verdict", pa.array(["rejected"])), path)
    with pytest.raises(ValueError, match="is a ledger of another version"):
        read_instructions_of(tmp_path)
