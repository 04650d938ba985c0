# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Copies of Keras models, and running them on the user's batches."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import ZOO, built, fingerprint, random, run

from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.keras.capture import (
    built_copies,
    capture,
    check_model,
    is_quantized,
    unique_name,
)
from model_compression_toolkit.core.keras.data import batches_of
from model_compression_toolkit.core.keras.reading import graph_of
from model_compression_toolkit.core.keras.running import run_model
from model_compression_toolkit.ptq.keras.quantization_facade import quantize

pytestmark = pytest.mark.keras


# Copies.


@pytest.mark.parametrize("name", ZOO)
def test_copies_have_the_weights_of_the_originals_and_none_of_their_variables(name):
    model, inputs = built(name)
    before = fingerprint(model)
    graph = graph_of(model)
    copies = built_copies(graph)
    assert copies.keys() == {call.path for call in graph.calls}
    names = [operation.name for operation in set(copies.values())]
    assert len(set(names)) == len(names)
    assert not set(names) & set(graph.input_names)
    for path, layer in graph.layers().items():
        copied = copies[path]
        assert type(copied) is type(layer)
        assert copied is not layer
        assert copied.trainable == layer.trainable
        assert not {id(weight) for weight in copied.weights} & {id(weight) for weight in layer.weights}
        for mine, theirs in zip(copied.get_weights(), layer.get_weights(), strict=True):
            assert np.array_equal(mine, theirs)
    assert fingerprint(model) == before
    assert len(inputs) > 0


def test_a_layer_that_is_called_twice_has_one_copy():
    graph = graph_of(built("nested")[0])
    copies = built_copies(graph)
    assert sum(isinstance(operation, layers.Conv2D) for operation in set(copies.values())) == 2


def test_names_that_are_taken_become_the_path():
    copies = built_copies(graph_of(built("nested")[0]))
    assert {path: operation.name for path, operation in copies.items() if path.endswith("conv")} == {
        "conv": "conv", "block/conv": "block_conv", "tail/conv": "tail_conv",
    }  # fmt: skip


def test_names_count_up_where_they_are_taken():
    taken = {"a"}
    assert [unique_name(name, taken) for name in ("a", "a", "b", "a_2")] == ["a_2", "a_3", "b", "a_2_2"]
    assert taken == {"a", "a_2", "a_3", "b", "a_2_2"}


# The captured model.


def sample_of(model, inputs):
    return tuple(keras.tree.flatten(inputs))


@pytest.mark.parametrize("name", ["residual", "nested", "dictionaries"])
def test_the_float_model_computes_what_the_users_does(name):
    model, inputs = built(name)
    captured = capture(model, CaptureMode.GRAPH, sample_of(model, inputs))
    assert captured.mode is CaptureMode.GRAPH
    assert np.array_equal(run(captured.float_model(), inputs), run(model, inputs))


def test_tensors_inside_can_be_observed_by_name():
    model, inputs = built("nested")
    captured = capture(model, CaptureMode.AUTO, sample_of(model, inputs))
    observed = captured.float_model([captured.value(name) for name in ("image", "block/relu:2", "difference")])
    image, block, difference = run_model(observed, (inputs,))
    assert np.array_equal(image, inputs)
    conv = ops.convert_to_numpy(model.get_layer("conv")(inputs))
    np.testing.assert_allclose(difference, block - conv, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"The model has no tensor 'nothing'\. It has \['block/conv'"):
        captured.value("nothing")


# Checks of the model.


def test_models_are_checked_before_anything_else():
    check_model(built("residual")[0])
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model of Keras 3\. Received: NoneType"):
        check_model(None)
    with pytest.raises(TypeError, match="Received: Dense"):
        check_model(layers.Dense(2))
    with pytest.raises(ValueError, match="`model` must be built"):
        check_model(keras.Sequential([layers.Dense(2)]))


def test_quantized_models_are_known_by_their_layers_however_deep():
    model, inputs = built("shared")
    assert not is_quantized(model)
    quantized = quantize(model, inputs)
    x = keras.Input((4,))
    assert is_quantized(quantized)
    assert is_quantized(keras.Model(x, layers.ReLU()(quantized(x))))


# Batches.


def test_batches_are_tuples_of_arrays_in_the_order_of_the_inputs():
    array, other = random(5, 4), random(5, 3, seed=1)
    for data, expected in (
        (array, (array,)),
        ([array], (array,)),
        ([[array, other]], (array, other)),
        ([(array, other)], (array, other)),
        ([{"b": other, "a": array}], (array, other)),
        (lambda: iter([array]), (array,)),
        (ops.convert_to_tensor(array), (array,)),
        ([ops.convert_to_tensor(array)], (array,)),
    ):
        (batch,) = list(batches_of(data))
        assert isinstance(batch, tuple)
        assert len(batch) == len(expected)
        for received, given in zip(batch, expected, strict=True):
            assert isinstance(received, np.ndarray)
            assert np.array_equal(received, given)


def test_one_array_is_split_and_float64_becomes_float32():
    lengths = [len(batch[0]) for batch in batches_of(np.zeros((130, 2)))]
    assert lengths == [64, 64, 2]
    assert {batch[0].dtype for batch in batches_of(np.zeros((130, 2)))} == {np.dtype(np.float32)}
    ((indices,),) = batches_of(np.zeros((3, 2), np.int64))
    assert indices.dtype == np.int64


@pytest.mark.parametrize(
    "data",
    [3, "text", {"a": np.zeros((2, 2))}, None, [["text"]], [object()]],
    ids=["number", "text", "dictionary", "none", "batch of text", "batch of an object"],
)
def test_data_of_another_type_is_refused(data):
    with pytest.raises(TypeError, match="`data` must"):
        list(batches_of(data))


@pytest.mark.parametrize(
    "data", [[], np.zeros((0, 2)), [np.zeros((0, 2))], lambda: iter([])], ids=["list", "array", "batch", "generator"]
)
def test_data_without_samples_is_refused(data):
    with pytest.raises(ValueError, match="`data` must"):
        list(batches_of(data))


# Running.


def test_outputs_are_flat_arrays_in_evaluation():
    model, inputs = built("dictionaries")
    outputs = run_model(model, (inputs["left"], inputs["right"]))
    assert [output.shape for output in outputs] == [(32, 1), (32, 2)]
    assert all(isinstance(output, np.ndarray) for output in outputs)
    dropout, data = built("dropout")
    assert np.array_equal(run_model(dropout, (data,))[0], run_model(dropout, (data,))[0])


def test_a_batch_that_the_model_does_not_take_is_described():
    model, inputs = built("residual")
    with pytest.raises(ValueError, match=r"no labels.*failed on a batch of \(2, 3\) float32: "):
        run_model(model, (random(2, 3),))
    with pytest.raises(ValueError, match=r"has 1 inputs\. Received: a batch of \(16, 8, 8, 3\) float32, \(16,\) int64"):
        run_model(model, (inputs, np.zeros(16, np.int64)))


def test_errors_of_the_users_layers_are_shown_in_one_line():
    class Failing(layers.Layer):
        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                return x
            raise RuntimeError("the first line\nthe second")

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape)

    x = keras.Input((4,))
    model = keras.Model(x, Failing()(x))
    with pytest.raises(ValueError, match="RuntimeError: the first line") as caught:
        run_model(model, (random(2, 4),))
    assert "\n" not in str(caught.value)
