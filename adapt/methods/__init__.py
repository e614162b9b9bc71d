"""Classification heads: pure functions, one file each, batched over draws.

``fit(support (D, S, F), targets (S, W))`` trains D independent heads on one-hot ``targets`` and returns
``predict(queries) -> scores (D, Q, W)``; queries are (Q, F), the same for all draws, or (D, Q, F), each draw's own. A
score depends on its own query and the support alone, but for the heads in TRANSDUCTIVE, which classify all queries of a
draw together. Features come centred on the unlabelled support pool. Hyper-parameters are constants here, chosen on
training splits only; all are relative to the scale of the support, so no head depends on the unit of the features.
"""

from collections.abc import Callable

from torch import Tensor

from adapt.methods import knn, laplacian, logistic, power, prototype, rbf, rectify, ridge

Predict = Callable[[Tensor], Tensor]
Fit = Callable[[Tensor, Tensor], Predict]

METHODS: dict[str, Fit] = {
    "prototype": prototype.fit, "knn": knn.fit, "power": power.fit, "ridge": ridge.fit, "rbf": rbf.fit,
    "logistic": logistic.fit, "laplacian": laplacian.fit, "rectify": rectify.fit,
}

TRANSDUCTIVE = frozenset({"laplacian", "rectify"})
