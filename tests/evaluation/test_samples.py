import json

import pytest

from serl_trl.evaluation.samples import read_samples, start_samples


SETTINGS = {"model": "tiny", "temperature": 1.0}
ROWS = [{"number": 1, "correct": [1]}, {"number": 0, "correct": [0]}]


def test_rows_come_back_whatever_a_kill_left_of_the_last_line(tmp_path):
    path = tmp_path / "sums.jsonl"
    assert read_samples(path, SETTINGS) == {}
    start_samples(path, SETTINGS, ROWS)
    whole = path.read_bytes()
    last = whole.rindex(b'{"number": 0')
    for end in range(last, len(whole) + 1):
        path.write_bytes(whole[:end])
        assert read_samples(path, SETTINGS) == {row["number"]: row for row in ROWS[: 2 if end == len(whole) else 1]}


def test_other_settings_are_named(tmp_path):
    start_samples(tmp_path / "sums.jsonl", SETTINGS, ROWS)
    message = "was made with temperature 1.0 instead of 0.5, seed None instead of 3. Set that back to go on with it"
    with pytest.raises(ValueError, match=message):
        read_samples(tmp_path / "sums.jsonl", SETTINGS | {"temperature": 0.5, "seed": 3})


@pytest.mark.parametrize("text", ["", '{"problem": "x"}\n', "[1]\n", "problem,answer\n", '{"settings": {}'])
def test_a_file_of_another_kind_is_left_alone(tmp_path, text):
    (tmp_path / "sums.jsonl").write_text(text)
    with pytest.raises(ValueError, match="is in the way: it holds no samples"):
        read_samples(tmp_path / "sums.jsonl", SETTINGS)
    assert (tmp_path / "sums.jsonl").read_text() == text


def test_samples_are_lines_of_json(tmp_path):
    start_samples(tmp_path / "sums.jsonl", SETTINGS, ROWS)
    lines = (tmp_path / "sums.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"settings": SETTINGS}, *ROWS]
