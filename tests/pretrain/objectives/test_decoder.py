"""The light decoder from its description, which tokens are drawn, and the errors of what is predicted."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pretrain.decoder import CrossDecoder, by_clip, by_person, draw_tokens, squared_errors
from skelcore.encoders.transformer import places
from tests.skelcore.clips import seeded


def decoder(width: int = 64, depth: int = 2, outputs: int = 5) -> CrossDecoder:
    torch.manual_seed(0)
    made = CrossDecoder(4, width, outputs, depth).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def plain(made: CrossDecoder, memory: Tensor, token: int, steps: int) -> Tensor:
    """One query (D,) against one person's memory (K, D), head by head."""
    step, joint = divmod(token, 4)
    x = made.joints[joint] + places(steps, made.times)[step] @ made.times
    for block in made.blocks:
        query, keys, values = block.query(block.query_norm(x)), block.key(memory), block.value(memory)
        mixed, size = [], len(x) // block.heads
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            likeness = [math.exp(float(query[part] @ key[part]) / size**0.5) for key in keys]
            mixed.append(sum(like * value[part] for like, value in zip(likeness, values, strict=True)) / sum(likeness))
        x = x + block.out(torch.cat(mixed))
        x = x + block.mlp(block.mlp_norm(x))
    return made.head(made.norm(x))


@torch.no_grad()
def test_each_prediction_equals_the_plain_one() -> None:
    made, memory = decoder(), torch.randn(2, 3, 64, generator=seeded(1), dtype=torch.float64)
    wanted = torch.tensor([[0, 7, 11], [5, 2, 2]])
    found = made(memory, wanted, steps=3)
    for person in range(2):
        for place in range(3):
            expected = plain(made, memory[person], int(wanted[person, place]), 3)
            torch.testing.assert_close(found[person, place], expected, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_queries_do_not_see_each_other() -> None:
    made, memory = decoder(), torch.randn(1, 3, 64, generator=seeded(1), dtype=torch.float64)
    every = made(memory, torch.arange(12)[None], steps=3)
    torch.testing.assert_close(made(memory, torch.tensor([[9, 4]]), steps=3), every[:, [9, 4]])


@settings(max_examples=30, deadline=None)
@given(clips=st.integers(1, 3), persons=st.integers(1, 2), steps=st.integers(2, 6), joints=st.integers(2, 7),
       hidden=st.floats(0.3, 0.95), asked=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_tokens_are_seen_or_asked_for(clips: int, persons: int, steps: int, joints: int, hidden: float, asked: float,
                                      seed: int) -> None:
    kept, wanted = draw_tokens((clips, persons, steps, joints), hidden, asked, seeded(seed))
    seen = max(1, round((1 - hidden) * steps * joints))
    assert kept.shape == (clips, persons, seen)
    assert wanted.shape == (clips, persons, max(1, round(asked * (steps * joints - seen))))
    for one, other in zip(kept.flatten(0, 1).tolist(), wanted.flatten(0, 1).tolist(), strict=True):
        assert len({*one, *other}) == len(one) + len(other) and {*one, *other} <= set(range(steps * joints))
    again = draw_tokens((clips, persons, steps, joints), hidden, asked, seeded(seed))
    assert torch.equal(again[0], kept) and torch.equal(again[1], wanted)


def test_every_token_is_as_likely_to_be_seen_or_asked_for() -> None:
    kept, wanted = draw_tokens((2000, 2, 5, 4), 0.9, 1 / 6, seeded(0))
    for drawn, share in ((kept, 0.1), (wanted, 0.15)):
        assert drawn.shape[2] == 20 * share
        found = drawn.flatten().bincount(minlength=20) / 4000
        assert (found - share).abs().max() < 4.5 * (share * (1 - share) / 4000) ** 0.5
    together = (kept[..., 0] * 20 + wanted[..., 0]).unique()
    assert len(together) > 150, "what is asked for must not follow from what is seen"


@pytest.mark.parametrize("persons", [1, 2])
def test_persons_go_and_come_back(persons: int) -> None:
    x = torch.randn(3, persons, 4, 2, generator=seeded(0), requires_grad=True)
    valid = torch.tensor([[True, True], [True, False], [False, True]])[:, :persons]
    if persons == 1:
        valid[:] = True
    there = by_person(x, valid)
    assert len(there) == valid.sum()
    back = by_clip(there * 2, valid)
    assert torch.equal(back, x * 2 * valid[..., None, None])
    back.sum().backward()
    assert torch.equal(x.grad, 2.0 * valid[..., None, None].expand_as(x))


@settings(max_examples=20, deadline=None)
@given(clips=st.integers(1, 3), tokens=st.integers(1, 4), seed=st.integers(0, 99))
def test_errors_equal_a_naive_loop(clips: int, tokens: int, seed: int) -> None:
    generator = seeded(seed)
    predicted, target = torch.randn(2, clips, tokens, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(clips, tokens, 1, generator=generator, dtype=torch.float64).round(decimals=1)
    errors, total = squared_errors(predicted, target, weights)
    for n in range(clips):
        pairs = [(float(weights[n, i, 0]), float(predicted[n, i, d] - target[n, i, d]))
                 for i in range(tokens) for d in range(3)]
        mass = sum(w for w, _ in pairs)
        assert float(total[n]) == pytest.approx(mass)
        assert float(errors[n]) == pytest.approx(sum(w * e * e for w, e in pairs) / max(mass, 1e-6))


def test_the_cost_is_that_of_the_queries() -> None:
    made = CrossDecoder(17, 64, 8, 1)
    _, wanted = draw_tokens((2, 1, 16, 17), 0.9, 0.2, seeded(0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        made(torch.randn(2, 27, 64), wanted[:, 0], 16)
    queries, keys, d = 2 * 49, 2 * 27, 64
    attention = 2 * queries * 27 * d
    assert counter.get_total_flops() / 2 == (10 * d * d * queries + 2 * d * d * keys + attention + 8 * d * queries
                                             + 16 * 64 * d)


def test_positions_are_trained() -> None:
    made = decoder()
    F.mse_loss(made(torch.zeros(1, 2, 64, dtype=torch.float64), torch.tensor([[0, 6]]), 3),
               torch.ones(1, 2, 5, dtype=torch.float64)).backward()
    assert [row.any().item() for row in made.joints.grad] == [True, False, True, False]
