"""A million rows through every rule and wrapper: memory and throughput stay what they were after the first tenth."""

import gc
import statistics
import time
from pathlib import Path

import pytest
import torch

import puresift as ps
from tests.campaign.settings import SIZE, number
from tests.laws import MEMBERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_000)]
POOL, TENTHS, LONG = 2000, 10, 4000
WAITING = 50  # pools whose infos a stream holds to compare what was kept with the plan: losses, odds and a mask
inner = ps.relative(keep=0.5, history=LONG)
# The members of the laws again, with histories that hold a large pool.
ENDLESS = {
    "uniform": ps.uniform(keep=0.3),
    "relative": inner,
    "relative-ordered": ps.relative(keep=0.4, history=5000),
    "relative-sketch": ps.relative(keep=0.4, history=5000, sketch=64),
    "relative-window": ps.relative(keep=0.4, drift="window"),
    "relative-age": ps.relative(keep=0.4, history=LONG, drift="age"),
    "relative-scale": ps.relative(keep=0.4, history=LONG, drift="scale"),
    "top": ps.top(keep=0.4),
    "ranked": ps.ranked(keep=0.3),
    "nonzero": ps.nonzero(),
    "threshold": ps.threshold(quantile=0.7, history=LONG),
    "band": ps.band(0.2, high=0.85, history=LONG),
    "prune": ps.prune(ratio=0.6, history=LONG),
    "importance": ps.importance(keep=0.4),
    "importance-mean": ps.importance(keep=0.4, floor=0.3, history=LONG),
    "delay": ps.delay(inner, steps=2, every=10),
    "interrupt": ps.interrupt(inner, pools=500, start=0.1, every=9),
    "anneal": ps.anneal(lambda keep: ps.relative(keep, history=LONG), ps.ramp(0.2, last=0.6, pools=500)),
    "mix": ps.mix(ps.importance(keep=0.3), inner, shares=(2.0, 1.0)),
    "floor": ps.floor(ps.threshold(quantile=0.5, history=LONG), 0.1),
    "drop_top": ps.drop_top(inner, 0.9, history=LONG),
    "unbiased": ps.unbiased(inner),
    "hold": ps.hold(inner, keep=0.4),
    "by_group": ps.by_group(inner, groups=4, fractions="balanced"),
    "by_error": ps.by_error(ps.importance(0.4, history=LONG)),
    "by_root": ps.by_root(ps.importance(0.4)),
    "gate": ps.gate(inner, 0.9, pools=2),
    "cover": ps.cover(ps.prune(history=LONG), size=POOL, epochs=3),
}


def tensors():
    """How many tensors there are, and the bytes of what they hold."""
    gc.collect()
    live = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in live}
    return len(live), sum(storages.values())


def resident():
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measured(rule, rows):
    """(seconds of the processor, tensors, their bytes, resident bytes) of each tenth of a stream of so many rows."""
    noise, ids = ps.keys.uniform(ps.key(7), 8 * POOL).split(POOL), torch.arange(POOL)
    columns = {"id": lambda batch: batch[1], "group": lambda batch: batch[1] % 4}
    sifter = ps.sifter(lambda params, batch: batch[0], rule, batch_size=POOL // 2, columns=columns)
    each = rows // POOL // TENTHS
    endless = ((noise[pool % 8], ids) for pool in range(each * TENTHS))
    stream, tenths = ps.sift(sifter, sifter.init(ps.key(0), (noise[0], ids)), {}, endless), []
    for tenth in range(1, TENTHS + 1):
        begun = time.process_time()
        while int(stream.state.step) < each * tenth and next(stream, None) is not None:
            pass
        tenths.append((time.process_time() - begun, *tensors(), resident()))
    assert int(stream.state.step) == each * TENTHS, "every pool was read"
    return tenths


def test_every_factory_of_a_rule_is_in_the_table():
    assert {name.split("-")[0] for name in ENDLESS} == {name.split("-")[0] for name in MEMBERS}


def test_a_million_rows_need_no_more_memory_and_no_more_time_than_the_first_tenth():
    rows = number(200_000, 1_000_000)
    print(f"\nendless: {rows:,} rows each, pools of {POOL}: rows a second of CPU in the second and the last tenths,")
    print("bytes in tensors after the first tenth and the most since, and how much the process has grown since")
    for name, rule in ENDLESS.items():
        early = late = 0.0
        for _ in range(5):  # work beside it slows a part of a stream down; a stream that slows down does so each time
            tenths = measured(rule, rows)
            seconds, count, held, whole = zip(*tenths, strict=True)
            early = max(early, rows / TENTHS / statistics.median(seconds[1:4]))
            late = max(late, rows / TENTHS / statistics.median(seconds[-3:]))
            grown, steady = max(whole) / whole[0] - 1, SIZE == "small" or late > early / 1.5  # short parts are noise
            print(f"{name:18}{early:12,.0f}{late:12,.0f}{held[0]:12,}{max(held):12,}{grown:8.1%}")
            piled = max(held) > 1.05 * held[0] + 13 * WAITING * POOL or max(count) > 1.05 * count[0] + 5 * WAITING
            assert not piled, f"{name}: tensors pile up: {held} bytes, {count} tensors"
            assert grown <= 0.05, f"{name}: the process grows: {whole}"
            if steady:
                break
        assert steady, f"{name}: it slows down: {seconds}"
