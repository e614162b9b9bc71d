"""Classification heads: pure functions, one file each, batched over draws.

``fit(support (D, S, F), targets (S, W))`` trains D independent heads on one-hot ``targets`` and returns
``predict(queries (Q, F)) -> scores (D, Q, W)``. A score depends on its own query and the support alone, so no head
is transductive. Features come centred on the unlabelled support pool. Hyper-parameters are constants here, chosen
on training splits only; all are relative to the scale of the support, so no head depends on the unit of the features.
"""

from collections.abc import Callable

from torch import Tensor

from adapt.methods import logistic, prototype, rbf, ridge

Predict = Callable[[Tensor], Tensor]
Fit = Callable[[Tensor, Tensor], Predict]

METHODS: dict[str, Fit] = {"prototype": prototype.fit, "ridge": ridge.fit, "rbf": rbf.fit, "logistic": logistic.fit}
