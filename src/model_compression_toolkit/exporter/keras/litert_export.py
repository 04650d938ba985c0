# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A frozen Keras model as a LiteRT (.tflite) file of int8 kernels, with the learned grids and codes.

TensorFlow's converter makes a float file of a copy of the model in which numbers stand for what is quantized: for each
element of a weight the number of the element, for each activation a grid whose scale is the number of the activation.
In that file weights, biases and activations are then replaced by their integers, and float operations between
integers by the integer ones. Nothing is calibrated, estimated or rounded to another grid.
"""

import contextlib
import dataclasses
import io
import re
from typing import Any

import keras

from model_compression_toolkit.core.keras.graph import Call, Graph
from model_compression_toolkit.core.keras.reading import graph_of, is_functional
from model_compression_toolkit.exporter.keras.litert_numbers import Numbers, numbered_model
from model_compression_toolkit.exporter.keras.litert_rewriting import Rewriting

__all__ = ["checked_graph", "export_litert"]


def export_litert(model: keras.Model, notes: list[str] | None = None) -> bytes:
    """Export a frozen model to LiteRT. Needs the TensorFlow backend.

    Products with a weight, additions, differences, multiplications, means, ReLU and concatenations whose inputs and
    output are quantized become int8 kernels with int32 accumulators, and what only moves values (max pooling, reshapes,
    padding, …) stays on the grid of its input. What is not quantized, such as the last layer's output, and functions
    without an integer kernel of the needed accuracy (sigmoid, softmax, …) are computed in float, from the values of the
    codes. Inputs and outputs are float.

    Weights are stored as int8, per channel or per tensor, with their codes less their zero points. Codes of fewer than
    8 bits are multiplied by a power of two and the scale divided by it, because a bias is an int32 in steps of the
    accumulator, which would be coarse. Where a bias does not fit in 32 bits of such steps, its layer is computed in
    float. Activations are stored with their codes shifted to begin at -128; of those of
    fewer than 8 bits what lies above their range is cut off. The tensors in the file have the names of `weight_name`
    and of the holders' calls. All values and scales are those of the model, bit for bit; only a channel of zeros may
    get another scale.

    Args:
        model: a functional or sequential model whose quantizers are all inferable; it is not changed.
        notes: takes in what a reader of the file should know.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: another backend than TensorFlow, a model that is not functional or not frozen, a quantizer that int8
            cannot represent, or an operation that cannot be converted.
    """
    graph = checked_graph(model)
    numbers = Numbers()
    content = _float_file(numbered_model(graph, numbers))
    rewriting = Rewriting(content, numbers, graph.input_names)
    result = rewriting.result()
    if notes is not None:
        notes += [
            f"the layer of {name} is computed in float: its bias does not fit in 32 bits in steps of input scale times "
            "weight scale. A larger threshold of the weight gives it an integer kernel"
            for name in rewriting.float_layers
        ]
    return result


def checked_graph(model: Any) -> Graph:
    """The graph of a model that can be exported, inputs and outputs as lists.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: another backend than TensorFlow, or a model that is not functional, or computes in another dtype.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a `keras.Model`. Received: {model!r}")
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "Export to LiteRT needs the TensorFlow backend. Save the model as a `.keras` file, and load and export it "
            f"in a process with KERAS_BACKEND=tensorflow. Received: backend {keras.config.backend()!r}"
        )
    if not is_functional(model):
        raise ValueError(
            "`model` must be a functional or a built sequential model, whose operations are known. "
            f"Received: {type(model).__name__}"
        )
    graph = graph_of(model)
    inputs, outputs = keras.tree.flatten(graph.inputs), keras.tree.flatten(graph.outputs)
    names = graph.input_names
    if not all(name.isidentifier() for name in names):
        names = [f"input_{index}" for index in range(len(names))]
    for call in graph.calls:
        dtype = getattr(call.operation, "compute_dtype", "float32")
        if dtype in ("float16", "bfloat16", "float64"):
            raise ValueError(
                f"{call.name} must compute in float32 to be exported to LiteRT; load the model's weights into one that "
                f"is built under the dtype policy 'float32'. Received: {dtype}"
            )
        _check_unrolled(call)
    return dataclasses.replace(graph, inputs=inputs, input_names=names, outputs=outputs)


def _check_unrolled(call: Call) -> None:
    layer = getattr(call.operation, "layer", call.operation)
    # Of Bidirectional both directions are made alike.
    layer = getattr(layer, "forward_layer", layer)
    if isinstance(layer, keras.layers.RNN) and not layer.unroll:
        raise ValueError(
            f"{call.name} cannot be exported to LiteRT as a loop over steps. Make the layer with unroll=True, which "
            f"needs a sequence of a fixed length, or export to ONNX. Received: {type(layer).__name__} with unroll=False"
        )


def _float_file(model: keras.Model) -> bytes:
    import tensorflow as tf

    try:
        # The converter prints where it saves its intermediate files.
        with contextlib.redirect_stdout(io.StringIO()):
            content: bytes = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    except Exception as error:  # the converter runs layers of the user's own, which may raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # What comes before it, over many lines, is where the converter's own code was called.
        about_operation = re.search(r"'[\w.]+' op [^\n]+", str(error))
        reason = about_operation[0] if about_operation else lines[0]
        raise ValueError(f"The model cannot be converted to LiteRT. Reason: {reason}") from error
    return content
