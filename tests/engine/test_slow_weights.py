"""Slow weights: an average that takes the place of the model's own for a while, and leaves no trace."""

from contextlib import nullcontext

import pytest
import torch

from serl_trl.engine.slow_weights import SlowWeights


def linear(dtype=torch.float32, out_features: int = 2) -> torch.nn.Linear:
    """Return a layer with the weights 1, 2, 3 ... and a frozen bias."""
    layer = torch.nn.Linear(2, out_features).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 2 * out_features + 1).view_as(layer.weight))
        layer.bias.fill_(7.0)
    layer.bias.requires_grad_(False)
    return layer


def step(layer: torch.nn.Linear, value: float) -> None:
    """Let an optimizer step set all weights to one value."""
    with torch.no_grad():
        layer.weight.fill_(value)


def bits(layer: torch.nn.Linear) -> list[torch.Tensor]:
    return [parameter.detach().clone().view(torch.uint8) for parameter in layer.parameters()]


@pytest.mark.parametrize(
    ("decay", "first", "second"),
    [
        # of the weights 1, 2, 3, 4 after a step to 10 and one to 20
        (0.5, [5.5, 6.0, 6.5, 7.0], [12.75, 13.0, 13.25, 13.5]),
        (0.75, [3.25, 4.0, 4.75, 5.5], [7.4375, 8.0, 8.5625, 9.125]),
        (1.0, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),  # the start
        (0.0, [10.0] * 4, [20.0] * 4),  # the weights themselves
    ],
)
def test_the_average_of_two_steps(decay, first, second):
    layer = linear()
    slow = SlowWeights(layer, decay)
    for value, expected in ((10.0, first), (20.0, second)):
        step(layer, value)
        slow.update()
        assert [tensor.flatten().tolist() for tensor in slow.tensors] == [expected]  # nothing of the frozen bias
        assert layer.weight.unique().tolist() == [value]


def test_before_a_step_they_are_the_start():
    layer = linear()
    slow = SlowWeights(layer, 0.98)
    step(layer, 10.0)  # of which they have seen nothing yet
    assert slow.tensors[0].flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_has_them_in_the_block_and_its_own_bits_after_it(dtype, fails):
    layer = linear(dtype)
    slow = SlowWeights(layer, 0.5)
    step(layer, 10.0)
    slow.update()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1 / 3, -0.0], [float("inf"), float("nan")]]))
    before, parameters = bits(layer), list(layer.parameters())
    try:
        with slow.swapped():
            assert layer.weight.flatten().tolist() == [5.5, 6.0, 6.5, 7.0] and layer.weight.dtype == dtype
            assert layer.bias.tolist() == [7.0, 7.0]
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert all(torch.equal(old, new) for old, new in zip(before, bits(layer), strict=True))
    assert all(old is new for old, new in zip(parameters, layer.parameters(), strict=True))  # the optimizer's
    assert slow.tensors[0].flatten().tolist() == [5.5, 6.0, 6.5, 7.0]


def test_the_average_moves_by_less_than_bfloat16_can_tell():
    layer = linear(torch.bfloat16)
    slow = SlowWeights(layer, 0.98)
    step(layer, 1.0078125)  # the number after 1 in bfloat16
    slow.update()
    assert slow.tensors[0].dtype == torch.float32
    assert slow.tensors[0][0, 0].item() == pytest.approx(1 + 0.02 / 128, abs=1e-7)
    for _ in range(200):
        slow.update()
    with slow.swapped():
        assert layer.weight[0, 0].item() == 1.0078125


def test_training_goes_on_after_a_block():
    layer = linear()
    optimizer = torch.optim.SGD([layer.weight], lr=0.5)
    slow = SlowWeights(layer, 0.5)
    with slow.swapped():
        layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert layer.weight.flatten().tolist() == [0.5, 1.5, 2.5, 3.5]
    assert not any(tensor.requires_grad for tensor in slow.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_come_back_from_a_file_exactly(tmp_path, dtype):
    layer = linear(dtype)
    slow = SlowWeights(layer, 0.98)
    for value in (1 / 3, 1e-30, 1e30):
        step(layer, value)
        slow.update()
    slow.save(tmp_path / "slow.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["slow.safetensors"]
    other = SlowWeights(linear(dtype), 0.98)
    other.load(str(tmp_path / "slow.safetensors"))
    assert torch.equal(other.tensors[0], slow.tensors[0])


def test_many_tensors_keep_their_order(tmp_path):
    # By name, "10" stands before "2".
    layers = [linear() for _ in range(12)]
    for number, layer in enumerate(layers):
        step(layer, float(number))
    SlowWeights(torch.nn.ModuleList(layers), 0.98).save(tmp_path / "slow.safetensors")
    other = SlowWeights(torch.nn.ModuleList([linear() for _ in layers]), 0.98)
    other.load(tmp_path / "slow.safetensors")
    assert [tensor[0, 0].item() for tensor in other.tensors] == list(range(12))


@pytest.mark.parametrize(
    "saved",
    [
        [linear(out_features=3)],  # another part of a sharded weight
        [linear(), linear()],  # one weight more
        [],
        None,  # no file: there were fewer processes
    ],
)
def test_those_that_do_not_fit_begin_anew(tmp_path, caplog, saved):
    if saved is not None:
        SlowWeights(torch.nn.ModuleList(saved), 0.98).save(tmp_path / "slow.safetensors")
    layer = linear()
    step(layer, 5.0)
    slow = SlowWeights(layer, 0.98)
    slow.load(tmp_path / "slow.safetensors")
    assert slow.tensors[0].unique().tolist() == [5.0]
    assert f"{tmp_path}/slow.safetensors is missing, or of another number of processes" in caplog.text


def sharded(rank: int, folder: str) -> None:
    """In a process of its own: a model under FSDP2, which keeps what it gathered for a forward pass."""
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=1)
    model = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    torch.nn.init.ones_(model[0].weight)
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    slow = SlowWeights(model, 0.98)
    slow.tensors[0].fill_(5.0)
    answers = []
    with torch.no_grad():
        for weights in (nullcontext(), slow.swapped(), nullcontext()):
            with weights:
                answers.append(model(torch.ones(1, 2)).item())
    assert answers == [2.0, 10.0, 2.0], answers


def test_a_sharded_model_answers_with_the_weights_that_it_has(tmp_path):
    torch.multiprocessing.spawn(sharded, (str(tmp_path),))
