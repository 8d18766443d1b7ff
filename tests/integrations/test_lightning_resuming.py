"""Lightning: checkpoints under another rule or order of the loader, and a module that does not know its weights."""

import warnings

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset

import puresift as ps
from tests.strategies import data

lightning = pytest.importorskip("lightning.pytorch")
small = pytest.importorskip("tests.integrations.test_lightning")

ROWS = TensorDataset(*data(60).tensors, torch.arange(60))
pytestmark = small.pytestmark
ORDERS = {  # loaders, and whether their order comes from torch's global generator
    "shuffle": (lambda: DataLoader(ROWS, 12, shuffle=True), True),
    "batches": (lambda: DataLoader(ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS), 12, False)), True),
    "seeded": (lambda: DataLoader(ROWS, 12, shuffle=True, generator=torch.Generator().manual_seed(0)), False),
    "shared": (lambda: DataLoader(ROWS, 12, sampler=DistributedSampler(ROWS, num_replicas=1, rank=0)), False),
    "rows": (lambda: DataLoader(ROWS, 12), False),
}


def fit(loader, folder, *, path=None, rule=None, steps=-1, seed=0):
    torch.manual_seed(seed)
    module = small.Module()
    callback = small.sifting(module, rule or ps.relative(keep=0.5))
    saver = lightning.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    run = small.trainer(callback, saver, max_epochs=3, max_steps=steps)
    run.fit(module, callback.wrap(loader), ckpt_path=path)
    return module.ids


def again(make, folder, **changes):
    """What is left after two steps, in a process whose global generator has another state."""
    return fit(make(), folder / "again", path=folder / "step=2.ckpt", seed=7, **changes)


@pytest.mark.parametrize(("make", "drawn"), ORDERS.values(), ids=ORDERS)
def test_a_resumed_run_whose_later_passes_have_another_order_says_so_once(make, drawn, tmp_path):
    whole = fit(make(), tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        left = again(make, tmp_path)
    told = [str(warning.message) for warning in said if "global generator" in str(warning.message)]
    assert len(told) == int(drawn)
    assert not drawn or "generator=torch.Generator().manual_seed(0)" in told[0]
    assert drawn or left == whole[2:], "with the cure a resumed run goes on to the bit, over the ends of passes"


def test_the_pass_under_way_goes_on_in_any_order(tmp_path):
    make = ORDERS["shuffle"][0]
    whole = fit(make(), tmp_path)
    with pytest.warns(UserWarning, match="the pass that was under way goes on, but later ones"):
        left = again(make, tmp_path)
    assert left[0] == whole[2], "the third batch is of the pass that was broken off"


def test_a_run_that_is_not_resumed_is_told_nothing(tmp_path):
    fit(ORDERS["shuffle"][0](), tmp_path, steps=1)  # any warning is an error


@pytest.mark.parametrize("rule", [ps.top(keep=0.5), ps.threshold(0.1), ps.delay(ps.relative(keep=0.5), steps=2)])
def test_a_checkpoint_of_another_kind_of_rule_is_refused(rule, tmp_path):
    make = ORDERS["rows"][0]
    fit(make(), tmp_path, steps=2)
    with pytest.raises(ps.SiftError, match=r"another kind.*same score, rule and columns as when it was saved"):
        again(make, tmp_path, rule=rule)


class Unchanged(small.Module):
    """A module whose training_step takes the batch as it was."""

    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            return self.named(**batch)
        x, y, _ = batch
        return torch.nn.functional.cross_entropy(self(x), y)

    def named(self, x, y, id):
        return torch.nn.functional.cross_entropy(self(x), y)


@pytest.mark.parametrize(
    ("kind", "weights", "cure"), [("list", True, "batch, weights = batch"), ("dict", "w", "batch.pop('w')")]
)
def test_an_unchanged_module_that_is_handed_weights_is_told_what_it_got(kind, weights, cure):
    module = Unchanged()
    with pytest.raises((TypeError, ValueError)) as caught:
        small.fit(module, small.sifting(module, ps.relative(keep=0.6), weights=weights), small.pools(kind=kind))
    (note,) = caught.value.__notes__
    assert cure in note and f"weights={weights!r}" in note and "leave weights= out" in note


def test_later_errors_and_those_without_weights_stay_as_they_are():
    class Fails(small.Module):
        def training_step(self, batch, batch_idx):
            if len(self.ids) == self.last:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    for weights, last in ((True, 1), (None, 0)):
        module = Fails(weights=weights)
        module.last = last
        with pytest.raises(RuntimeError, match="mine") as caught:
            small.fit(module, small.sifting(module, ps.relative(keep=0.6), weights=weights))
        assert not getattr(caught.value, "__notes__", [])


def test_weights_that_are_taken_out_of_a_dict_batch_and_left_out_of_the_loss_are_refused():
    class Drops(Unchanged):
        def training_step(self, batch, batch_idx):
            batch.pop("w")
            return super().training_step(batch, batch_idx)

    with pytest.raises(ps.SiftError, match="no gradient reached them, so the loss leaves them out"):
        small.fit(Drops(), small.sifting(Drops(), weights="w"), small.pools(kind="dict"))
