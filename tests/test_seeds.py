import json
import logging
import math

import pytest
from datasets import Dataset, DatasetDict

from serl_trl import load_seeds


ROWS = [{"problem": "What is 2 + 3?", "answer": 5}, {"problem": "What is 4 - 1?", "answer": None}]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_every_kind_of_source_gives_the_same_seeds(tmp_path):
    csv = 'problem,answer\n"What is 2 + 3?",5\n"What is 4 - 1?",\n'
    Dataset.from_list(ROWS).to_parquet(tmp_path / "seeds.parquet")
    sources = [
        write(tmp_path / "seeds.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        write(tmp_path / "bom.jsonl", "\n".join(map(json.dumps, ROWS)), "utf-8-sig"),
        write(tmp_path / "seeds.json", json.dumps(ROWS)),
        write(tmp_path / "seeds.CSV", csv),
        write(tmp_path / "semicolons.csv", csv.replace(",", ";")),  # Excel's, where numbers have a comma
        str(tmp_path / "seeds.parquet"),
        tmp_path / "seeds.json",
        Dataset.from_list(ROWS),
    ]
    for source in sources:
        seeds = load_seeds(source)
        assert seeds["instruction"][:] == ["What is 2 + 3?", "What is 4 - 1?"]
        assert seeds["answer"][:] == ["5", None]


def test_text_files_and_lists_of_texts_hold_one_instruction_each(tmp_path):
    text = write(tmp_path / "seeds.txt", "What is 2 + 3?\r\n\r\n七 加 三 ？\n")
    assert [seed.strip() for seed in load_seeds(text)["instruction"]] == ["What is 2 + 3?", "七 加 三 ？"]
    listed = write(tmp_path / "seeds.json", json.dumps(["What is 2 + 3?"]))
    assert load_seeds(listed).column_names == ["instruction"]


@pytest.mark.parametrize("column", ["prompt", "problem", "question", "instruction"])
def test_usual_columns_are_found(column):
    assert load_seeds(Dataset.from_dict({"id": [1], column: ["What is 2 + 3?"]}))["instruction"][0] == "What is 2 + 3?"


def test_a_column_can_be_named_and_conversations_are_read():
    rows = Dataset.from_dict({"prompt": ["no"], "text": [[{"role": "user", "content": "What is 2 + 3?"}]]})
    assert load_seeds(rows, column="text")["instruction"][0] == "What is 2 + 3?"


def test_bad_rows_are_counted_and_the_rest_is_used(tmp_path, caplog):
    rows = ["What is 2 + 3?", " What  is 2 + 3?", "", " \n", 7, None, ["a"], "\ud800 half a pair", "What is 4 - 1?"]
    path = write(tmp_path / "seeds.jsonl", "\n".join(json.dumps({"question": row}) for row in rows))
    with caplog.at_level(logging.WARNING):
        assert load_seeds(path)["instruction"][:] == ["What is 2 + 3?", "What is 4 - 1?"]
    assert "7 of 9 rows left out (1 duplicate, 2 empty, 4 not text)" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.jsonl", None, "There is no file"),
        ("empty.jsonl", "", "is empty"),
        ("blank.jsonl", "\n\n", "is empty"),
        ("header.csv", "problem,answer\n", "is empty"),
        ("columns.jsonl", '{"text": "x", "id": 1}', "Its columns are: text, id"),
        ("no_text.jsonl", '{"problem": 3}', "no instruction in its column 'problem'"),
        ("broken.jsonl", '{"problem": "x"}\n{"problem": ', "line 2: broken JSON"),
        ("broken.json", '[\n{"problem": "x"},\n]', "line 3: broken JSON"),
        ("object.json", '{"problem": "x"}', "Make it one list"),
        ("number.jsonl", "7", "row 1: expected an object or a text"),
        ("seeds.xlsx", "x", "can't be read"),
        ("seeds.parquet", "x", "can't be read"),
        ("deep.json", "[" * 100_000, "can't be read"),
        ("long.csv", "problem\n" + "x" * 200_000, "can't be read"),
        # an open quote takes in the rows up to the next one, or all
        ("open.csv", 'problem,answer\na,1\n"b,2\n' + 'c,3\n"d",4\n' * 9, "the row that begins in line 3 has a quote"),
        ("open.csv", 'problem,answer\na,1\n"b,2\nc,3\nd,4\n', "the row that begins in line 3 has a quote"),
        ("open.csv", '"problem,answer\na,1\n', "the row that begins in line 1 has a quote"),
        ("comma.csv", "problem,answer\na,1\nWhat is 2, or 3,2\n", "the row that begins in line 3 .* a comma outside"),
        ("digits.jsonl", '{"problem": "x", "answer": ' + "9" * 5000 + "}", "digits.jsonl, line 1: Exceeds the limit"),
        ("digits.json", '[{"problem": "x", "answer": ' + "9" * 5000 + "}]", "digits.json: Exceeds the limit"),
        (
            "lists.jsonl",
            '{"problem": "x", "answer": ["5"]}',
            "lists.jsonl, row 1: answer is \\['5'\\]. Make it a text",
        ),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_seeds(str(path))


def test_quoted_texts_hold_lines_quotes_and_commas(tmp_path):
    csv = 'problem,answer,\n"Two, ""three""\nand four?",9,\n"Is it 5"" long?",,\n'
    assert load_seeds(write(tmp_path / "seeds.csv", csv)).to_list() == [
        {"instruction": 'Two, "three"\nand four?', "answer": "9"},
        {"instruction": 'Is it 5" long?', "answer": None},
    ]


def test_a_missing_number_is_no_answer():
    seeds = load_seeds([{"problem": "What is 2 + 3?", "answer": math.nan}, {"problem": "What is 1.5?", "answer": 1.5}])
    assert seeds["answer"][:] == [None, "1.5"]


def test_lists_are_read_and_other_things_are_refused():
    assert load_seeds(["What is 2 + 3?", ""])["instruction"][:] == ["What is 2 + 3?"]
    with pytest.raises(ValueError, match="can't be read from a DatasetDict"):
        load_seeds(DatasetDict(train=Dataset.from_list(ROWS)))


def test_a_dataset_that_the_hub_does_not_give_is_one_sentence(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'someone/no-such-data' is no file here, and can't be loaded"):
        load_seeds("someone/no-such-data")


def test_other_encodings_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="can't be read \\('utf-8' codec"):
        load_seeds(write(tmp_path / "latin.txt", "Où est-il ?", "latin-1"))
    with pytest.raises(ValueError, match="can't be read"):
        load_seeds(str(tmp_path))
    with pytest.raises(ValueError, match="no column 'text'. Its columns are: problem, answer"):
        load_seeds(Dataset.from_list(ROWS), column="text")
