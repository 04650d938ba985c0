# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Running Keras models on the user's batches, and comparing copies with the user's own."""

from typing import Any

import keras

from model_compression_toolkit.core.common.reference_outputs import ReferenceOutputs, moved_inputs
from model_compression_toolkit.core.keras.data import Batch
from model_compression_toolkit.core.keras.layer_state import preserved_seeds
from model_compression_toolkit.core.keras.tracing import in_one_line


class CopyFails(ValueError):
    """A copy of a model does not run where the model does."""


def input_structure(model: keras.Model) -> Any:
    """Some leaf for each input of a model, in the structure that the model takes."""
    if isinstance(model, keras.Sequential):
        # One that was never called has `inputs` and no `input`.
        return model.inputs[0] if len(model.inputs) == 1 else list(model.inputs)
    if isinstance(model, keras.Function):
        return model.input
    return _structure_of((model.get_build_config() or {}).get("input_shape", (None,)))


def _structure_of(shapes: Any) -> Any:
    """The structure of nested shapes."""
    if isinstance(shapes, dict):
        return {name: _structure_of(item) for name, item in shapes.items()}
    if isinstance(shapes, (list, tuple)) and any(isinstance(item, (list, tuple, dict)) for item in shapes):
        return [_structure_of(item) for item in shapes]
    return 0


def run_model(model: keras.Model, batch: Batch, like: keras.Model | None = None) -> list[Any]:
    """The model's outputs in evaluation for a batch, flattened, as NumPy arrays.

    Args:
        model: the model.
        batch: its inputs.
        like: a built model that takes inputs in the same structure; the model itself unless given.

    Raises:
        ValueError: the model fails on the batch; the text gives its shapes and dtypes.
    """
    expected = len(keras.tree.flatten(input_structure(like or model)))
    shapes = ", ".join(f"{item.shape} {item.dtype}" for item in batch)
    advice = "`data` must yield the inputs of the model and nothing else (no labels)."
    if len(batch) != expected:
        raise ValueError(f"{advice} The model has {expected} inputs. Received: a batch of {shapes}")
    try:
        return _outputs(model, batch, like or model)
    except Exception as error:  # the user's layers may raise anything
        raise ValueError(f"{advice} The model failed on a batch of {shapes}: {in_one_line(error)}") from error


def run_copy(model: keras.Model, batch: Batch, like: keras.Model | None = None) -> list[Any]:
    """`run_model` for a copy of a model that takes the batch; its seeds stay as they are.

    Raises:
        CopyFails: the copy fails on it.
    """
    try:
        with preserved_seeds(model):
            return _outputs(model, batch, like or model)
    except Exception as error:  # the user's layers may raise anything
        raise CopyFails(f"a copy of the model fails on data that the model takes ({in_one_line(error)})") from error


def _outputs(model: keras.Model, batch: Batch, like: keras.Model) -> list[Any]:
    outputs = model(keras.tree.pack_sequence_as(input_structure(like), list(batch)), training=False)
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def reference_outputs(model: keras.Model, sample: Batch) -> ReferenceOutputs:
    """What a model computes on a sample. Its seeds stay as they are: a copy that has them draws the same numbers.

    Raises:
        ValueError: the model fails on the sample.
    """
    with preserved_seeds(model):
        outputs = run_model(model, sample)

    def run_again() -> list[Any]:
        with preserved_seeds(model):
            # The numbers that come next.
            run_model(model, sample)
            return run_model(model, tuple(moved_inputs(sample)))

    return ReferenceOutputs(outputs, run_again)
