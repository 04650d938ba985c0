# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A Keras model read as a list of calls and made again of it."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import ZOO, built, fingerprint, fresh, random, run

import model_compression_toolkit as mct
from model_compression_toolkit.core.keras.capture import built_copies
from model_compression_toolkit.core.keras.graph import Graph, rebuild
from model_compression_toolkit.core.keras.reading import graph_of, is_functional
from model_compression_toolkit.core.keras.unquantized import unquantized

pytestmark = pytest.mark.keras


def same_again(graph: Graph) -> keras.Model:
    copies = built_copies(graph)
    return rebuild(graph, lambda call, args, kwargs: copies[call.path](*args, **kwargs))


def structure(model):
    return keras.tree.map_structure(lambda tensor: (tuple(tensor.shape), tensor.dtype), (model.input, model.output))


@pytest.mark.parametrize("name", ZOO)
def test_a_model_that_is_read_and_made_again_computes_the_same_bit_for_bit(name):
    model, inputs = fresh(name)
    expected = run(model, inputs)
    again = same_again(graph_of(model))
    assert np.array_equal(run(again, inputs), expected)
    assert again.name == model.name
    assert [tensor.name for tensor in again.inputs] == [tensor.name for tensor in model.inputs]
    if name != "sequential":  # It has no input of its own before it is called.
        assert structure(again) == structure(model)
    assert len(again.weights) == len(model.weights)
    assert not {id(weight) for weight in again.weights} & {id(weight) for weight in model.weights}
    # Nesting is gone.
    assert not any(isinstance(layer, keras.Model) for layer in again.layers)


@pytest.mark.parametrize("name", ZOO)
def test_reading_leaves_the_model_as_it_is(name):
    model, inputs = built(name)
    before = fingerprint(model)
    graph_of(model)
    run(model, inputs)
    assert fingerprint(model) == before


def test_calls_have_the_paths_of_their_layers_and_numbers_from_the_second_on():
    graph = graph_of(built("nested")[0])
    assert [call.name for call in graph.calls] == [
        "conv", "block/conv", "block/norm", "block/relu", "block/conv:2", "block/norm:2", "block/relu:2", "difference",
        "tail/flatten", "tail/conv",
    ]  # fmt: skip
    assert graph.call("block/conv").operation is graph.call("block/conv:2").operation
    assert graph.call("block/conv:2").path == "block/conv"
    assert list(graph.layers()) == [
        "conv", "block/conv", "block/norm", "block/relu", "difference", "tail/flatten", "tail/conv",
    ]  # fmt: skip


def test_every_tensor_has_one_name():
    for name in ZOO:
        graph = graph_of(built(name)[0])
        names = [value_name for value_name, _ in graph.values()]
        assert len(set(names)) == len(names)
    graph = graph_of(built("functions")[0])
    names = [value_name for value_name, _ in graph.values()]
    assert names[:5] == ["x", "first", "split[0]", "split[1]", "get_item"]


def test_values_know_their_shape_dtype_and_call():
    graph = graph_of(built("words")[0])
    values = dict(graph.values())
    assert [(values[name].shape, values[name].dtype) for name in ("x", "words", "mean")] == [
        ((None, 5), "int32"),
        ((None, 5, 6), "float32"),
        ((None, 6), "float32"),
    ]
    assert values["x"].call is None
    assert values["words"].call is graph.call("words")
    assert graph.call("words").inputs == [values["x"]]
    assert graph.users(values["words"]) == [graph.call("mean")]


def test_a_call_that_does_not_exist_is_named():
    graph = graph_of(built("shared")[0])
    with pytest.raises(ValueError, match=r"no layer or operation 'third'\. It has \['first', 'act'"):
        graph.call("third")
    with pytest.raises(ValueError, match="no layer or operation 'third'"):
        graph.bypass("third")


