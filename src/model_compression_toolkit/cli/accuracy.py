# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How often a network names the right class, where its outputs are scores of classes."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["accuracy_of"]

Array = npt.NDArray[Any]


def accuracy_of(wing: Any, network: Any, inputs: Array, labels: Array | None) -> tuple[float | None, str]:
    """Share of right classes in percent.

    Args:
        wing: the module of the command line for the framework.
        network: a model of it.
        inputs: shape (N, …).
        labels: classes, shape (N,); None where there are none.

    Returns:
        The share, and an empty text; None without labels; None and the reason where outputs are no scores of classes.
    """
    if labels is None:
        return None, ""
    scores = wing.first_output(network, inputs)
    if scores is None or scores.ndim != 2 or scores.shape[1] < 2 or len(scores) != len(labels):
        shape = "no tensor with samples" if scores is None else f"shape {scores.shape}"
        return None, f"`y` is not used: it needs an output of class scores, shape (N, C). The network has {shape}"
    return 100.0 * float(np.mean(scores.argmax(axis=1) == labels)), ""
