# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What `tf.train.Checkpoint` saves beside variables. Imported where Keras runs on TensorFlow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf


class CheckpointedRecord(tf.train.experimental.PythonState):
    """A text in a checkpoint.

    Args:
        record: gives the text.
        restore: takes the text of a checkpoint that is restored; raises where it does not fit.
    """

    def __init__(self, record: Callable[[], bytes], restore: Callable[[bytes], None]) -> None:
        super().__init__()
        self._record, self._restore = record, restore

    def serialize(self) -> bytes:
        """The text, for the checkpoint."""
        return self._record()

    def deserialize(self, string_value: bytes) -> None:
        """Take the text of a checkpoint.

        Raises:
            ValueError: it does not fit.
        """
        self._restore(string_value)


def checkpointed(layers: Mapping[str, Any], variables: Sequence[Any]) -> Any:
    """An attribute of a model by which its checkpoints hold layers and variables, in whatever containers they stand.

    Of a Keras model TensorFlow finds what stands under an attribute, and nothing in lists and dictionaries.

    Args:
        layers: layers by their places.
        variables: all variables of the model.
    """
    numbered = {f"variable_{number}": variable for number, variable in enumerate(variables)}
    return tf.train.Checkpoint(**{place.replace("/", "_"): layer for place, layer in layers.items()}, **numbered)
