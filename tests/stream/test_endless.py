"""A stream without end, read by workers, for a million rows."""

import io
import multiprocessing
import time
from pathlib import Path

import pytest
import torch

import puresift as ps
from tests.stream.sources import READ, Rows, stateful


def memory():
    """Bytes that this process and its workers hold, shared ones counted once."""
    ours = [str(process.pid) for process in multiprocessing.active_children()]
    lines = (Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in ("self", *ours))
    return sum(1024 * int(line.split()[1]) for found in lines for line in found if line.startswith("Pss:"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata, on torch 2.13
@pytest.mark.timeout(600)
def test_a_million_streamed_rows_with_workers(capsys):
    """Memory and throughput stay as they are, and a run resumed in the middle goes on without reading it again."""
    rows, parts, pool = 1_000_000, 10, 256

    def sifting():
        loader = stateful(Rows(None, wide=64), size=pool, num_workers=2)
        return ps.SiftingDataLoader(
            loader, lambda params, batch: batch[:, 0] % 7 + 1, ps.relative(keep=0.25), params={}, batch_size=64
        )

    def run(ours, first):
        batches, sums = iter(ours), []
        for part in range(first, parts):
            begun, total = time.perf_counter(), 0.0
            while int(ours.state.step) * pool < (part + 1) * rows // parts:
                total = (total * 3 + next(batches)[:, 0].sum().item()) % 1e9  # in their order
            sums.append(total)
            yield sums, rows / parts / (time.perf_counter() - begun), memory()
        batches.close()

    READ.zero_()
    ours, speeds, held, saved = sifting(), [], [], None
    for sums, speed, size in run(ours, 0):
        whole, held = sums, [*held, size]
        speeds.append(speed)
        saved = ours.state_dict() if len(sums) == parts // 2 else saved
    file = io.BytesIO()
    torch.save(saved, file)
    flat = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    READ.zero_()
    again = sifting()
    begun = time.perf_counter()
    again.load_state_dict(flat)
    rest = run(again, parts // 2)
    *_, (resumed_sums, _, _) = rest
    seconds = time.perf_counter() - begun
    with capsys.disabled():
        print(f"\nrows a second by tenth: {[round(speed) for speed in speeds]}")
        print(f"MiB by tenth: {[round(size / 2**20) for size in held]}")
        print(
            f"resumed at {int(flat['loader/pools']) * pool} rows: the rest in {seconds:.1f} s, {READ.sum()} rows read"
        )
    assert resumed_sums == whole[parts // 2 :]
    assert READ.sum() < rows // 2 + 20 * pool, "the first half is not read again"
    assert max(held[2:]) < held[1] + 16 * 2**20
    assert sum(speeds[-3:]) > sum(speeds[:3]) / 2
