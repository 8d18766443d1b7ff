"""Public names are frozen, and parameters bear the agreed names in the agreed order."""

import inspect

import pytest

import puresift as ps

# fmt: off
PUBLIC = [
    "AuditLog", "Buffer", "Governor", "Info", "Kept", "Meter", "Odds", "Pad", "PrioritizedSampler", "Prioritizer",
    "PrioritizerState", "Recorder", "Rule", "Score", "SiftError", "SiftState", "Sifted", "Sifter", "SiftingDataLoader",
    "Stream", "Table", "TableState", "advise", "anneal", "auto", "autocast", "balanced", "band", "batched", "bernoulli",
    "buffers", "by_error", "by_group", "by_root", "cascade", "change", "check", "chunked", "compare", "compiled",
    "cover", "data", "decisions", "delay", "difference", "downsampled", "draws", "drop_top", "el2n", "empty", "entropy",
    "epochs", "fastest", "fitting", "floor", "full", "gate", "governor", "grad_norm", "head_grad_norm", "hold",
    "importance", "infobatch", "int8", "integrations", "interrupt", "key", "keys", "live", "load_state_dict", "margin",
    "mix", "nonzero", "peek", "per_sample", "prioritize", "prioritizer", "probed", "progress", "prune", "ramp",
    "rank_mix", "ranked", "read_log", "recalled", "reducible", "refill", "relative", "remembered", "replay", "rs2",
    "rules", "scores", "sift", "sifter", "skipping", "state_dict", "summarize", "systematic", "table", "take",
    "testing", "threshold", "tokens", "top", "total", "truncated", "types", "unbiased", "uniform", "with_ids",
]
# fmt: on
NAMESPACES = {
    "rules": "anneal band by_error by_group by_root cover delay drop_top floor gate hold importance interrupt mix "
    "nonzero prune ramp ranked relative threshold tokens top unbiased uniform",
    "scores": "autocast batched change chunked compiled difference el2n entropy grad_norm head_grad_norm int8 live "
    "margin per_sample probed rank_mix recalled reducible remembered total truncated",
    "buffers": "empty example full lengths refill take",
    "data": "PrioritizedSampler balanced downsampled epochs infobatch peek rs2 skipping",
}
NOT_FLAT = {"example", "lengths"}  # too common as words for the top
FIELDS = {
    "Rule": "init select wants",
    "Odds": "probs weights",
    "Kept": "rows weights mask",
    "Buffer": "rows weights fill",
    "Sifter": "init step take flush observe",
    "SiftState": "score rule buffer key step",
    "Info": "losses odds mask extra",
    "Sifted": "batch weights state info",
    "Prioritizer": "init draw observe plan",
    "PrioritizerState": "losses rule ids odds waiting_ids waiting_losses waiting key draws step",
    "Table": "init observe read",
    "TableState": "sums counts",
}
PARAMETERS = {
    ps.advise: "model loss loader optimizer",
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
    ps.prioritize: "prioritizer state data",
    ps.prioritizer: "rule",
    ps.table: "size",
    ps.grad_norm: "model loss",
    ps.el2n: "model outputs",
    ps.margin: "model outputs",
    ps.entropy: "model outputs",
    ps.head_grad_norm: "model outputs",
    ps.remembered: "score size",
    ps.recalled: "size",
    ps.cascade: "first second",
    ps.probed: "model features",
    ps.change: "score size",
    ps.int8: "score",
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


@pytest.mark.parametrize("space", NAMESPACES)
def test_namespaces_are_frozen_and_their_names_are_flat_too(space):
    names, namespace = NAMESPACES[space].split(), getattr(ps, space)
    assert sorted(namespace.__all__) == names
    for name in names:
        assert name in NOT_FLAT or getattr(ps, name) is getattr(namespace, name)


@pytest.mark.parametrize("name", ["assert_pure", "assert_resumes", "assert_rule"])
def test_the_laws_for_users_are_frozen_and_documented(name):
    assert sorted(ps.testing.__all__) == ["assert_pure", "assert_resumes", "assert_rule", "strategies"]
    text = inspect.getdoc(getattr(ps.testing, name))
    assert all(part in text for part in ("Args:", "Raises:", "AssertionError", "Example:"))


def test_an_unknown_name_is_an_attribute_error_everywhere():
    for space in (ps, ps.testing):
        with pytest.raises(AttributeError, match=r"has no .*'no_such_thing'"):
            space.no_such_thing  # noqa: B018


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


CITING = (
    "el2n margin entropy head_grad_norm grad_norm remembered change reducible difference rank_mix tokens "
    "recalled cascade probed int8 "
    "infobatch rs2 skipping prioritizer table by_root downsampled balanced"
)


@pytest.mark.parametrize("name", CITING.split())
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
        "nonzero",
        "unbiased",
        "drop_top",
        "by_group",
        "interrupt",
        "ramp",
    ],
)
def test_rules_cite_their_source(name):
    assert "References:" in inspect.getdoc(getattr(ps, name))
