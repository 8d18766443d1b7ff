"""Drawn batches in a loop of accelerate's: the place is checkpointed, groups end with an epoch, ranks agree."""

import pytest
import torch
from torch.utils.data import DataLoader

import puresift as ps
from tests import laws
from tests.doors import Rows, loss, start
from tests.ranks import launch

accelerate = pytest.importorskip("accelerate")
door = pytest.importorskip("puresift.integrations.accelerate")

ROWS, BATCH, WHOLE = 44, 8, 6


@pytest.fixture(autouse=True)
def alone():
    """Accelerate keeps its state in class attributes, where Trainers leave theirs too."""

    def reset():
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()

    reset()
    yield
    reset()


def prioritizer(**changes):
    rule = ps.importance(keep=0.4, floor=0.2)  # its weights are not 1
    return ps.prioritizer(rule, **{"size": ROWS, "batch_size": BATCH, "every": 4, "end": 0.0, **changes})


def setting(accelerator=None, prioritizer=prioritizer(), source=None, **config):  # noqa: B008
    accelerator = accelerator or accelerate.Accelerator(cpu=True, **config)
    model, optimizer = accelerator.prepare(*start())
    loader = door.drawing(accelerator, source or DataLoader(Rows(ROWS), BATCH), prioritizer, seed=3)
    return accelerator, model, optimizer, loader


def passes(accelerator, model, optimizer, loader, n=2):
    while loader.sampler.epoch < n:
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(loader.mean(loss(model, batch)))
                optimizer.step()
                optimizer.zero_grad()
            yield batch, accelerator.sync_gradients


def by_hand():
    model, optimizer = start()
    sampler, rows = ps.PrioritizedSampler(prioritizer(), seed=3), Rows(ROWS)
    for _ in range(2):
        for ids in sampler:
            losses, weights = (
                loss(model, torch.utils.data.default_collate([rows[id] for id in ids])),
                sampler.weights(ids),
            )
            sampler.observe(ids, losses)
            (weights * losses).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_after_every_step(tmp_path, workers):
    def run():
        return setting(source=DataLoader(Rows(ROWS), BATCH, num_workers=workers), gradient_accumulation_steps=1)

    one, whole = run(), []
    for place, (batch, _) in enumerate(passes(*one)):
        one[0].save_state(str(tmp_path / str(place)))
        whole.append(batch["id"].tolist())
    assert len(whole) == len(one[3]) * 2 == 2 * WHOLE
    if not workers:
        assert laws.equal(dict(one[1].state_dict()), dict(by_hand().state_dict()))
    for place in range(len(whole)):
        other = run()
        other[0].load_state(str(tmp_path / str(place)))
        assert [batch["id"].tolist() for batch, _ in passes(*other)] == whole[place + 1 :]
        assert laws.equal(dict(other[1].state_dict()), dict(one[1].state_dict()))
        assert laws.equal(other[3].state_dict(), one[3].state_dict())


def test_the_last_group_of_an_epoch_may_be_smaller():
    steps = [synced for _, synced in passes(*setting(gradient_accumulation_steps=4))]
    assert steps == [False, False, False, True, False, True] * 2


def prepared():
    accelerator = accelerate.Accelerator(cpu=True)
    door.drawing(accelerator, accelerator.prepare(DataLoader(Rows(ROWS), BATCH)), prioritizer())


def forgetting():
    for _ in setting()[3]:
        pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (prepared, "pass the plain DataLoader: prepared ones share out rows"),
        (lambda: setting(source=DataLoader(Rows(40), BATCH)), "for 44 samples, and the dataset has 40"),
        (lambda: list(setting(source=DataLoader(Rows(ROWS), 4))[3]), "batch_size=4, and the prioritizer gives .* 8"),
        (forgetting, r"no losses came back for the last batch; train on the mean\(losses\) of each"),
        (lambda: setting()[3].mean(torch.ones(8)), "losses of a training batch, once"),
    ],
)
def test_bad_input_is_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_two_ranks_share_drawn_batches_and_resume():
    one, other = launch("accelerated_drawing")["accelerated_drawing"]
    assert one["weights"] == other["weights"] and one["table"] == other["table"]
    assert one["resumed"] and other["resumed"]
    assert not any(set(ours) & set(theirs) for ours, theirs in zip(one["ids"][:2], other["ids"][:2], strict=True))
