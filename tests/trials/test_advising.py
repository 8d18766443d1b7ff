"""Advice: nothing of the job is changed, the numbers are those of their formulas, the rule is the one that is told."""

import random
import time

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import puresift as ps
from puresift.trials import measured, verdicts
from puresift.trials.advice import Advice, Facts, Interval, Mode
from puresift.trials.pilots import Throwaway, Watch, norms, pilot
from tests.strategies import cross_entropy, data, net

CPU = torch.device("cpu")


def even(value):
    return Interval(value, value, value)


def facts(**changed):
    mode = Mode("as trained", "ps.batched(model, loss)", 0.12, 1.0, 0.5, even(changed.pop("worth", 1.0)))
    known = {
        **{"rows": 1000, "batch_size": 16, "steps": 2000, "passes": 32.0, "visits": 32.0, "step": 0.01},
        **{
            "loading": 0.1,
            "held_out": True,
            "moved": 0.0,
            "modes": (mode,),
            "mode": mode,
            "rule": "ps.importance(keep=0.05)",
        },
        **{"pilot": 100, "exact": True, "concentration": even(1.5), "drawn": even(1.4), "shortening": None},
        **{"whole": 0.0, "padding": None, "memory": None, "rate": "the optimizer's rate", "ragged": ""},
    }
    return Facts(**known | changed)


RULE = {  # as the docstring has it
    "few steps": ({"steps": 299, "concentration": even(9)}, "shorten"),
    "many visits, concentrated": ({"concentration": even(3)}, "prioritize"),
    "the lower end counts": ({"concentration": Interval(9, 2.9, 20)}, "shorten"),
    "ten visits are many": ({"visits": 10, "concentration": even(3)}, "prioritize"),
    "fewer are not": ({"visits": 9.9, "concentration": even(3)}, "shorten"),
    "a fit, shortening costs": ({"held_out": False, "shortening": Interval(0.2, 0.06, 0.3)}, "prioritize"),
    "a fit, shortening costs nothing certain": ({"held_out": False, "shortening": Interval(0.2, 0.04, 0.3)}, "shorten"),
    "held-out rows, shortening costs": ({"shortening": Interval(0.2, 0.06, 0.3)}, "shorten"),
    "many visits, even": ({"worth": 3.0}, "shorten"),
    "no ids": ({"rows": None, "concentration": even(9)}, "shorten"),
    "no ids, cheap": ({"rows": None, "concentration": even(9), "worth": 1.25}, "auto"),
    "one visit": ({"visits": 1, "worth": 1.49}, "shorten"),
    "one visit, cheap": ({"visits": 1, "worth": 1.5}, "auto"),
    "two visits": ({"visits": 2, "worth": 1.25}, "auto"),
}


@pytest.mark.parametrize("case", RULE)
def test_the_verdict_is_the_one_that_the_rule_tells(case):
    changed, verdict = RULE[case]
    assert verdicts.decide(facts(**changed))[0] == verdict


