# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What `tf.train.Checkpoint` saves of a layer's quantizers beside variables. Imported where Keras runs on TensorFlow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf


class CheckpointedRecord(tf.train.experimental.PythonState):
    """A text in a checkpoint that is compared, and never written over, when the checkpoint is restored.

    Args:
        record: gives the text.
        check: raises where another text does not fit.
    """

    def __init__(self, record: Callable[[], bytes], check: Callable[[bytes], None]) -> None:
        super().__init__()
        self._record, self._check = record, check

    def serialize(self) -> bytes:
        """The text, for the checkpoint."""
        return self._record()

    def deserialize(self, string_value: bytes) -> None:
        """Compare the text of a checkpoint.

        Raises:
            ValueError: it does not fit.
        """
        self._check(string_value)


def checkpointed(layers: Mapping[str, Any], variables: Sequence[Any]) -> Any:
    """An attribute of a model by which its checkpoints hold layers and variables, in whatever containers they stand.

    Of a Keras model TensorFlow finds what stands under an attribute, and nothing in lists and dictionaries.

    Args:
        layers: layers by their places.
        variables: all variables of the model.
    """
    numbered = {f"variable_{number}": variable for number, variable in enumerate(variables)}
    return tf.train.Checkpoint(**{place.replace("/", "_"): layer for place, layer in layers.items()}, **numbered)
