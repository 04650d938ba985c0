# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration's data: scikit-learn's bundled handwritten digits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mct_quantizers import _lazy

Array = npt.NDArray[Any]


def load_split(seed: int) -> tuple[Array, Array, Array, Array]:
    """Training images and labels, test images and labels: 70 and 30 percent, stratified.

    Images are float32 of shape (N, 1, 8, 8) in [0, 1], labels int64 of shape (N,).
    """
    datasets = _lazy.import_optional("sklearn.datasets", needed_by="mct demo")
    selection = _lazy.import_optional("sklearn.model_selection", needed_by="mct demo")
    images, labels = datasets.load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = selection.train_test_split(
        images, labels.astype(np.int64), test_size=0.3, random_state=seed, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = parts
    return train_images, train_labels, test_images, test_labels
