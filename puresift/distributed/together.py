"""One decision over the pools of all ranks: losses go to every rank, and kept rows to the ranks that lack some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from puresift import signals, trees
from puresift.buffers import example, refill
from puresift.distributed.company import Company
from puresift.distributed.dealing import Deal, deal
from puresift.distributed.describing import described
from puresift.distributed.gathering import exchanged, gathered
from puresift.distributed.packing import packed, unpacked
from puresift.distributed.pacts import Pact
from puresift.distributed.ranks import place
from puresift.errors import SiftError
from puresift.steps import Looked, Parts, decided, looked, measured, wanted
from puresift.types import Batch, Info, Kept, Odds, Params, SiftState
from puresift.uniforms import Uniforms

_END = object()


class Together:
    """The steps of a sifter with ranks="global", on this rank.

    The rule sees the losses of all ranks as one pool, in the order of ranks, and its state, the odds and the draw are
    the same everywhere. So decisions depend on the global pools, and not on how many ranks they lie on.

    Args:
        parts: of the sifter.
        pact: of the ranks.
        company: of the ranks, where they score one sharded model.

    Attributes: `moved`, the rows sent to other ranks so far, and `bytes`, what was sent in all.
    """

    def __init__(self, parts: Parts, pact: Pact, company: Company | None = None):
        self._parts, self.pact, self._company = parts, pact, company
        self._rank, self._ranks = place()
        self._opened = torch.zeros(self._ranks, dtype=torch.int64)
        self.moved = self.bytes = 0
        self._uniforms = Uniforms()

    def begin(self, state: SiftState, length: int | None) -> tuple[int, int]:
        """Meet for the first time.

        Args:
            state: this rank's.
            length: of its loader, where it has one.

        Returns:
            How many batches wait in the state, and how many pools a pass has on the rank that has the most of them.

        Raises:
            SiftError: the ranks are not built alike, or their states do not belong together.
        """
        if trees.serial(example(state.buffer)):
            raise SiftError(
                'ranks="global" moves rows from rank to rank, and Python objects stay where they are; make the leaf a '
                "tensor, or leave it out and look it up by an id"
            )
        entries = described(self._parts, state)
        self.pact.alike(
            {
                **entries,
                "largest pool": f"{self._parts.windows.pool(state.buffer)} rows",
                "key": f"{state.key.tolist()}",  # all ranks draw as one
                "number of pools read": str(int(state.step)),
            }
        )
        met = self.pact.agree(int(state.buffer.fill[0]), length or 0)
        size = self._parts.windows.batch_size
        held = torch.tensor([one for one, *_ in met])
        ready = int(held.sum()) // (size * self._ranks)
        self._opened = held - ready * size
        if bool((self._opened < 0).any()) or bool((self._opened > size).any()):
            self.pact.close()
            raise SiftError(
                f"the ranks hold {held.tolist()} rows, which no stream of theirs has left so; load on every rank the "
                "state that it saved, all of one moment"
            )
        return ready, max(longest for _, longest, *_ in met)

    def pools(self, own: Iterator[Batch]) -> Iterator[Batch | None]:
        """This rank's pools, and then None for as long as other ranks have some."""
        yield from own
        while self.pact.open:
            yield None

    def step(
        self, state: SiftState, params: Params | Callable[[], Params] | None, batch: Batch | None
    ) -> tuple[SiftState, Info | None]:
        """As a sifter's step, with a pool of all ranks; where no rank has one, the same state and no info.

        Raises:
            SiftError: a loss is not finite, on any rank.
        """
        parts = self._parts
        own = None if batch is None else looked(parts, state, params, batch)
        if self._company is not None:
            self._company.wait(True)
        met = self.pact.agree(*((0, 0, 0) if own is None else (len(own.losses), 1, int(own.scored))))
        if not any(there for _, there, _ in met):
            self.pact.close()
            return state, None
        pool = self._nothing(state) if own is None else own
        given, known = measured(pool)
        pool = pool._replace(losses=given)
        sizes = [rows for rows, *_ in met]
        losses, finite, columns = self._joined(pool, sizes, any(scored for *_, scored in met))
        self._refuse(losses, finite, sizes, int(state.step))
        numbers = self._uniforms.at(parts, state, int(state.step), sum(sizes))
        ruled, odds, mask = decided(parts, state, losses, finite, columns, False, numbers)

        first = sum(sizes[: self._rank])
        mine = slice(first, first + sizes[self._rank])
        here = Info(pool.losses, Odds(*(values[mine] for values in odds)), mask[mine], dict(pool.columns))
        sources = torch.arange(self._ranks).repeat_interleave(torch.tensor(sizes))[mask.cpu()]
        dealt = deal(sources, self._opened, parts.windows.batch_size)
        rows, weights = self._moved((pool.rows, here.odds.weights), here.mask, sources, dealt)
        self._opened = dealt.opened
        buffer = state.buffer
        if len(weights):
            buffer = refill(buffer, Kept(rows, weights, torch.ones_like(weights, dtype=torch.bool)))
        after = SiftState(pool.score, ruled, buffer, state.key, state.step + 1)
        bad = torch.zeros_like(state.step) if known is None else (~known).sum()
        signal = self._signal(after, dealt.batches, pool.cut)
        return after, here._replace(extra={**here.extra, "nonfinite": bad[None], signals.NAME: signal})

    def _nothing(self, state: SiftState) -> Looked:
        """A pool of no rows, with the columns that pools have."""
        row = trees.index(example(state.buffer), slice(0, 1))
        columns = {name: of(row)[:0] for name, of in self._parts.columns.items()}
        none = state.buffer.weights[:0]
        return Looked(trees.index(row, slice(0, 0)), state.score, none, False, columns, None, None)

    def _joined(self, pool: Looked, sizes: list[int], scored: bool) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The losses, which of them are finite, and the columns of all ranks."""
        like = {"losses": pool.losses, **{f"columns/{name}": values for name, values in pool.columns.items()}}
        own = packed(like)
        padded = torch.nn.functional.pad(own, (0, 0, 0, max(sizes) - len(own)))
        every = gathered(padded)
        self.bytes += padded.numel() * (self._ranks - 1)
        rows = torch.cat([one[:size] for one, size in zip(every, sizes, strict=True)])
        joined = unpacked(rows, like)
        losses = joined.pop("losses")
        return (
            losses,
            losses.isfinite() if scored else None,
            {name.removeprefix("columns/"): values for name, values in joined.items()},
        )

    def _refuse(self, losses: Tensor, finite: Tensor | None, sizes: list[int], pool: int) -> None:
        if finite is None or self._parts.nonfinite != "raise":
            return
        bad = [int((~part).sum()) for part in finite.split(sizes)]
        if any(bad):
            self.pact.close()  # all ranks know
            which = ", ".join(f"{count} on rank {rank}" for rank, count in enumerate(bad) if count)
            raise SiftError(
                f"{sum(bad)} of {len(losses)} losses in pool {pool} are NaN or infinite ({which}); look for a "
                'diverging run, or choose ps.sifter(..., nonfinite="drop") or "keep"'
            )

    def _moved(self, own: Any, mask: Tensor, sources: Tensor, dealt: Deal) -> Any:
        """The rows that this rank is to hold, in order: its own that stay, and those that come from others."""
        me, ranks = self._rank, self._ranks
        places = mask.nonzero()[:, 0]  # of the own kept rows in their pool
        goes = dealt.to[sources == me]
        stays = trees.index(own, places[(goes == me).to(places.device)])
        if torch.equal(dealt.to, sources):
            return stays
        order = goes.argsort(stable=True)
        order = order[goes[order] != me]
        sent = torch.bincount(goes[order], minlength=ranks)
        come = torch.bincount(sources[(dealt.to == me) & (sources != me)], minlength=ranks)
        raw = packed(trees.index(own, places[order.to(places.device)]))
        self.moved, self.bytes = self.moved + len(raw), self.bytes + raw.numel()
        rows = unpacked(exchanged(raw, sent.tolist(), come.tolist()), own)
        below = int(come[:me].sum())  # rows are in the order of the ranks that kept them
        return trees.map_leaves(lambda staying, came: torch.cat([came[:below], staying, came[below:]]), stays, rows)

    def _signal(self, state: SiftState, batches: int, cut: Tensor | None) -> Tensor:
        """The pool's signal, of batches that are full on every rank."""
        size = self._parts.windows.batch_size
        fill = torch.tensor([batches * size, size])
        widths = self._parts.windows.widths(state.buffer, state.key) if batches else state.buffer.fill[:0]
        choices = torch.arange(2).unbind()
        none, wants = choices[0], wanted(self._parts, state, choices)
        return signals.pack(fill, none, wants, widths.cpu(), none if cut is None else cut.cpu())
