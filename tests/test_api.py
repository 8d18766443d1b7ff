"""Public names are frozen, and parameters bear the agreed names in the agreed order."""

import inspect

import pytest

import puresift as ps

PUBLIC = [
    "AuditLog",
    "Buffer",
    "Info",
    "Kept",
    "Meter",
    "Odds",
    "Pad",
    "Recorder",
    "Rule",
    "Score",
    "Sifted",
    "Sifter",
    "SiftState",
    "SiftingDataLoader",
    "autocast",
    "batched",
    "bernoulli",
    "check",
    "chunked",
    "compare",
    "compiled",
    "decisions",
    "delay",
    "empty",
    "epochs",
    "fastest",
    "fitting",
    "full",
    "governor",
    "integrations",
    "key",
    "keys",
    "live",
    "load_state_dict",
    "peek",
    "per_sample",
    "progress",
    "read_log",
    "refill",
    "relative",
    "replay",
    "sift",
    "sifter",
    "state_dict",
    "summarize",
    "systematic",
    "take",
    "top",
    "uniform",
    "anneal",
    "band",
    "by_error",
    "by_group",
    "auto",
    "cover",
    "drop_top",
    "floor",
    "hold",
    "importance",
    "interrupt",
    "mix",
    "prune",
    "ramp",
    "ranked",
    "threshold",
    "truncated",
    "unbiased",
    "change",
    "difference",
    "el2n",
    "entropy",
    "grad_norm",
    "head_grad_norm",
    "infobatch",
    "margin",
    "rank_mix",
    "reducible",
    "remembered",
    "rs2",
    "skipping",
    "tokens",
    "total",
    "with_ids",
]
FIELDS = {
    "Rule": "init select wants",
    "Odds": "probs weights",
    "Kept": "rows weights mask",
    "Buffer": "rows weights fill",
    "Sifter": "init step take flush observe",
    "SiftState": "score rule buffer key step",
    "Info": "losses odds mask extra",
    "Sifted": "batch weights state info",
}
PARAMETERS = {
    ps.batched: "model loss",
    ps.per_sample: "model loss",
    ps.refill: "buffer kept",
    ps.bernoulli: "key probs",
    ps.systematic: "key probs",
    ps.peek: "loader",
    ps.progress: "state pools",
    ps.fastest: "scores params batch",
    ps.fitting: "score params batch",
    ps.check: "score params batch",
    ps.read_log: "path",
    ps.replay: "factory setting losses",
    ps.compare: "rules losses",
    ps.state_dict: "state",
    ps.load_state_dict: "template flat",
    ps.sift: "sifter state params loader",
    ps.grad_norm: "model loss",
    ps.el2n: "model outputs",
    ps.margin: "model outputs",
    ps.entropy: "model outputs",
    ps.head_grad_norm: "model outputs",
    ps.remembered: "score size",
    ps.change: "score size",
    ps.reducible: "score reference",
    ps.keys.fold_in: "key data",
    ps.keys.uniform: "key num",
}


def positional(function):
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]


def test_public_names_are_frozen():
    assert sorted(ps.__all__) == sorted(PUBLIC)
    assert all(hasattr(ps, name) for name in PUBLIC)


@pytest.mark.parametrize("name", FIELDS)
def test_types_have_exactly_these_fields_and_no_defaults(name):
    assert getattr(ps, name)._fields == tuple(FIELDS[name].split())
    assert getattr(ps, name)._field_defaults == {}


@pytest.mark.parametrize("function", PARAMETERS, ids=lambda function: function.__name__)
def test_parameters_bear_the_agreed_names(function):
    assert positional(function) == PARAMETERS[function].split()


def test_members_of_rules_and_sifters_bear_the_agreed_names():
    rule = ps.relative(keep=0.5)
    assert list(inspect.signature(rule.select).parameters) == ["state", "losses", "columns"]
    sifter = ps.sifter(lambda params, batch: batch, rule, batch_size=1)
    assert positional(sifter.step) == ["state", "params", "batch"]
    assert positional(sifter.init) == ["key", "batch"]
    assert positional(sifter.take)[0] == positional(sifter.flush)[0] == "state"
    assert positional(sifter.observe) == ["state", "batch", "losses"]


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(getattr(ps, name)) and name not in FIELDS])
def test_public_things_are_documented(name):
    text = inspect.getdoc(getattr(ps, name)) or ""
    assert text
    if inspect.isfunction(getattr(ps, name)):
        assert "Example:" in text, f"{name} has no example"
        assert "Args:" in text


CITING = "el2n margin entropy head_grad_norm grad_norm remembered change reducible difference rank_mix tokens"


@pytest.mark.parametrize("name", [*CITING.split(), "infobatch", "rs2", "skipping"])
def test_scores_and_samplers_cite_their_source(name):
    assert "References:" in inspect.getdoc(getattr(ps, name))


@pytest.mark.parametrize(
    "name",
    [
        "relative",
        "top",
        "threshold",
        "band",
        "prune",
        "importance",
        "ranked",
        "unbiased",
        "drop_top",
        "by_group",
        "interrupt",
        "ramp",
    ],
)
def test_rules_cite_their_source(name):
    assert "References:" in inspect.getdoc(getattr(ps, name))
