"""The audit log: every row once, exactly, and what a crash leaves is read."""

import importlib.util
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puresift as ps
from tests import laws
from tests.strategies import cross_entropy, loader, losses, net, seeds

ARROW = importlib.util.find_spec("pyarrow") is not None
SUFFIXES = ["jsonl", pytest.param("parquet", marks=pytest.mark.skipif(not ARROW, reason="needs pyarrow"))]


def info(values, seed=0, **extra):
    noise = ps.keys.uniform(ps.key(seed), 2 * len(values))
    odds = ps.Odds(noise[: len(values)], noise[len(values) :] + 0.5)
    return ps.Info(values, odds, noise[: len(values)] < 0.5, {"nonfinite": torch.tensor([0]), **extra})


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(pools=st.lists(losses(), min_size=1, max_size=5), seed=seeds, every=st.integers(1, 4))
def test_what_is_written_is_read_bit_for_bit(suffix, pools, seed, every, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / f"log.{suffix}"
    infos = [
        info(pool, seed, id=torch.arange(len(pool)) + 10 * at, age=torch.full((len(pool),), float(at)))
        for at, pool in enumerate(pools)
    ]
    with ps.AuditLog(path, every=every) as log, laws.untouched(*infos):
        for at, part in enumerate(infos):
            log.write(part, torch.tensor(at + 1) if at % 2 else at + 1)
        log.flush()
    columns, lost = ps.read_log(path)
    assert lost == 0
    assert list(columns) == ["step", "loss", "p", "weight", "kept", "id", "age"]
    for name, wanted in {
        "loss": [part.losses for part in infos],
        "p": [part.odds.probs for part in infos],
        "weight": [part.odds.weights for part in infos],
        "kept": [part.mask for part in infos],
        "id": [part.extra["id"] for part in infos],
        "step": [torch.full((len(part.losses),), at + 1) for at, part in enumerate(infos)],
    }.items():
        assert torch.equal(columns[name], torch.cat(wanted)), name


def test_a_stream_is_logged_without_an_extra_read_a_step(tmp_path):
    from tests.stream.test_stream import Reads

    model, pools = net(), loader(rows=320)
    sifter = ps.sifter(
        ps.batched(model, cross_entropy),
        ps.delay(ps.relative(keep=0.5, history=64), steps=2),
        batch_size=8,
        columns={"label": lambda batch: batch[1]},
    )
    stream = ps.sift(sifter, sifter.init(ps.key(0), ps.peek(pools)), ps.live(model), pools, governor=ps.governor())
    infos = []
    with ps.AuditLog(tmp_path / "log.jsonl", every=100) as log:
        for _, _, state, part in stream:
            with Reads() as reads:
                log.write(part, state.step)
            assert reads.count == 0
            infos.append(part)
    columns = ps.read_log(tmp_path / "log.jsonl").columns
    seen = torch.cat([part.losses for part in infos])
    torch.testing.assert_close(columns["loss"], seen, rtol=0, atol=0, equal_nan=True)
    assert bool(columns["loss"][:32].isnan().all())  # pools that were not scored
    assert set(columns["label"].tolist()) <= {0, 1, 2}
    assert "phi" not in columns and "nonfinite" not in columns


def test_the_lines_are_strict_json(tmp_path):
    values = torch.tensor([0.1, math.nan, math.inf, 1e-30])
    wide = torch.tensor([[1.5, 2.0]] * 4)
    with ps.AuditLog(tmp_path / "log.jsonl") as log:
        log.write(info(values, half=values.half(), wide=wide), 3)
    refuse = {"parse_constant": lambda name: pytest.fail(f"{name} is not JSON")}
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, **(refuse if at in (0, 3) else {})) for at, line in enumerate(lines)]
    assert [row["loss"] for row in rows] == [pytest.approx(0.1), None, None, pytest.approx(1e-30)]
    assert rows[0]["wide"] == [1.5, 2.0]


def test_a_log_is_appended_to_and_a_torn_line_stays_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    for at in range(3):
        with ps.AuditLog(path) as log:
            log.write(info(torch.ones(4)), at)
        path.write_bytes(path.read_bytes()[: -9 if at == 1 else None])
    with pytest.warns(UserWarning, match=r"log.jsonl: 1 of 12 lines cannot be read .* the first is line 8"):
        columns, lost = ps.read_log(path)
    assert lost == 1
    assert columns["step"].tolist() == [0] * 4 + [1] * 3 + [2] * 4


def test_whatever_is_readable_is_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"loss": 1, "id": "a"}\n\n[1]\n{"id": "b"}\n{"loss": "x"}\n{"loss": true}\n\xff\xfe\n'
        b'{"loss": null, "age": 2.5}\n{"loss": 3.5, "id": "d", "age": 1}\n{"loss": 4'
    )
    with pytest.warns(UserWarning, match="6 of 9 lines cannot be read .* the first is line 3"):
        columns, lost = ps.read_log(path)
    assert lost == 6
    torch.testing.assert_close(columns["loss"], torch.tensor([1.0, torch.nan, 3.5]), equal_nan=True)
    assert columns["id"] == ["a", None, "d"]
    assert torch.isnan(columns["age"]).tolist() == [True, False, False]


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"nothing\nhere\n"])
def test_nothing_readable_is_an_error(tmp_path, content):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"log.jsonl has no line that is a JSON object with a \"loss\""):
        ps.read_log(path)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .jsonl or .parquet, got 'log.csv'"):
        ps.AuditLog(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="every must be a whole number >= 1"):
        ps.AuditLog(tmp_path / "log.jsonl", every=0)
    with pytest.raises(FileNotFoundError):
        ps.read_log(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match=r"the log writes \['loss'\] itself"), ps.AuditLog(tmp_path / "a.jsonl") as log:
        log.write(info(torch.ones(2), loss=torch.ones(2)), 0)


@pytest.mark.skipif(ARROW, reason="pyarrow is here")
def test_parquet_without_pyarrow_names_the_cure(tmp_path):
    with pytest.raises(ValueError, match=r"Parquet needs pyarrow: pip install pyarrow, or log to .jsonl"):
        ps.AuditLog(tmp_path / "log.parquet")
    (tmp_path / "old.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="Parquet needs pyarrow"):
        ps.read_log(tmp_path / "old.parquet")


@pytest.mark.skipif(not ARROW, reason="needs pyarrow")
def test_a_parquet_file_cut_short_is_named(tmp_path):
    path = tmp_path / "log.parquet"
    with ps.AuditLog(path) as log:
        log.write(info(torch.ones(4)), 1)
    with pytest.raises(ValueError, match="exists, and Parquet cannot be appended to"):
        ps.AuditLog(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cannot be read as Parquet .* log to .jsonl"):
        ps.read_log(path)