def job(rare=False, rows=800):
    """Three even classes, or one row in a hundred apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(rows, 4)
        y = (torch.arange(rows) % 100 == 0).long() if rare else (3 * torch.rand(rows)).long()
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    order = torch.Generator().manual_seed(1)
    return model, cross_entropy, DataLoader(TensorDataset(x, y), 16, shuffle=True, generator=order)


@pytest.mark.parametrize(("rare", "verdict"), [(True, "prioritize"), (False, "shorten")])
def test_a_rare_class_that_comes_many_times_is_drawn_and_even_ones_are_not(rare, verdict):
    model, loss, loader = job(rare)
    advice = ps.advise(model, loss, loader, torch.optim.Adam(model.parameters(), 0.05), passes=20, seconds=20)
    assert advice.verdict == verdict
    assert (advice.facts.concentration.low >= 3) == rare
    page = str(advice)
    assert page.startswith("SIFT, by the losses of training:" if rare else "DO NOT SIFT, train for less time:")
    assert advice.code in page and "against the full run" in page
    assert ("against the run cut to 60%" if rare else "against that shortened run: nothing") in page
    assert max(map(len, page.split(advice.code)[0].split("\n"))) <= 110


def everything(model, optimizer, loader):
    """All that a pilot could touch."""
    state = optimizer.state_dict()
    return [
        [t.clone() for t in (*model.parameters(), *model.buffers())],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [t.clone() for s in state["state"].values() for t in s.values()],
        [
            torch.get_rng_state(),
            loader.generator.get_state(),
            torch.tensor(numpy.random.get_state()[1].astype("int64")),
        ],
        [[module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]],
        [
            state["param_groups"],
            random.getstate(),
            numpy.random.get_state()[1].tolist(),
            torch.is_grad_enabled(),
            len(model._forward_hooks),
        ],
    ]


def alike(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@pytest.mark.parametrize("passes", [2, 20])
def test_the_job_is_left_as_it_was_to_the_bit(passes):
    model, loader = net(), DataLoader(data(), 8, shuffle=True, generator=torch.Generator().manual_seed(3))
    model[1].eval()  # a frozen part
    called = []
    model.register_forward_hook(lambda *_: called.append(1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 100)
    cross_entropy(model, next(iter(loader))).mean().backward()
    optimizer.step()
    before, hooked = everything(model, optimizer, loader), len(called)
    with pytest.warns(UserWarning, match="hook"):  # which scoring leaves out
        advice = ps.advise(model, cross_entropy, loader, optimizer, passes=passes, seconds=1)
    assert alike(everything(model, optimizer, loader), before)
    assert len(called) == hooked and scheduler.last_epoch == 0
    assert advice.facts.pilot >= 2


def test_what_it_changed_would_be_seen():
    model, loader = net(), DataLoader(data(), 8, shuffle=True, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before = everything(model, optimizer, loader)
    next(iter(loader))
    assert not alike(everything(model, optimizer, loader), before)


class Told(list):
    """Batches that tell a position."""

    at = 5

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]

    def __iter__(self):
        self.at = 0
        for batch in super().__iter__():
            self.at += 1
            yield batch


def test_a_position_that_a_loader_tells_is_put_back():
    loader = Told(zip(*(leaf.split(8) for leaf in data().tensors), strict=True))
    ps.advise(net(), cross_entropy, loader, seconds=1)
    assert loader.at == 5


@pytest.mark.parametrize("verdict", ["prioritize", "auto", "shorten"])
def test_the_code_runs_as_it_is_printed(verdict):
    model, loss, loader = job(rows=80)
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    code = verdicts.code(verdict, facts(rows=80, steps=15, passes=3.0))
    names = {"ps": ps, "model": model, "loss": loss, "loader": loader, "optimizer": optimizer}
    exec(code, names)
    assert not all(map(torch.equal, before, model.parameters()))
    if verdict == "prioritize":
        assert int(names["stream"].state.step) == 9, "60 % of 15"


def test_the_code_for_ragged_rows_runs_too():
    batches = [ragged([3, 5, 4, 30] * 4, 32) for _ in range(40)]
    loss = lambda model, batch: nn.functional.cross_entropy(model(batch), batch["labels"], reduction="none")  # noqa: E731
    model = Bag()
    told = ps.advise(model, loss, batches, seconds=0.5).facts
    names = {"ps": ps, "model": model, "loss": loss, "loader": batches}
    for mode in told.modes:
        names["optimizer"] = torch.optim.SGD(model.parameters(), 0.1)
        exec(verdicts.code("auto", told._replace(mode=mode)), names)
        assert len(names["losses"]) == 12, "three quarters of a batch"


BEWARE = {
    "few steps are few to tell by": ("shorten", {"pilot": 49}),
    "live sifting seldom paid": ("auto", {"mode": facts().mode._replace(phi=0.15)}),
    "every candidate is loaded": ("auto", {"loading": 1.1}),
    "look like a rare class": ("prioritize", {}),
    "behind on two pictures of three": ("prioritize", {"held_out": False, "visits": 111}),
}


@pytest.mark.parametrize("words", BEWARE)
def test_known_bad_news_is_told_where_it_is_news(words):
    verdict, changed = BEWARE[words]
    page = lambda facts: str(Advice(verdict, "why", "code", even(1.2), facts, 1.0))  # noqa: E731
    words = words.removeprefix("few ")
    assert words in " ".join(page(facts(**changed)).split())
    elsewhere = facts(held_out=False) if verdict == "prioritize" else facts()
    assert words not in " ".join(page(elsewhere).split())


def test_an_advice_cannot_be_changed():
    advice = ps.advise(*job(rows=64), seconds=0.2)
    assert isinstance(advice, Advice)
    with pytest.raises(AttributeError):
        advice.verdict = "auto"


def test_the_time_is_kept(monkeypatch):
    """By a clock that moves a tenth of a second whenever it is read."""
    now = [0.0]

    def read():
        now[0] += 0.1
        return now[0]

    monkeypatch.setattr(time, "perf_counter", read)
    steps = []
    model, loss, loader = job()

    def counted(model, batch):
        steps.append(1)
        return loss(model, batch)

    for seconds in (5.0, 50.0):
        steps.clear()
        advice = ps.advise(model, counted, loader, passes=20, seconds=seconds)
        assert advice.seconds <= seconds + 5
        assert len(steps) <= 20 * seconds
    assert advice.facts.pilot > 20


def test_norms_are_those_of_the_heads_gradient():
    model, batch = net(norm=False), data(8).tensors
    losses, sizes, exact = norms(model, cross_entropy, batch)
    assert exact and model.training
    model.eval()
    for row in range(8):
        one = [leaf[row : row + 1] for leaf in batch]
        loss = cross_entropy(model, one)[0]
        gradient = torch.autograd.grad(loss, model[-1].weight)[0]
        assert float(sizes[row]) == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert float(losses[row]) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_norms_of_sequences_are_those_of_the_heads_gradient_too():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(4, 6, 3)
    loss = lambda model, x: model(x).square().mean((1, 2))  # noqa: E731
    sizes = norms(model, loss, x)[1]
    expected = [torch.autograd.grad(loss(model, x[row : row + 1])[0], model[-1].weight)[0].norm() for row in range(4)]
    torch.testing.assert_close(sizes, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_without_a_linear_head_the_chance_of_being_wrong_stands_in():
    model = nn.Conv1d(1, 1, 1)
    losses, sizes, exact = norms(model, lambda model, x: model(x).square().flatten(1).sum(1), torch.ones(3, 1, 4))
    assert not exact
    torch.testing.assert_close(sizes, 1 - torch.exp(-losses))


def test_a_row_drawn_in_proportion_to_its_gradient_is_worth_the_concentration():
    sizes = torch.tensor([1.0, 1.0, 2.0, 8.0])
    assert float(measured.worth(sizes, sizes / 20)) == pytest.approx(float(measured.concentration(sizes)))
    assert float(measured.concentration(sizes)) == pytest.approx(4 * 70 / 144)
    assert float(measured.worth(sizes, torch.full((4,), 0.3))) == pytest.approx(1.0)
    assert float(measured.worth(sizes, sizes.flip(0))) < 1, "odds against the gradient are worth less than none"


def test_an_interval_holds_its_number_and_narrows_with_rows():
    draws = ps.keys.uniform(ps.key(0), 4000).double()
    few, many = (measured.bootstrap(lambda x: x.mean(-1), draws[:rows]) for rows in (40, 4000))
    assert few.low < few.mean < few.high and many.low < 0.5 < many.high
    assert 5 < (few.high - few.low) / (many.high - many.low) < 20, "by ten"


def ragged(lengths, width):
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": mask * 7, "attention_mask": mask, "labels": torch.zeros(len(lengths)).long()}


def test_padding_is_counted():
    batches = [ragged([2, 8], 10), ragged([2, 8], 10)]
    pad = {"input_ids": ps.Pad(0, 10), "attention_mask": ps.Pad(0, 10)}
    found = measured.padding(batches, pad, lambda batch: batch["attention_mask"].sum(1))
    assert found == pytest.approx((1 - 20 / 40, 1 - 20 / 32, 0.0)), "batches of like length have none left"


class Bag(nn.Module):
    """Words to classes."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(8, 6), nn.Linear(6, 2)

    def forward(self, batch):
        share = batch["attention_mask"].float()
        return self.head((self.words(batch["input_ids"]) * share[..., None]).sum(1))


