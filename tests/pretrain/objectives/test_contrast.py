"""InfoNCE and mined neighbours against naive loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.objectives.contrast import contrast, logits, nearest, own


def naive(queries: torch.Tensor, keys: torch.Tensor, allowed: torch.Tensor, positives: torch.Tensor,
          temperature: float) -> list[float]:
    losses = []
    for query, may, wanted in zip(queries, allowed.tolist(), positives.tolist(), strict=True):
        powers = [math.exp(float(query @ key) / temperature) if ok else 0.0 for key, ok in zip(keys, may, strict=True)]
        logs = [math.log(power / sum(powers)) for power, ok in zip(powers, wanted, strict=True) if ok]
        losses.append(-sum(logs) / len(logs))
    return losses


@settings(max_examples=40, deadline=None)
@given(clips=st.integers(1, 5), more=st.integers(0, 6), dims=st.integers(1, 4), seed=st.integers(0, 99),
       temperature=st.sampled_from([0.07, 0.5, 2]))
def test_contrast_equals_a_naive_loop(clips: int, more: int, dims: int, seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(clips, dims, generator=generator, dtype=torch.float64)
    keys = torch.randn(clips + more, dims, generator=generator, dtype=torch.float64)
    positives = own(clips, keys) | (torch.rand(clips, len(keys), generator=generator) < 0.2)
    allowed = positives | (torch.rand(clips, len(keys), generator=generator) < 0.7)
    found = contrast(logits(queries, keys, allowed, temperature), positives)
    assert found.tolist() == pytest.approx(naive(queries, keys, allowed, positives, temperature), rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(clips=st.integers(1, 4), keys=st.integers(0, 7), count=st.integers(1, 9), seed=st.integers(0, 99))
def test_nearest_are_the_most_similar_of_those_allowed(clips: int, keys: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries, entries = torch.randn(clips, 3, generator=generator), torch.randn(keys, 3, generator=generator)
    allowed = torch.rand(clips, keys, generator=generator) < 0.6
    for query, may, found in zip(queries, allowed, nearest(queries, entries, allowed, count), strict=True):
        order = sorted(may.nonzero().flatten().tolist(), key=lambda k: -float(query @ entries[k]))
        assert sorted(found.nonzero().flatten().tolist()) == sorted(order[:count])
