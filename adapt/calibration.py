"""Calibration: what a head's scores and distances mean, learnt from the support alone.

One clip of every class that has several is left out at a time, as long as a class has clips that were not yet left out,
and the head that is fitted to the rest answers for them: with k clips a class these are k folds of a (k - 1)-shot head,
balanced, unlike leaving out single clips, which starves the very class that is asked for. Few answers cannot overrule
what is known beforehand, so each number is drawn towards a prior, which is all there is with one clip a class. The
priors were chosen on the training splits of Penn Action and JHMDB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

TEMPERATURE = 0.1  # the likeliest, before anything is seen
_SPREAD = 0.5  # standard deviation of its logarithm around that
_TEMPERATURES = torch.logspace(-2, 1, 121)
_NOVELTY, _FEW = 0.75, 1.7  # the novelty that 19 of 20 clips of known classes do not reach is about the first, and the
# second over the number of support clips more: two clips say little of how clips may differ
_WEIGHT = 5.0  # clips that this is worth
_KNOWN = 0.95  # share of the left-out clips that must count as known

Answers = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Calibration:
    """Probabilities are the softmax of scores over ``temperature``; a novelty above ``threshold`` is unknown.

    ``left_out`` clips were asked for it; 0 means that both numbers are the priors.
    """

    temperature: float
    threshold: float
    left_out: int


def folds(labels: Tensor) -> list[Tensor]:
    """Positions of the clips that are left out together, at most one a class and none of a class that has one only."""
    ranks = (labels == labels[:, None]).tril(-1).sum(1)  # how many of its class come before a clip
    several = torch.bincount(labels)[labels] > 1
    chosen = [torch.nonzero((ranks == rank) & several)[:, 0] for rank in range(int(ranks.max()) + 1)]
    return [fold for fold in chosen if len(fold)]


def calibrate(labels: Tensor, fit: Callable[[Tensor], Answers]) -> Calibration:
    """Learn from a support of ``labels`` (S,); ``fit`` trains on positions of it and returns what gives, at other
    positions (n,), scores (n, W) and novelties (n,) (Guo et al. 2017 for the temperature)."""
    scores, novelties, truths = [], [], []
    for fold in folds(labels):
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[fold] = False
        found, novelty = fit(torch.nonzero(kept)[:, 0])(fold)
        scores.append(found)
        novelties.append(novelty)
        truths.append(labels[fold])
    if not scores:
        return Calibration(TEMPERATURE, threshold(torch.zeros(0), len(labels)), 0)
    return Calibration(temperature(torch.cat(scores), torch.cat(truths)), threshold(torch.cat(novelties), len(labels)),
                       sum(map(len, truths)))


def temperature(scores: Tensor, labels: Tensor) -> float:
    """The likeliest temperature (maximum a posteriori, log-normal prior) of scores (n, W) with true ``labels`` (n,)."""
    doubts = torch.stack([cross_entropy(scores / each, labels, reduction="sum") for each in _TEMPERATURES])
    doubts += (_TEMPERATURES / TEMPERATURE).log().square() / 2 / _SPREAD**2
    return float(_TEMPERATURES[int(doubts.argmin())])


def threshold(novelties: Tensor, size: int) -> float:
    """The novelty (n,) that most known clips do not reach, drawn towards the prior of a support of ``size`` clips."""
    count, prior = len(novelties), _NOVELTY + _FEW / size
    found = float(novelties.quantile(_KNOWN)) if count else prior
    return (_WEIGHT * prior + count * found) / (_WEIGHT + count)