def test_an_attention_mask_tells_what_is_ragged():
    batches = [ragged([3, 5, 4, 30], 32) for _ in range(12)]
    loss = lambda model, batch: nn.functional.cross_entropy(model(batch), batch["labels"], reduction="none")  # noqa: E731
    advice = ps.advise(Bag(), loss, batches, seconds=1)
    names = {"ps": ps}
    exec(advice.facts.ragged, names)
    assert names["pad"] == {"input_ids": ps.Pad(0, 32), "attention_mask": ps.Pad(0, 32)}
    assert names["length"](batches[0]).tolist() == [3, 5, 4, 30]
    assert [mode.name for mode in advice.facts.modes] == [
        *("as trained", "bfloat16", "as trained, 16 tokens", "bfloat16, 16 tokens")
    ]
    assert "ps.truncated(ps.batched(model, loss), 16, pad=pad)" in [mode.code for mode in advice.facts.modes]
    assert advice.facts.padding.now > advice.facts.padding.bucketed
    assert "padding" in str(advice)


def test_the_copy_is_trained_at_the_peak_of_a_schedule_and_shares_nothing():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    throwaway = Throwaway(model, optimizer, cross_entropy)
    assert throwaway.rates == [0.5] and optimizer.param_groups[0]["lr"] == 0.0
    theirs = {t.data_ptr() for t in (*throwaway.model.parameters(), *throwaway.model.buffers())}
    assert not theirs & {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert {id(p) for g in throwaway.optimizer.param_groups for p in g["params"]} == set(
        map(id, throwaway.model.parameters())
    )


def test_a_tenth_of_a_pass_is_held_out():
    throwaway = Throwaway(net(), None, cross_entropy)
    pools = list(zip(*(leaf.split(4) for leaf in data(160).tensors), strict=True))
    train, held, steps, _, middle = pilot(throwaway, pools, len(pools), True, Watch(60.0, CPU), 0.5)
    assert (len(train), len(held), steps, len(middle)) == (36, 4, 36, 4 * 20)
    assert all(any(torch.equal(h[0], pools[at][0]) for h in held) for at in (9, 19, 29, 39))


def diverging(model, batch):
    return cross_entropy(model, batch) * torch.where(model[0].weight.abs().max() > 100, torch.nan, 1.0)


FROZEN = net().requires_grad_(False)
REFUSED = {
    "no model": (lambda: (nn.Linear, cross_entropy, [data().tensors]), "model must be a torch.nn.Module, got type"),
    "no loss": (lambda: (net(), None, [data().tensors]), r"loss must be a function loss\(model, batch\), got NoneType"),
    "eval": (lambda: (net().eval(), cross_entropy, [data().tensors]), "in eval mode.*call model.train"),
    "reduced": (lambda: (net(), lambda *a: cross_entropy(*a).mean(), [data().tensors]), 'reduction="none"'),
    "empty": (lambda: (net(), cross_entropy, []), "the loader is empty"),
    "once": (lambda: (net(), cross_entropy, iter([data().tensors])), "one-shot iterator"),
    "frozen": (lambda: (FROZEN, cross_entropy, [data().tensors]), "no parameter of the model requires a gradient"),
    "another's optimizer": (
        lambda: (net(), cross_entropy, [data().tensors], torch.optim.SGD(net().parameters(), 0.1)),
        "holds none of the model's parameters; make it of model.parameters",
    ),
    "closure": (
        lambda: (m := net(), cross_entropy, [data().tensors], torch.optim.LBFGS(m.parameters())),
        "cannot take a step by itself .*; leave optimizer= out",
    ),
    "diverging": (
        lambda: (m := net(), diverging, [data().tensors] * 9, torch.optim.SGD(m.parameters(), 1e4)),
        "NaN or infinite in step [2-9] of the pilot; lower the learning rate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_advised_is_refused_in_words(case):
    made, words = REFUSED[case]
    with pytest.raises(ps.SiftError, match=words):
        ps.advise(*made(), seconds=1)


@pytest.mark.parametrize("setting", [{"passes": 0}, {"seconds": -1}, {"steps": 0}, {"seconds": float("nan")}])
def test_settings_are_checked(setting):
    with pytest.raises(ps.SiftError, match=next(iter(setting))):
        ps.advise(net(), cross_entropy, [data().tensors], **setting)
