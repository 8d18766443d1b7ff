"""bench/speed/merit.py: its pools, its sums, and its models run in parts."""

import math

import pytest
import torch

import puresift as ps
from bench.speed import merit
from puresift.trials import merits


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    words = ["a", "dull", "bright", "film", "plot", "that", "never", "always", "ends"]
    rows = [f"{' '.join(words[n % k] for k in range(2, 4 + n % 5))}\t{n % 2}" for n in range(200)]
    (folder / "glue-sst2").mkdir()
    (folder / "glue-sst2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return merit.encoder(str(folder), 200)


def test_pools_are_whole_and_pass_over_all_rows(subject):
    feed = merit.pools(subject.rows)
    passes = [torch.cat([next(feed)["id"] for _ in range(3)]) for _ in range(2)]
    assert all(len(ids.unique()) == 3 * merit.ROWS for ids in passes)
    assert not torch.equal(*passes)
    assert subject.rows["input_ids"].shape == (200, merit.WIDTH)


def test_hidden_states_are_the_model_s_own(subject):
    pool, model = next(merit.pools(subject.rows)), subject.model.eval()
    with torch.no_grad():
        share = pool["attention_mask"].float()
        mean = (model.last(subject.hidden(model, pool, 2)) * share[..., None]).sum(1) / share.sum(1, keepdim=True)
        torch.testing.assert_close(model.head(mean), model(pool["input_ids"], pool["attention_mask"]))
    assert subject.half == len(model.blocks) // 2


def test_sums_over_pools_are_a_merit_of_all():
    norms, losses = ps.keys.uniform(ps.key(0), 64), ps.keys.uniform(ps.key(1), 64)
    seen = [merits.Look(losses, torch.arange(64), torch.ones(64))]
    moments = {keep: merits.moments(norms, seen, keep) for keep in merits.KEEPS}
    found = merit.worth({keep: (2 * a, 2 * b) for keep, (a, b) in moments.items()}, 0.2)
    assert found == pytest.approx(merits.merit(norms, seen, 0.2)._asdict())
    assert merit.worth({0.5: (1.0, 0.5), 1.0: (1.0, math.inf)}, 0.5)["keep"] == 0.5


def test_a_machine_that_is_slow_at_bfloat16_scores_in_float32(subject, monkeypatch):
    monkeypatch.setattr(ps, "compiled", lambda score, **settings: score)
    scorers = merit.Scorers(subject, anyway=True, half=False)
    assert set(scorers.plain) == {"fp32", "fp32 compiled", "int8"}
    assert set(scorers.names) - set(scorers.priced) == {"int8"}
    assert set(scorers.cascades) == {"cascade by probe, fp32", "cascade by remembered, fp32"}


def test_probes_and_memory_learn_from_training_alone(subject, monkeypatch):
    monkeypatch.setattr(ps, "compiled", lambda score, **settings: score)
    scorers = merit.Scorers(subject, anyway=True)
    assert set(scorers.plain) == {"fp32", "bf16 compiled", "int8 compiled"}
    assert len([name for name in scorers.names if name.startswith("cascade")]) == 4
    feed = merit.pools(subject.rows)
    pool = next(feed)
    assert bool(scorers.once("probe", pool).isnan().all())
    losses, told = ps.batched(subject.model, subject.loss), []
    for _ in range(2 * 2 * merit.KNOWN // merit.ROWS + 1):
        told += pool["id"].tolist()
        scorers.learn(pool, losses(ps.live(subject.model), pool))
        pool = next(feed)
    assert bool(scorers.once("probe", pool).isfinite().all())
    assert int(scorers.losses.losses.isfinite().sum()) == len(set(told))
    left = round(merit.KEEP * merit.ROWS)
    assert scorers.once("cascade by remembered, bf16", pool).shape == (left,)
    monkeypatch.setattr(merits, "_DRAWS", 2)
    assert [len(look.rows) for look in scorers.looks("cascade by probe, bf16", pool)] == [left] * 2


def test_arms_that_were_priced_elsewhere_or_not_at_all_are_shown(capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    worth = {"merit": 1.5, "keep": 0.2, "reduction": 2.0}
    looks = {"fp32": {"fp32": worth, "free": worth}, "int8": {"free": worth}}
    found = {
        "task": "encoder",
        "precision": "fp32",
        "phi": {name: {"fp32": {"median": 0.3}} for name in ("fp32", "not run here")},
        "seconds": {name: {"median": 1.0} for name in ("step fp32", "fp32", "not run here")},
        "looks": [{"step": 10, "loss": 0.5, "ranks": {"fp32": 1.0}, "merit": looks}],
    }
    merit.show(found)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ["fp32", "int8"]
    _, axes = pyplot.subplots()
    merit.draw([found], axes)
    assert [line.get_label() for line in axes.get_lines()][:1] == ["fp32"] and len(axes.get_lines()) == 2
    pyplot.close("all")