def test_bypassing_a_call_hands_its_input_on():
    x = keras.Input((4,), name="x")
    y = layers.Dense(4, name="dense")(x)
    z = layers.ReLU(name="relu")(y)
    model = keras.Model(x, [z, layers.Add(name="add")([z, y])])
    graph = graph_of(model)
    graph.bypass("relu")
    again = same_again(graph)
    data = random(8, 4)
    dense = ops.convert_to_numpy(model.get_layer("dense")(data))
    first, second = (ops.convert_to_numpy(output) for output in again(data))
    assert np.array_equal(first, dense)
    assert np.array_equal(second, dense + dense)
    assert [call.name for call in graph.calls] == ["dense", "add"]


def test_a_bypassed_call_may_be_the_end_of_the_model():
    x = keras.Input((4,), name="x")
    model = keras.Model({"x": x}, {"y": layers.ReLU(name="relu")(x)})
    graph = graph_of(model)
    graph.bypass("relu")
    data = random(8, 4)
    assert np.array_equal(run(same_again(graph), {"x": data}), data.ravel())


def test_what_stands_for_a_value_is_used_from_then_on():
    graph = graph_of(built("shared")[0])
    values = {value: name for name, value in graph.values()}

    def doubled(value, tensor):
        return tensor * 2.0 if values[value] == "x" else tensor

    model, inputs = built("shared")
    copies = built_copies(graph)
    again = rebuild(graph, lambda call, args, kwargs: copies[call.path](*args, **kwargs), doubled)
    assert np.array_equal(run(again, inputs), run(model, 2.0 * inputs))


def test_keyword_arguments_and_tensors_among_them_are_kept():
    class Scaled(layers.Layer):
        def call(self, x, factor=None, power=1.0):
            return x**power if factor is None else factor * x**power

    x = keras.Input((4,), name="x")
    scaled = Scaled(name="scaled")
    y = scaled(x, power=2.0)
    model = keras.Model(x, scaled(y, factor=x))
    graph = graph_of(model)
    assert [call.name for call in graph.calls] == ["scaled", "scaled:2"]
    assert graph.call("scaled").kwargs["power"] == 2.0
    assert graph.call("scaled:2").inputs == [graph.call("scaled").outputs[0], graph.inputs]
    data = random(8, 4)
    assert np.array_equal(run(same_again(graph), data), run(model, data))


def test_the_training_argument_of_a_call_is_kept():
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dropout(0.5, name="drop")(x, training=True))
    call = graph_of(model).call("drop")
    assert call.kwargs == {"training": True}


def test_an_inner_model_with_several_inputs_and_outputs_is_opened():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model({"a": a, "b": b}, [layers.Dense(3, name="of_a")(a), layers.Dense(3, name="of_b")(b)], name="in")
    x, y = keras.Input((4,), name="x"), keras.Input((4,), name="y")
    left, right = inner({"a": x, "b": y})
    again_left, _ = inner({"a": y, "b": x})
    model = keras.Model([x, y], [left - right, again_left])
    graph = graph_of(model)
    assert sorted(call.name for call in graph.calls) == ["in/of_a", "in/of_a:2", "in/of_b", "in/of_b:2", "subtract"]
    inputs = [random(8, 4), random(8, 4, seed=1)]
    assert np.array_equal(run(same_again(graph), inputs), run(model, inputs))


def test_models_nested_twice_have_paths_of_all_their_names():
    def block(name, inside):
        x = keras.Input((4,))
        return keras.Model(x, inside(layers.Dense(4, name="dense")(x)), name=name)

    model = block("outer", block("middle", block("innermost", layers.ReLU(name="relu"))))
    graph = graph_of(model)
    assert [call.name for call in graph.calls] == [
        "dense", "middle/dense", "middle/innermost/dense", "middle/innermost/relu",
    ]  # fmt: skip
    data = random(8, 4)
    assert np.array_equal(run(same_again(graph), data), run(model, data))


