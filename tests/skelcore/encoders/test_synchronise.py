"""Synchronised batch norms on two real processes against the plain ones on the whole batch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from skelcore.encoders import ENCODERS, build
from skelcore.encoders.layers import DataNorm
from skelcore.encoders.norm import Norm
from skelcore.encoders.synchronise import synchronise
from skelcore.errors import InputError
from tests.processes import together

# A norm, the shape of its whole input, the axis along which processes share it, and where the second's part begins.
CASES = {
    "1d": (lambda: nn.BatchNorm1d(3), (5, 3), 0, 3),
    "1d of frames, one process without rows": (lambda: nn.BatchNorm1d(3), (5, 3, 4), 0, 5),
    "1d without weights": (lambda: nn.BatchNorm1d(3, affine=False), (5, 3), 0, 4),
    "1d without running statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (5, 3), 0, 2),
    "2d, cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (5, 3, 2, 4), 0, 2),
    "3d": (lambda: nn.BatchNorm3d(3), (4, 3, 2, 3, 2), 0, 1),
    "wide": (lambda: Norm(3), (1, 3, 5, 4), 2, 3),
    "coordinates": (lambda: DataNorm(2, 3), (5, 4, 2, 3), 0, 3),
    "coordinates, one process without second persons": (lambda: DataNorm(2, 3, slots=2), (5, 4, 2, 3), 0, 2),
    "coordinates, nobody with second persons": (lambda: DataNorm(2, 3, slots=3), (5, 4, 2, 3), 0, 1),
    "coordinates, cumulative": (lambda: DataNorm(2, 3, slots=2), (5, 4, 2, 3), 0, 3),
}
SLOT = torch.tensor([0, 0, 1, 2, 0])  # of the persons in cases of coordinates; the third slot of the first process


def numbers(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def prepare(name):
    norm = CASES[name][0]().double()
    if "cumulative" in name:
        norm.momentum = None
    if norm.affine:
        norm.weight.data, norm.bias.data = numbers(1, len(norm.weight)), numbers(2, len(norm.bias))
    return norm


def train(norm, name, part):
    """Outputs and gradients of two training steps and of evaluation on a part of the batch; then the buffers."""
    _, shape, axis, _ = CASES[name]
    parameters = list(norm.parameters())
    found = {}
    for step, training in enumerate((True, True, False)):
        norm.train(training)
        whole = 3 * numbers(10 + step, *shape) + 100  # far from zero, where a careless variance loses its digits
        x = torch.tensor_split(whole, [CASES[name][3]], axis)[part] if part is not None else whole
        x = x.clone().requires_grad_()
        slot = SLOT if part is None else torch.tensor_split(SLOT, [CASES[name][3]])[part]
        offset = numbers(20, 3).requires_grad_()
        if isinstance(norm, Norm):
            y, inputs = norm(x[:, :1], x[:, 1:], offset=offset), [x, offset]
        else:
            y, inputs = norm(x, slot.clamp(max=1)) if isinstance(norm, DataNorm) else norm(x), [x]
        weight = numbers(30, *shape)
        weight = torch.tensor_split(weight, [CASES[name][3]], axis)[part] if part is not None else weight
        gradients = torch.autograd.grad((y * weight + y ** 3).sum(), [*inputs, *parameters])
        found |= {f"{step} output": y.detach(), f"{step} input's gradient": gradients[0]}
        found |= {f"{step} gradient {i}": g for i, g in enumerate(gradients[1:])}
    return found | {f"buffer {key}": value.clone() for key, value in norm.named_buffers()}


def work(rank, world):
    found = {}
    for name in CASES:
        norm = prepare(name)
        keys = list(norm.state_dict())
        synchronise(norm)
        synchronise(norm)
        assert list(norm.state_dict()) == keys
        copied = copy.deepcopy(norm)  # as a teacher's is
        found |= {f"{name}: {key}": value for key, value in train(norm, name, rank).items()}
        again = train(copied, name, rank)
        assert all(torch.equal(found[f"{name}: {key}"], value) for key, value in again.items())
    single = DataNorm(2, 3, slots=2).double()
    synchronise(single)
    with pytest.raises(InputError, match="place 2"):  # in all processes, though only one has that person
        single(numbers(0, 2, 1, 2, 3), torch.tensor([0, 1 - rank]))
    mixed = nn.BatchNorm2d(3)
    synchronise(mixed)
    y = mixed((numbers(5, 4, 3, 6, 6)[2 * rank:2 * rank + 2] + 30).bfloat16())
    assert y.dtype == torch.bfloat16 and mixed.running_mean.dtype == torch.float32
    compiled = torch.compile(mixed, backend="eager")
    x = numbers(6, 4, 3, 6, 6)[2 * rank:2 * rank + 2].float()
    return found | {"mean of low precision": mixed.running_mean.clone(), "compiled": compiled(x).detach()}


@pytest.fixture(scope="module")
def processes():
    return together(work)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(processes, name):
    parts = [{key: found[f"{name}: {key}"] for key in train(prepare(name), name, 0)} for found in processes]
    for key, value in train(prepare(name), name, None).items():
        first, second = (part[key] for part in parts)
        if "without running" in name and key.startswith("2"):
            continue  # evaluation then takes the statistics of a process's own rows, as torch's does
        if key.endswith(("output", "input's gradient")):
            together = torch.cat([first, second], CASES[name][2])
        elif key.startswith("buffer"):
            assert torch.equal(first, second), key
            together = first
        else:
            together = first + second
        torch.testing.assert_close(together, value, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_low_precision_has_statistics_in_full(processes):
    x = (numbers(5, 4, 3, 6, 6) + 30).bfloat16().double()
    for found in processes:
        torch.testing.assert_close(found["mean of low precision"].double(), 0.1 * x.mean((0, 2, 3)), rtol=1e-5, atol=0)


def test_it_can_be_compiled_around(processes):
    x = numbers(6, 4, 3, 6, 6).float()
    expected = nn.functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(torch.cat([found["compiled"] for found in processes]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_batch_norm_of_every_encoder_is_known(name):
    encoder = build(name, "coco17", width=24 if name == "msg3d" else 16)
    synchronise(encoder)
    norms = [part for part in encoder.modules() if isinstance(part, _BatchNorm)]
    assert all(type(norm).__name__.startswith("Synchronised") for norm in norms)
    assert norms or name == "transformer"


def test_another_batch_norm_is_refused():
    with pytest.raises(TypeError, match="SyncBatchNorm"):
        synchronise(nn.Sequential(nn.SyncBatchNorm(3)))
