"""Bad input, as one table over the public names: each row is refused in words that name the cure, or works."""

from collections import Counter

import pytest

import puresift as ps
from tests.campaign import bad_choices, bad_data, bad_settings, bad_states

pytestmark = pytest.mark.slow
TABLES = [
    *(bad_settings.settings, bad_settings.numpy_is_python, bad_choices.choices, bad_choices.wrapped),
    *(bad_data.batches, bad_data.losses, bad_data.columns, bad_data.keys_and_buffers, bad_states.loaders),
    *(bad_states.samplers, bad_states.states, bad_states.models),
]


def answered(act, words):
    """How a row ends: "right", "silently wrong", or "a traceback without a cure", with what came instead."""
    try:
        result = act()
    except ps.SiftError as error:
        return ("right", "") if words is not None and words in str(error) else ("a traceback without a cure", error)
    except Exception as error:
        return "a traceback without a cure", repr(error)
    return ("right", "") if words is None and bool(result) else ("silently wrong", f"gave {type(result).__name__}")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_every_bad_input_is_refused_in_words_and_none_is_taken():
    rows = [(table.__name__, *row) for table in TABLES for row in table()]
    assert len({row[:2] for row in rows}) == len(rows), "each row once"
    counts, wrong, tables = Counter({"silently wrong": 0, "a traceback without a cure": 0}), [], Counter()
    for table, name, act, words in rows:
        kind, got = answered(act, words)
        counts[kind], tables[table] = counts[kind] + 1, tables[table] + 1
        if kind != "right":
            wrong.append(f"{table}, {name}: {kind}: {str(got)[:200]!r}, and wanted {words or 'it to work'!r}")
    print(f"\ninputs: {len(rows)} rows, {dict(tables)}, {dict(counts)}")
    assert len(rows) >= 300
    assert not wrong, f"{len(wrong)} rows:\n" + "\n".join(wrong)


def test_the_table_can_fail():
    assert answered(lambda: ps.top(0.5), "keep must be")[0] == "silently wrong"
    assert answered(lambda: ps.top(2), "another word")[0] == "a traceback without a cure"
    assert answered(lambda: ps.top(2), None)[0] == "a traceback without a cure"
    assert answered(lambda: 1 / 0, "division")[0] == "a traceback without a cure"
    assert answered(lambda: 0, None)[0] == "silently wrong"
