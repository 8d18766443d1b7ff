"""bench/rl: its problems, arms and charges; exact makes the plain arm's steps."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bench.rl import __main__ as command
from bench.rl import charges, checks, report, rollouts, start, task, training, work
from bench.rl.arms import ARMS, halved
from bench.rl.net import Speaker, logs, say
from bench.rl.rollouts import GROUP, PROMPTS, Rollouts, advantages

SECONDS = {"rollouts": 0.5, "plain": 1.0, "half": 0.6, **{f"exact-{size}": 0.1 + size / 32 for size in range(4, 33, 4)}}


@pytest.fixture(autouse=True)
def easy(monkeypatch):
    """Rewards that a model without practice gets: to half of the prompts, by the first token that it says."""
    monkeypatch.setattr(rollouts, "right", lambda said, answers: (said[..., 0] % 2 == 0) & (answers[..., 0] < 4))


def built(seed=0):
    torch.manual_seed(seed)
    return Speaker(width=16, heads=2, layers=1)


def rolled(seed=0):
    return Rollouts(built(), task.data()[0], seed)


def test_answers_are_right_and_no_problem_is_both_trained_on_and_held_out():
    train, held_out = task.problems(400, 3), task.problems(400, 4, held_out=True)
    does = {
        "add": lambda a, b, _: a + b,
        "subtract": lambda a, b, _: abs(a - b),
        "multiply": lambda a, b, text: int(text[:-1]) * int(text[-1]),
    }
    for prompt, answer in zip(train.prompts.tolist(), train.answers.tolist(), strict=True):
        name = list(task.KINDS)[prompt[0] - task.FIRST]
        text = "".join(str(token) for token in prompt[1:-1] if token != task.EMPTY)
        said = "".join(str(token) for token in answer[: answer.index(task.END)])
        if name in does:
            half = len(text) // 2
            assert int(said) == does[name](int(text[:half]), int(text[half:]), text)
        else:
            assert said == {"reverse": text[::-1], "sort": "".join(sorted(text)), "rotate": text[2:] + text[:2]}[name]
    assert not {tuple(row) for row in train.prompts.tolist()} & {tuple(row) for row in held_out.prompts.tolist()}


def test_slips_are_in_long_answers_of_some_kinds_alone():
    clean, slipped = task.problems(3000, 3), task.problems(3000, 3, slips=True)
    kinds, digits = (clean.levels // 10), clean.levels % 10
    ordered = torch.isin(kinds, torch.tensor([list(task.KINDS).index(name) for name in task.ORDERED]))
    exposed = ordered & torch.isin(digits, torch.tensor(list(task.SLIPS)))
    assert kinds.unique().tolist() == list(range(len(task.KINDS)))
    first = 0
    while torch.equal(clean.prompts[first], slipped.prompts[first]) and not exposed[first]:
        first += 1  # from the first that may slip on the dice are others
    assert torch.equal(clean.answers[:first], slipped.answers[:first])
    assert len({tuple(row) for row in slipped.answers.tolist()}) > 1000


def test_an_answer_ends_at_its_first_end_and_is_right_to_the_letter():
    answer = torch.tensor([1, 2, task.END, *[task.EMPTY] * 4])
    said = torch.stack([answer, answer, answer, answer])
    said[1, 3:] = 7  # after the end
    said[2, 1] = 3
    said[3, 2] = 4  # which goes on
    assert task.right(said, answer).tolist() == [True, True, False, False]
    assert task.spoken(said[0]).tolist() == [True, True, True, False, False, False, False]


def test_what_was_said_has_the_chances_that_the_loss_sees():
    model, rows = built(), task.data()[0].take(torch.arange(6))
    said, before = say(model, rows.prompts, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(logs(model, rows.prompts, said), before, rtol=1e-5, atol=1e-5)
    tokens, _ = say(model, rows.prompts[:1], 1500, torch.Generator().manual_seed(1))
    chances = tokens[0, :, 0].bincount(minlength=task.TOKENS) / 1500
    logits = model(rows.prompts[:1])[0][0, -1]
    torch.testing.assert_close(chances, logits.detach().softmax(-1), atol=0.04, rtol=0.0)


def test_groups_of_like_rewards_have_advantages_of_zero():
    reward = torch.tensor([[1.0] * 8, [0.0] * 8, [1.0, *[0.0] * 7]])
    assert advantages(reward)[:2].eq(0).all()
    torch.testing.assert_close(advantages(reward)[2].square().mean(), torch.tensor(1.0), rtol=1e-3, atol=0.0)


def test_exact_is_plain():
    found = checks.differences(built(), *task.data(), seed=3, lr=1e-3, updates=8)
    assert found["gradient"] < 1e-5
    assert found["weights"] < 1e-3


def test_what_each_arm_trains_on():
    whole = rolled()()
    alive = whole["advantage"].abs().amax(1) > 0
    assert 4 < int(alive.sum()) < 28, "groups of both sorts"
    update = next(ARMS["plain"](rolled()))
    assert torch.equal(update.pool["said"], whole["said"]) and update.cost == "plain"
    update = next(ARMS["exact"](rolled()))
    rows = len(update.weights)
    assert update.cost == f"exact-{rows}" and rows % 4 == 0 and 0 <= rows - int(alive.sum()) < 4
    assert torch.equal(update.pool["id"][: int(alive.sum())], whole["id"][alive])
    lazy = rolled()
    update = next(ARMS["dynamic"](lazy))
    assert bool((update.pool["advantage"].abs().amax(1) > 0).all()) and len(update.weights) == PROMPTS
    assert update.weights.eq(1).all() and lazy.pools > 1
    update = next(ARMS["downsampled"](rolled()))
    assert update.pool["said"].shape[:2] == (PROMPTS, GROUP // 2) and update.cost == "half"


def test_the_table_draws_prompts_whose_answers_are_now_right_now_wrong(monkeypatch):
    def right(said, answers):
        return (answers[..., 0] < 2) | ((said[..., 0] % 2 == 0) & (answers[..., 0] < 5))

    monkeypatch.setattr(rollouts, "right", right)
    drawn = [update.pool["id"] for update in itertools.islice(ARMS["table"](rolled()), 60)]
    first = task.data()[0].answers[:, 0]
    sorts = {"always": first < 2, "at times": (first >= 2) & (first < 5), "never": first >= 5}
    late = torch.cat(drawn[36:])  # all were drawn once by then
    more = {name: float(some[late].float().mean() / some.float().mean()) for name, some in sorts.items()}
    assert more["at times"] > 1.5
    assert more["always"] < 0.7 and more["never"] < 0.7


def test_no_half_of_a_group_varies_more_than_the_one_that_is_kept():
    pool = rolled()()
    kept = halved(pool)
    for rewards, half in zip(pool["reward"], kept["reward"], strict=True):
        most = max(rewards[list(some)].var() for some in itertools.combinations(range(GROUP), GROUP // 2))
        assert half.var() == most
    place = torch.randint(0, PROMPTS, (1,), generator=torch.Generator().manual_seed(0))
    said = {tuple(row) for row in pool["said"][place].flatten(0, 1).tolist()}
    assert {tuple(row) for row in kept["said"][place].flatten(0, 1).tolist()} <= said
    assert torch.equal(kept["advantage"], advantages(kept["reward"]))


def test_charges_by_hand():
    units = charges.prices({"seconds": SECONDS})
    assert [units[ratio]["plain"] for ratio in charges.RATIOS] == [1, 3, 2]
    assert units["1:3"]["exact-8"] == pytest.approx(3 * 0.35)
    record = {"pools": [1, 3], "costs": ["plain", "half"]}
    assert charges.charged(record, units["1:3"]) == pytest.approx([0, 4, 7.8])
    told = charges.enough(2, units, 1.0)
    assert not told(1, ["plain"]) and told(2, ["plain", "plain"])
    told = charges.enough(2, units, 1.0)  # at 1:3 the last to be there: 8 units
    assert [told(n, ["half"] * n) for n in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize("arm", ["exact", "dynamic"])
def test_a_run_that_is_never_right_ends(arm, monkeypatch):
    monkeypatch.setattr(rollouts, "right", lambda said, answers: said[..., 0] < 0)
    units = charges.prices({"seconds": SECONDS})
    enough, most = charges.enough(2, units, 1.2), charges.most(2, units, 1.2)
    assert most == 10
    record = training.run(arm, built(), *task.data(), seed=0, lr=1e-3, enough=enough, most=most)
    assert record["costs"] == [] and len(record["alive"]) == most and len(record["curve"]) == 1


def test_every_kind_of_update_is_measured(monkeypatch):
    monkeypatch.setattr(charges, "Speaker", built)
    seconds = charges.measured(rounds=1)["seconds"]
    assert set(seconds) == set(SECONDS) and min(seconds.values()) > 0


def recorded(arm, seed, successes, costs, pools, alive):
    curve = [{"updates": n, "success": one} for n, one in enumerate(successes)]
    terms = {"lr": 1.0, "steps": len(costs), "told": 1, "margin": 1.0, "seconds": SECONDS}
    return {"arm": arm, "seed": seed, "lr": 1.0, "terms": terms, "curve": curve, "costs": costs} | {
        "pools": pools,
        "alive": alive,
    }


def test_the_tables_say_what_the_runs_do():
    plain = {
        seed: recorded("plain", seed, [0, 3, 6, 9, 12 + seed], ["plain"] * 4, [1, 2, 3, 4], [4, 8, 4, 8])
        for seed in range(5)
    }
    twice = {
        seed: recorded("table", seed, [0, 6, 12 + seed, 20, 20 + seed], ["plain"] * 4, [1, 2, 3, 4], [4] * 4)
        for seed in range(5)
    }
    never = {
        seed: recorded("dynamic", seed, [0, 1, 2, 3, 4], ["plain"] * 4, [3, 6, 9, 12], [8] * 12) for seed in range(5)
    }
    found = {"plain": plain, "table": twice, "dynamic": never}
    rows = {row["arm"]: row for row in report.table(found, "1:1")}
    exact = rows["exact, along plain"]
    each = (1 + SECONDS["exact-4"] + 1 + SECONDS["exact-8"]) / 4
    assert exact["fast"].mean == pytest.approx(1 / each) and exact["fast"].low == pytest.approx(exact["fast"].mean)
    assert exact["least"] > 1
    assert (
        report.verdict(exact, "1:1") == "as declared" and report.verdict({**exact, "least": 0.99}, "1:1")[:3] == "NOT"
    )
    assert report.verdict(rows["table"], "1:1") == "faster" and rows["table"]["gap"].mean > 0
    assert report.verdict(rows["dynamic"], "1:1") == "slower" and rows["dynamic"]["reached"] == 0
    assert report.verdict({**rows["table"], "seeds": 4}, "1:1") == "too few seeds"
    dead = {0: recorded("dynamic", 0, [0], [], [], [0] * 12)}  # which made no update in all its time
    row = report.table({"plain": plain, "dynamic": dead}, "1:1")[1]
    assert row["fast"].mean <= 1 and row["success"] == 0 and row["reached"] == 0
    text = report.report(found, {"0": {"updates": 50, "gradient": 1e-7, "weights": 2e-4}}, {})
    assert "5 of 5 never there" in text and "2.0e-04" in text and "1:2.00 as measured" in text


def test_the_grid_is_widened_until_the_best_is_inside(tmp_path, monkeypatch):
    def judged(plan, arm, seed, lr, margin):
        return {"lr": lr, "seed": seed}

    monkeypatch.setattr(work, "made", judged)
    monkeypatch.setattr(work, "_judged", lambda plan, record: -abs(math.log(record["lr"] / 3e-3)) + record["seed"])
    work.write(tmp_path / "costs.json", {"seconds": SECONDS})
    plan = work.Plan(tmp_path, tmp_path, 4)
    with ThreadPoolExecutor(1) as hands:
        rates = work.tuned(plan, hands, ["plain", "exact"])
        assert rates == {"plain": 4e-3, "exact": 4e-3}
        tried = work.read(tmp_path / "tuning.json")["tried"]
        assert set(tried) == {"plain"} and set(tried["plain"]) == {f"{lr:g}" for lr in (*work.GRID, 4e-3, 8e-3)}
        monkeypatch.setattr(work, "made", None)  # nothing is made twice
        assert work.tuned(plan, hands, ["plain", "exact"]) == rates


def test_the_command_makes_what_is_not_there_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(1))
    monkeypatch.setattr(charges, "measured", lambda: {"seconds": SECONDS})
    monkeypatch.setattr(start, "Speaker", built)
    folders = ["--results", str(tmp_path / "rl"), "--starts", str(tmp_path)]
    line = ["--seeds", "0", "--steps", "2", "--told", "2", "--lr", "1e-3", "--arms", "plain,exact", *folders]
    assert command.main(line) == 0
    assert "2 runs to make" in capsys.readouterr().out
    command.main(line)
    said = capsys.readouterr().out
    assert "0 runs to make" in said and "exact, along plain" in said and "too few seeds" in said
    command.main([*line, "--report"])
    assert "runs to make" not in capsys.readouterr().out


@pytest.mark.parametrize("line", [["--arms", "plane"], ["--workers", "0"], ["--steps", "x"]])
def test_what_the_command_cannot_use_is_said(line, capsys):
    with pytest.raises(SystemExit):
        command.main(line)
    assert line[1] in capsys.readouterr().err


def test_nothing_to_report_is_said(tmp_path, capsys):
    assert command.main(["--report", "--results", str(tmp_path)]) == 0
    assert "run without --report first" in capsys.readouterr().out
