"""Sifting in a loop of accelerate's: the place is checkpointed, gradients accumulate, ranks agree."""

import pytest
import torch
from torch.utils.data import DataLoader

import puresift as ps
from tests import laws
from tests.doors import BATCH, POOL, Rows, loss, pools, rule, start
from tests.ranks import launch

accelerate = pytest.importorskip("accelerate")
door = pytest.importorskip("puresift.integrations.accelerate")


@pytest.fixture(autouse=True)
def alone():
    """Accelerate keeps its state in class attributes, where Trainers leave theirs too."""

    def reset():
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate.state.GradientState._reset_state()

    reset()
    yield
    reset()


def setting(source=None, **config):
    accelerator = accelerate.Accelerator(cpu=True, **config)
    model, optimizer, prepared = accelerator.prepare(*start(), pools() if source is None else source)
    sifted = door.sifting(
        accelerator, prepared, ps.batched(model, loss), rule(), params=ps.live(model), batch_size=BATCH, weights=True
    )
    return accelerator, model, optimizer, sifted


def passes(accelerator, model, optimizer, sifted, n=2):
    while sifted.epoch < n:
        for batch, weights in sifted:
            with accelerator.accumulate(model):
                accelerator.backward((weights * loss(model, batch)).mean())
                optimizer.step()
                optimizer.zero_grad()
            yield batch, accelerator.sync_gradients


def test_save_state_and_load_state_go_on_in_the_middle_of_a_shuffled_pass(tmp_path):
    torch.manual_seed(3)
    one = setting(DataLoader(Rows(), POOL, shuffle=True))
    whole = []
    for place, (batch, _) in enumerate(passes(*one)):
        one[0].save_state(str(tmp_path / str(place)))
        whole.append(batch["id"].tolist())
    weights = [parameter.clone() for parameter in one[1].parameters()]
    assert len(whole) > 8
    for place in range(len(whole)):
        torch.manual_seed(4)
        other = setting(DataLoader(Rows(), POOL, shuffle=True))
        other[0].load_state(str(tmp_path / str(place)))
        assert [batch["id"].tolist() for batch, _ in passes(*other)] == whole[place + 1 :]
        assert laws.equal(list(other[1].parameters()), weights)


def test_gradients_accumulate_over_exactly_that_many_batches():
    """The end of the pools is not the end of the batches, so no step is cut short, and none is taken early."""
    one = setting(gradient_accumulation_steps=3)
    steps = [synced for _, synced in passes(*one)]
    assert steps == [place % 3 == 2 for place in range(len(steps))]


def test_metrics_over_a_batch_are_not_cut_to_the_last_pools_size():
    one = setting(DataLoader(Rows(90), POOL))
    sizes = [len(one[0].gather_for_metrics(batch["id"])) for batch, _ in passes(*one)]
    assert set(sizes) == {BATCH}


def test_scores_under_mixed_precision_follow_the_parameters():
    """Accelerate puts a wrapped forward into the model itself, and a twin must not end up calling the original."""
    _, model, _, _ = setting(mixed_precision="bf16")
    score, batch = ps.batched(model, loss), ps.peek(pools())
    params = ps.live(model)()
    zeros = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    assert torch.allclose(score(zeros, batch), torch.tensor(3.0).log(), atol=1e-3)
    assert not torch.allclose(score(params, batch), torch.tensor(3.0).log(), atol=1e-3)
    assert not model.seen, "scored in eval mode"


def test_an_info_of_one_process_is_its_own():
    accelerator, _, _, sifted = setting()
    next(iter(sifted))
    assert laws.equal(door.gathered(accelerator, sifted.info), sifted.info)


def test_a_loader_that_was_not_prepared_is_refused():
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(ValueError, match="prepare the loader first"):
        door.sifting(accelerator, pools(), None, ps.uniform(keep=1), params={})


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata, on torch 2.13
def test_a_stateful_loader_is_refused():
    pytest.importorskip("torchdata.stateful_dataloader")
    config = accelerate.DataLoaderConfiguration(use_stateful_dataloader=True)
    with pytest.raises(ValueError, match="leave use_stateful_dataloader out"):
        setting(dataloader_config=config)


def test_two_ranks_keep_in_step_and_each_gets_its_own_state_back():
    one, other = launch("accelerated")["accelerated"]
    assert one["steps"] == other["steps"] > 6
    assert one["weights"] == other["weights"]
    assert one["rows"] == other["rows"] == sum(one["own"]) == sum(other["own"])
    assert one["key"] != other["key"]
    assert one["resumed"] and other["resumed"]
    assert one["refused"] == other["refused"]
    assert "one rank reads this loader for all" in one["refused"]
