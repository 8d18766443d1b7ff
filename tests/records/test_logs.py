"""Reading a log that is not as it should be: what can be read is kept, and the rest is told in one line."""

import importlib.util
import math

import pytest
import torch

import puresift as ps

BIG = "9" * 400
ROWS = "".join(f'{{"loss": {at % 7}.5, "id": {at}}}\n' for at in range(20))
DEEP = "[" * 100_000

UNREADABLE = {
    "deep": DEEP,
    "deep and closed": '{"loss": 1, "x": ' + DEEP + "]" * 100_000 + "}",
    "thousands of digits": '{"loss": ' + "9" * 5000 + "}",
    "text": '{"loss": "NaN"}',
    "list": '{"loss": [1]}',
    "true": '{"loss": true}',
    "NUL": "\0" * 99,
    "cut": '{"loss": 1, "id"',
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_line_costs_only_itself(name, tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(ROWS + UNREADABLE[name] + "\n" + ROWS)
    with pytest.warns(UserWarning, match=r"log.jsonl: 1 of 41 lines cannot be read .* the first is line 21"):
        columns, lost = ps.read_log(path)
    assert lost == 1 and columns["id"].tolist() == [*range(20)] * 2


def test_numbers_that_fit_no_tensor_are_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        f'{{"loss": {BIG}, "id": {2**70}, "age": {BIG}, "step": 1}}\n'
        f'{{"loss": -{BIG}, "id": 1, "age": 0.5, "step": 2}}\n'
        f'{{"loss": {2**64}, "id": 2, "age": null, "step": 3}}\n{{"loss": 1e999, "id": 3, "age": -1, "step": 4}}\n'
    )
    columns, lost = ps.read_log(path)
    assert lost == 0 and columns["id"] == [2**70, 1, 2, 3]
    assert columns["loss"].tolist() == [math.inf, -math.inf, 2.0**64, math.inf]
    assert columns["age"].nan_to_num(7).tolist()[1:] == [0.5, 7.0, -1.0] and columns["age"][0] > 1e38
    assert columns["step"].tolist() == [1, 2, 3, 4]


def test_a_mark_of_byte_order_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\xef\xbb\xbf" + ROWS.encode())
    columns, lost = ps.read_log(tmp_path / "log.jsonl")
    assert lost == 0 and len(columns["loss"]) == 20


def test_a_line_without_end_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr("puresift.records.logs._LONGEST", 100)
    path = tmp_path / "log.jsonl"
    for length in (100, 101, 199, 200, 201, 1000):
        head, tail = '{"loss": 1, "id": 7, "text": "', '"}'
        long = head + "a" * (length - len(head) - len(tail)) + tail
        path.write_text(ROWS + long + "\n" + ROWS)
        with pytest.warns(UserWarning, match="1 of 41 lines"):
            assert ps.read_log(path).columns["id"].tolist() == [*range(20)] * 2
    path.write_text(ROWS + "a" * 1000)
    with pytest.warns(UserWarning, match="1 of 21 lines"):
        assert len(ps.read_log(path).columns["id"]) == 20


def test_new_names_in_every_line_are_not_all_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"a{at}": 1, "loss": {at}}}\n' for at in range(1500)))
    with pytest.warns(UserWarning, match="of its 1501 names, the first 1000 were read"):
        columns = ps.read_log(path).columns
    assert len(columns) == 1000 and columns["loss"].tolist() == [*range(1500)]


def test_a_folder_is_no_log(tmp_path):
    for name in ("log", "log.jsonl", "log.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(ps.SiftError, match=f"{name} is a folder; give the .jsonl or .parquet file in it"):
            ps.read_log(tmp_path / name)


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet_with_other_losses_is_told_too(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "log.parquet"
    parquet.write_table(pyarrow.table({"loss": ["a", "b"]}), path)
    with pytest.raises(ps.SiftError, match=r'the "loss" in log\.parquet is no number in any row'):
        ps.read_log(path)
    parquet.write_table(pyarrow.table({"loss": [1.5, None], "id": [2**62, 3]}), path)
    columns, lost = ps.read_log(path)
    assert lost == 0 and torch.equal(columns["id"], torch.tensor([2**62, 3]))
