# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Models and layers with code of their own as graphs of calls."""

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from keras import layers, ops
from keras_models import images, random, run
from keras_own_models import TRACEABLE, UNTRACEABLE, Block, own

from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.keras.capture import capture
from model_compression_toolkit.core.keras.graph import Value
from model_compression_toolkit.core.keras.reading import graph_of, graph_of_code
from model_compression_toolkit.core.keras.running import input_structure
from model_compression_toolkit.core.keras.sublayers import own_weights, replace_layers, sublayers
from model_compression_toolkit.core.keras.tracing import NotTraceable, trace

pytestmark = pytest.mark.keras


def sample_of(inputs):
    return tuple(keras.tree.flatten(inputs))


def recorded_calls(model):
    return {path: (len(layer._inbound_nodes), len(layer._outbound_nodes)) for path, layer in sublayers(model)}


@pytest.mark.parametrize("name", TRACEABLE)
def test_a_subclassed_model_is_seen_as_a_graph_that_computes_the_same(name):
    model, inputs = own(name)
    before, calls = run(model, inputs), recorded_calls(model)
    captured = capture(model, CaptureMode.GRAPH, sample_of(inputs))
    assert captured.mode is CaptureMode.GRAPH
    assert not captured.notes
    # Two compilations of one computation: a few units in the last place.
    np.testing.assert_allclose(run(captured.float_model(), inputs), before, rtol=1e-5, atol=1e-6)
    assert np.array_equal(run(model, inputs), before)
    assert recorded_calls(model) == calls


def test_layers_are_named_by_where_they_stand_and_functions_by_what_they_are():
    model, inputs = own("net")
    names = [call.name for call in capture(model, CaptureMode.AUTO, sample_of(inputs)).graph.calls]
    inside = ["conv", "norm", "relu", "add"]
    assert names[:9] == ["stem", *(f"blocks/{index}/{name}" for index in (0, 1) for name in inside)]
    assert names[-1] == "heads/classes"
    again = capture(own("net")[0], CaptureMode.AUTO, sample_of(inputs))
    functions = [call.name for call in again.graph.calls if call.name.startswith("blocks")]
    assert functions == names[1:9]


def test_a_layer_that_is_called_twice_keeps_its_path():
    model, inputs = own("by name")
    graph = capture(model, CaptureMode.AUTO, sample_of(inputs)).graph
    assert [call.name for call in graph.calls][:2] == ["shared", "shared:2"]
    assert {call.path for call in graph.calls[:2]} == {"shared"}


def test_the_training_flag_reaches_what_the_code_hands_it_to():
    model, inputs = own("net")
    captured = capture(model, CaptureMode.AUTO, sample_of(inputs))
    again = captured.float_model()
    trained, expected = run(again, inputs, training=True), run(model, inputs, training=True)
    np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(model, inputs), expected, rtol=1e-2)