def test_an_input_that_is_an_output_and_one_that_nothing_uses_stay():
    x, unused = keras.Input((4,), name="x"), keras.Input((2,), name="unused")
    model = keras.Model([x, unused], [x, layers.ReLU(name="relu")(x)])
    again = same_again(graph_of(model))
    assert [tensor.name for tensor in again.inputs] == ["x", "unused"]
    data = [random(8, 4), random(8, 2)]
    assert np.array_equal(run(again, data), run(model, data))


def test_fixed_batch_sizes_and_other_dtypes_of_inputs_stay():
    x = keras.Input(batch_shape=(3, None, 4), dtype="float16", name="x")
    model = keras.Model(x, layers.ReLU(name="relu", dtype="float16")(x))
    (again,) = same_again(graph_of(model)).inputs
    assert (tuple(again.shape), again.dtype) == ((3, None, 4), "float16")


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    return Own()


def functional_with_a_call_of_its_own():
    class Own(keras.Model):
        def call(self, x):
            return 2.0 * super().call(x)

    x = keras.Input((4,))
    return Own(x, layers.Dense(2)(x))


def subclass_without_a_call_of_its_own():
    class Own(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    x = keras.Input((4,))
    return Own(x, layers.Dense(2)(x))


FUNCTIONAL = {
    "functional": (lambda: built("shared")[0], True),
    "sequential": (lambda: built("sequential")[0], True),
    "not built": (lambda: keras.Sequential([layers.Dense(2)]), False),
    "empty": (keras.Sequential, False),
    "subclassed": (subclassed, False),
    "with a call of its own": (functional_with_a_call_of_its_own, False),
    "with a step of its own": (subclass_without_a_call_of_its_own, True),
    "layer": (lambda: layers.Dense(2), False),
    "nothing": (lambda: None, False),
}


@pytest.mark.parametrize("kind", FUNCTIONAL)
def test_what_is_functional(kind):
    make, expected = FUNCTIONAL[kind]
    assert is_functional(make()) is expected


def test_an_inner_model_with_a_call_of_its_own_stays_closed():
    x = keras.Input((4,), name="x")
    inner = functional_with_a_call_of_its_own()
    inner.name = "inner"
    model = keras.Model(x, layers.ReLU(name="relu")(inner(x)))
    graph = graph_of(model)
    assert [call.name for call in graph.calls] == ["inner", "relu"]
    data = random(8, 4)
    assert np.array_equal(run(same_again(graph), data), run(model, data))


@pytest.mark.parametrize("training", [None, True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_the_training_argument_of_an_inner_model_is_handed_to_its_layers(inside, training):
    """Its batch norm uses the statistics of the batch or the moving ones; an argument of the outer call counts more."""
    x = keras.Input((4,), name="x")
    norm_input = keras.Input((4,))
    inner = keras.Model(norm_input, layers.BatchNormalization(name="norm")(norm_input), name="inner")
    model = keras.Model(x, layers.ReLU(name="relu")(inner(x, training=inside)))
    again = same_again(graph_of(model))
    data = 5.0 + random(8, 4)
    assert np.array_equal(run(again, data, training), run(model, data, training))


# Arguments by name.


@pytest.mark.parametrize(
    ("make", "positional", "by_name"),
    [
        (lambda: layers.Dense(4), lambda x: ((x,), {}), lambda x: {"inputs": x}),
        (lambda: layers.Conv1D(4, 3), lambda x: ((x,), {}), lambda x: {"inputs": x}),
        (lambda: layers.LSTM(4), lambda x: ((x,), {}), lambda x: {"sequences": x}),
        (
            lambda: layers.MultiHeadAttention(2, 4),
            lambda x: ((x,), {"value": x}),
            lambda x: {"value": x, "query": x},
        ),
        (layers.Add, lambda x: (([x, x],), {}), lambda x: {"inputs": [x, x]}),
        (layers.ReLU, lambda x: ((x,), {}), lambda x: {"inputs": x}),
    ],
    ids=["Dense", "Conv1D", "LSTM", "MultiHeadAttention", "Add", "ReLU"],
)
def test_a_call_by_name_is_the_positional_call(make, positional, by_name):
    def quantized(arguments):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        x = keras.Input((6, 8), name="x")
        args, kwargs = arguments(x)
        model = keras.Model(x, layers.Dense(3)(make()(*args, **kwargs)))
        calls = [(item.name, [value.shape for value in item.inputs], len(item.args)) for item in graph_of(model).calls]
        return mct.quantize(model, random(16, 6, 8)), calls

    (first, calls), (second, calls_by_name) = quantized(positional), quantized(lambda x: ((), by_name(x)))
    assert calls_by_name == calls
    assert mct.plan_of(second).to_dict() == mct.plan_of(first).to_dict()
    assert np.array_equal(run(second, random(4, 6, 8)), run(first, random(4, 6, 8)))


def test_code_of_the_users_may_call_by_name_where_it_runs_layer_by_layer(tmp_path):
    @keras.saving.register_keras_serializable("own_models")
    class ByKeyword(keras.Model):
        def __init__(self):
            super().__init__()
            self.recurrent, self.attention = layers.LSTM(4, return_sequences=True), layers.MultiHeadAttention(2, 4)
            self.head, self.scale = layers.Dense(3), self.add_weight(shape=(4,), initializer="ones", name="scale")

        def call(self, inputs):
            x = self.recurrent(sequences=inputs) * self.scale
            return self.head(inputs=self.attention(value=x, query=2.0 * x))

        def get_config(self):
            return {}

    model, inputs = ByKeyword(), random(8, 5, 6)
    expected = run(model, inputs)
    quantized = mct.quantize(model, inputs)
    assert {tensor.site.layer for tensor in mct.plan_of(quantized).quantized()} == {"recurrent", "attention", "head"}
    with unquantized(quantized):
        np.testing.assert_allclose(run(quantized, inputs), expected, rtol=1e-5, atol=1e-6)


# The user's own layers.


def test_a_lambda_layer_of_the_users_is_copied_with_its_function_and_gets_no_calls():
    x = keras.Input((6,), name="x")
    code = layers.Lambda(lambda tensor, factor=1.0: tensor * factor, output_shape=(4,), arguments={"factor": 3.0})
    model = keras.Model(x, layers.Dense(2)(code(layers.Dense(4)(x))))
    before, data = fingerprint(model), random(16, 6)
    quantized, prepared = mct.quantize(model, data), mct.prepare_qat(model, data)
    frozen = mct.finalize(prepared)
    assert fingerprint(model) == before
    for made in (quantized, prepared, frozen):
        assert made.get_layer(code.name) is not code
        inner = keras.Model(made.input, made.get_layer(code.name).output)
        assert run(inner, data).shape == (16 * 4,)
        with unquantized(made):
            np.testing.assert_allclose(run(made, data), run(model, data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["x.1", "größe", "a b", "x:0"])
def test_names_that_a_layer_without_weights_may_have_do_not_break_its_quantizer(name):
    """Torch takes no dots and TensorFlow no blanks in the names of layers that have variables or are called."""
    x = keras.Input((6,), name=name)
    part = keras.Input((4,))
    inside = keras.Model(part, layers.Dense(4, name="dense")(part), name="part.1")
    model = keras.Model(x, layers.Dense(2, name="head")(inside(layers.Dense(4, name="first")(x))))
    data = random(16, 6)
    prepared = mct.prepare_qat(model, data)
    prepared.compile("sgd", "mse")
    prepared.fit(data, random(16, 2), verbose=0)
    assert run(mct.finalize(prepared), data).shape == (32,)
    assert f"{name}.output" in [tensor.name for tensor in mct.plan_of(prepared).quantized()]
