"""Rates by layer, weight decay, the schedule and slow copies, each against the naive rule."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pretrain import optimizer
from pretrain.config import OptimizerConfig
from pretrain.momentum import follow, rising, teacher
from pretrain.objectives.vicreg import VICReg, VICRegConfig
from pretrain.schedule import learning_rate
from tests.pretrain.objectives.learning import objective


def scales(name: str, decay: float) -> dict[str, float]:
    """Each parameter's factor on the learning rate."""
    built = objective(VICReg, VICRegConfig(expander=16), name)
    names = {id(parameter): key for key, parameter in built.named_parameters()}
    groups = optimizer.build(built, OptimizerConfig(layer_decay=decay)).param_groups
    found = {names[id(parameter)]: group["scale"] for group in groups for parameter in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    return found


@pytest.mark.parametrize(("name", "first", "last", "layers"), [
    ("stgcn++", "data_bn.weight", "blocks.9.graph.conv.weight", 11), ("transformer", "times", "norm.weight", 10),
    ("x3d-shallow", "conv1_s.weight", "conv5.conv.weight", 13)])
def test_rates_fall_from_layer_to_layer(name: str, first: str, last: str, layers: int) -> None:
    found = scales(name, 0.5)
    assert found[f"encoder.{first}"] == 0.5 ** (layers - 1) and found[f"encoder.{last}"] == 1
    assert {value for key, value in found.items() if not key.startswith("encoder.")} == {1}
    assert set(found.values()) == {0.5**i for i in range(layers)}
    assert set(scales(name, 1.0).values()) == {1}


def test_blocks_are_layers_in_their_order() -> None:
    found = scales("transformer", 0.5)
    for i in range(8):
        block = {value for key, value in found.items() if key.startswith(f"encoder.blocks.{i}.")}
        assert block == {0.5 ** (8 - i)}
    assert {found[f"encoder.{name}"] for name in ("joints", "times", "embed.weight")} == {0.5**9}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_only_weights_decay_and_each_group_gets_its_share(name: str, kind: type) -> None:
    built = objective(VICReg, VICRegConfig(expander=16))
    built.encoder.blocks[0].requires_grad_(False)
    found = optimizer.build(built, OptimizerConfig(name=name, weight_decay=0.1, layer_decay=0.5))
    assert type(found) is kind
    optimizer.set_rate(found, 0.2)
    for group in found.param_groups:
        assert group["lr"] == 0.2 * group["scale"]
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.1}
        assert all(parameter.requires_grad for parameter in group["params"])


def test_a_step_moves_layers_by_their_share_of_the_rate() -> None:
    built = objective(VICReg, VICRegConfig(expander=16))
    found = optimizer.build(built, OptimizerConfig(name="sgd", weight_decay=0.0, layer_decay=0.5))
    found.param_groups[0]["momentum"] = found.defaults["momentum"]
    optimizer.set_rate(found, 1.0)
    before = {key: value.clone() for key, value in built.named_parameters()}
    for parameter in built.parameters():
        parameter.grad = torch.ones_like(parameter)
    found.step()
    for key, share in (("encoder.blocks.9.graph.conv.weight", 1), ("encoder.blocks.7.graph.conv.weight", 0.25)):
        moved = before[key] - dict(built.named_parameters())[key]
        torch.testing.assert_close(moved, torch.full_like(moved, 1.9 * share))  # Nesterov: g + 0.9 g


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [learning_rate(epoch, 100, 10, 2.0) for epoch in range(101)]
    assert rates[:11] == pytest.approx([0.2 * i for i in range(11)])
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    for epoch in (10, 31.5, 77.25):
        assert learning_rate(epoch, 100, 10, 2.0) == pytest.approx(1 + math.cos(math.pi * (epoch - 10) / 90))


@given(st.floats(0, 20), st.integers(1, 20), st.floats(0, 25))
def test_rates_are_between_nothing_and_the_peak(epoch: float, epochs: int, warmup: float) -> None:
    assert 0 <= learning_rate(min(epoch, epochs), epochs, warmup, 3.0) <= 3.0 + 1e-9


def test_a_teacher_follows_as_the_naive_rule_says_and_copies_buffers() -> None:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    slow = teacher(student)
    assert not any(parameter.requires_grad for parameter in slow.parameters())
    naive = {key: value.clone() for key, value in slow.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        student(torch.randn(5, 3))
        follow(slow, student, 0.9)
        for key, value in student.named_parameters():
            naive[key] = 0.9 * naive[key] + 0.1 * value.detach()
    for key, value in slow.named_parameters():
        torch.testing.assert_close(value, naive[key])
    for own, other in zip(slow.buffers(), student.buffers(), strict=True):
        assert torch.equal(own, other) and own is not other


def test_rising_momentum_goes_from_its_start_to_one() -> None:
    assert rising(0.9, 0) == pytest.approx(0.9) and rising(0.9, 0.5) == pytest.approx(0.95)
    assert rising(0.9, 1) == 1 and rising(0.9, 2) == 1