def test_own_layers_of_functional_models_are_opened_on_request():
    x = keras.Input((6, 6, 4), name="x")
    block = Block(4, name="block")
    model = keras.Model(x, block(block(x)))
    assert [call.name for call in graph_of(model).calls] == ["block", "block:2"]
    opened = [call.name for call in graph_of(model, opens_layers=True).calls]
    assert opened == [
        "block/conv", "block/norm", "block/relu", "block/add",
        "block/conv:2", "block/norm:2", "block/relu_2", "block/add_2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_code_that_does_more_than_calling_is_seen_layer_by_layer(name, caplog):
    model, inputs = own(name)
    reason = UNTRACEABLE[name][2]
    before = run(model, inputs)
    captured = capture(model, CaptureMode.AUTO, sample_of(inputs))
    assert captured.mode is CaptureMode.MODULES
    assert np.array_equal(run(captured.model, inputs), before)
    assert not {id(weight) for weight in captured.model.weights} & {id(weight) for weight in model.weights}
    with pytest.raises(ValueError, match=f"`capture` is 'graph', but the model is no graph of calls: .*{reason}"):
        capture(model, CaptureMode.GRAPH, sample_of(inputs))
    assert "captured layer by layer" in caplog.text


class InTrainingElse(layers.Layer):
    def __init__(self, constant=None, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm, self.constant = layers.Dense(4), layers.BatchNormalization(), constant

    def call(self, inputs, training=False):
        if self.constant is None and training:
            inputs = inputs * 2.0
        return self.norm(self.dense(inputs), training=training if self.constant is None else self.constant)


class ReadsAWeight(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return ops.matmul(self.dense(inputs), ops.transpose(self.dense.kernel))


class DependsOnValues(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs if ops.sum(inputs) > 0 else -inputs)


class HasAMask(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def compute_mask(self, inputs, previous_mask):
        return None

    def call(self, inputs):
        return self.dense(inputs)


REFUSED = {
    "training": (InTrainingElse, "its code does something else in training"),
    "constant flag": (lambda: InTrainingElse(False), "it calls 'batch_normalization.*' with training=False"),
    "weight": (ReadsAWeight, "'matmul.*' takes a tensor that is no result of a call"),
    "values": (DependsOnValues, r"does not take symbolic tensors \(.*"),
    "mask": (HasAMask, "`compute_mask` of its own"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_calls_leave_out_is_told(kind):
    make, reason = REFUSED[kind]
    layer = make()
    layer(random(8, 4))
    with pytest.raises(NotTraceable, match=reason):
        trace(layer, lambda: ((keras.Input((4,)),), {}))
    assert not any(inner._inbound_nodes for _, inner in sublayers(layer))


def test_a_layer_that_stays_closed_is_told_and_the_rest_is_read():
    x = keras.Input((4,), name="x")
    layer = ReadsAWeight(name="tied")
    graph = graph_of(keras.Model(x, layers.Dense(2, name="head")(layer(x))), opens_layers=True)
    assert [call.name for call in graph.calls] == ["tied", "head"]
    (note,) = graph.notes
    assert note.startswith("tied is taken as a whole, because 'matmul")


def test_inputs_of_code_keep_their_structure():
    model, inputs = own("by name")
    structure = input_structure(model)
    assert structure.keys() == inputs.keys()
    graph = graph_of_code(model, keras.tree.map_structure(lambda _: Value((None, 3), "float32"), structure))
    assert graph.inputs.keys() == inputs.keys()
    assert graph.outputs.keys() == {"joined", "left"}


# Layers inside layers.


def test_layers_inside_are_found_where_they_stand():
    model, _ = own("net")
    paths = [path for path, _ in sublayers(model)]
    # On torch, layers that stand in attributes of their own are listed apart from those in lists.
    assert set(paths[:5]) == {"stem", "blocks/0", "blocks/1", "tail", "heads/classes"}
    assert {"blocks/0/conv", "blocks/1/norm", "tail/0", "tail/1", "tail/2"} <= set(paths)
    assert len(paths) == len(set(paths))
    assert [weight.name for weight in own_weights(own("with a token")[0])] == ["token"]


def test_layers_are_replaced_wherever_they_stand():
    for name in ("net", "with a functional part"):
        model, inputs = own(name)
        fresh = type(model).from_config(model.get_config())
        found = [path for path, layer in sublayers(fresh) if isinstance(layer, (layers.Conv2D, layers.Dense))]
        replaced = {path: layers.Identity(name=f"identity_{index}") for index, path in enumerate(found[-1:])}
        former = {id(layer) for path, layer in sublayers(fresh) if path in replaced}
        replaced_model = replace_layers(fresh, replaced)
        places = dict(sublayers(replaced_model))
        assert all(places[path] is layer for path, layer in replaced.items())
        run(replaced_model, inputs)
        assert not former & {id(layer) for layer in replaced_model._flatten_layers()}
    with pytest.raises(ValueError, match=r"The model has no layers \['nothing'\]\. It has \['"):
        replace_layers(fresh, {"nothing": layers.Identity()})


def test_inputs_are_checked_before_anything_is_copied():
    model, _ = own("net")
    with pytest.raises(ValueError, match=r"The model has 1 inputs\. Received: a batch of"):
        capture(model, CaptureMode.AUTO, (images(), images()))


# Sizes that are read from a tensor.


@keras.saving.register_keras_serializable("own_models")
class ReadsSizes(layers.Layer):
    """Dense, then the batch size read from the tensor, in one of the usual ways."""

    def __init__(self, way, **kwargs):
        super().__init__(**kwargs)
        self.way, self.dense = way, layers.Dense(8)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        x = self.dense(inputs)
        batch, time = ops.shape(x)[0], ops.shape(x)[1]
        ways = {
            "heads": lambda: ops.reshape(x, (batch, time, 2, 4)),
            "flat": lambda: ops.reshape(x, (batch, -1)),
            "zeros": lambda: x + ops.zeros((batch, 6, 8)),
            "token": lambda: ops.concatenate([ops.tile(ops.ones((1, 1, 8)), (batch, 1, 1)), x], axis=1),
            "mean": lambda: ops.broadcast_to(ops.mean(x, 0, keepdims=True), (batch, 6, 8)),
        }
        return ways[self.way]()

    def get_config(self):
        return {**super().get_config(), "way": self.way}


def reads_sizes(way):
    x = keras.Input((6, 8))
    return keras.Model(x, ReadsSizes(way, name="own")(layers.Dense(8)(x)))


@pytest.mark.parametrize("way", ["heads", "flat"])
def test_a_reshape_to_a_batch_size_that_is_read_keeps_its_layer_open(way):
    model, inputs = reads_sizes(way), random(8, 6, 8)
    captured = capture(model, CaptureMode.AUTO, (inputs,))
    assert "own/dense" in [call.name for call in captured.graph.calls]
    assert not captured.notes
    for batch in (8, 5):
        data = random(batch, 6, 8, seed=batch)
        np.testing.assert_allclose(run(captured.float_model(), data), run(model, data), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["zeros", "token", "mean"])
def test_a_layer_that_needs_the_batch_size_itself_is_taken_as_a_whole(way):
    model, inputs = reads_sizes(way), random(8, 6, 8)
    captured = capture(model, CaptureMode.AUTO, (inputs,))
    assert captured.graph.calls[-1].name == "own"
    # On JAX and torch other errors tell that the size is unknown.
    assert captured.notes[0].startswith("own is taken as a whole, because ")
    for batch in (8, 5):
        data = random(batch, 6, 8, seed=batch)
        np.testing.assert_allclose(run(captured.float_model(), data), run(model, data), rtol=1e-5, atol=1e-6)


def test_a_copy_that_fails_does_not_blame_the_data():
    class NeedsNumbers(layers.Layer):
        def __init__(self, factor=None, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, inputs):
            if isinstance(inputs, keras.KerasTensor) or self.factor is not None:
                return inputs * (self.factor or 1.0)
            raise RuntimeError("no factor")

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape)

        def get_config(self):
            return {"name": self.name}

    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(3)(NeedsNumbers(2.0)(x)))
    with pytest.raises(ValueError, match=r"cannot be copied from the configurations.*no factor") as caught:
        capture(model, CaptureMode.AUTO, (random(8, 6),))
    assert "no labels" not in str(caught.value)
