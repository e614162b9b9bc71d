"""The learning rate as a pure function of the run's progress, so that resuming needs no scheduler state."""

import math


def learning_rate(epoch: float, epochs: float, warmup: float, peak: float) -> float:
    """Linear warm-up over ``warmup`` epochs, then a half cosine from ``peak`` to zero at ``epochs``.

    ``epoch`` counts fractions, so that a set of clips that grows between epochs bends nothing.
    """
    if epoch < warmup:
        return peak * epoch / warmup
    progress = (epoch - warmup) / max(1e-9, epochs - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
