# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`add_weight` of wrapper and holder: the words of Keras 3 and those of Keras 2."""

import keras
import numpy as np
import pytest

from mct_quantizers import (
    KerasActivationQuantizationHolder,
    KerasFLNActivationQuantizationHolder,
    KerasPreservingActivationQuantizationHolder,
    KerasQuantizationWrapper,
)
from mct_quantizers.keras.quantizers import ActivationSymmetricInferableQuantizer, WeightsSymmetricInferableQuantizer

pytestmark = pytest.mark.keras
to_numpy = keras.ops.convert_to_numpy
constant = keras.initializers.Constant


def wrapper():
    return KerasQuantizationWrapper(
        keras.layers.Dense(2), {"kernel": WeightsSymmetricInferableQuantizer(4, [2.0], False)}
    )


def holder_of(cls):
    return lambda: cls(ActivationSymmetricInferableQuantizer(4, [2.0], signed=True))


MAKERS = {
    "wrapper": wrapper,
    **{
        cls.__name__: holder_of(cls)
        for cls in (
            KerasActivationQuantizationHolder,
            KerasFLNActivationQuantizationHolder,
            KerasPreservingActivationQuantizationHolder,
        )
    },
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def layer(request):
    return request.param()


def check(layer, variable, shape, value, name):
    assert isinstance(variable, keras.Variable)
    assert tuple(variable.shape) == shape
    np.testing.assert_array_equal(to_numpy(variable), np.full(shape, value, np.float32))
    assert variable.name == name
    assert any(variable is other for other in layer.weights)


FORMS = {
    "name first, integer shape": lambda layer: layer.add_weight(
        "new", shape=3, initializer=constant(1.5), trainable=True
    ),
    "name and integer shape first": lambda layer: layer.add_weight("new", 3, initializer=constant(1.5)),
    "all of Keras 2 in order": lambda layer: layer.add_weight("new", (3,), "float32", constant(1.5)),
    "name first, shape as a list": lambda layer: layer.add_weight("new", shape=[3], initializer=constant(1.5)),
    "shape first": lambda layer: layer.add_weight((3,), constant(1.5), name="new"),
    "keywords": lambda layer: layer.add_weight(name="new", shape=(3,), initializer=constant(1.5)),
    "keywords, integer shape": lambda layer: layer.add_weight(name="new", shape=3, initializer=constant(1.5)),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_variable(layer, make):
    check(layer, make(layer), (3,), 1.5, "new")


def test_a_scalar_is_a_shape_without_axes(layer):
    for name, arguments in (("by_keyword", {"shape": ()}), ("without", {})):
        variable = layer.add_weight(name, initializer=constant(-2.0), **arguments)
        check(layer, variable, (), -2.0, name)


def test_zero_and_one_are_lengths_and_no_missing_shape(layer):
    assert tuple(layer.add_weight("none", shape=0).shape) == (0,)
    assert tuple(layer.add_weight("one", shape=1).shape) == (1,)


@pytest.mark.parametrize("name", ["holder/out_min", "/a//b/"])
def test_slashes_of_a_name_become_underscores(layer, name):
    first = layer.add_weight(name, shape=2, initializer="ones")
    second = layer.add_weight(name=name, shape=(2,), initializer="ones")
    for variable in (first, second):
        check(layer, variable, (2,), 1, name.replace("/", "_"))


def test_trainable_is_as_told(layer):
    trains, stays = layer.add_weight("trains", 1, trainable=True), layer.add_weight("stays", 1, trainable=False)
    assert [each.name for each in layer.trainable_variables] == ["trains"]
    assert trains.trainable
    assert not stays.trainable
    assert any(stays is each for each in layer.non_trainable_variables)


def test_other_arguments_reach_keras(layer):
    variable = layer.add_weight(
        "new", shape=2, dtype="float16", initializer="ones", constraint="non_neg", regularizer="l2", autocast=False
    )
    assert keras.backend.standardize_dtype(variable.dtype) == "float16"
    assert variable.constraint is not None
    assert variable.regularizer is not None


def test_a_variable_of_any_form_takes_values_and_trains(layer):
    variable = layer.add_weight("new", shape=2, initializer=constant(1.0), trainable=True)
    variable.assign(np.array([3.0, -1.0], np.float32))
    assert to_numpy(variable).tolist() == [3.0, -1.0]
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([variable])
    optimizer.apply([keras.ops.ones((2,))], [variable])
    np.testing.assert_allclose(to_numpy(variable), [2.5, -1.5])


@pytest.mark.parametrize(
    ("arguments", "keywords", "twice"),
    [
        (("new",), {"name": "other"}, "name"),
        (("new", 3), {"shape": 3}, "shape"),
        (("new", 3, "float32"), {"dtype": "float32"}, "dtype"),
    ],
)
def test_an_argument_that_is_given_twice_is_refused(layer, arguments, keywords, twice):
    with pytest.raises(TypeError, match=rf"`add_weight`.*once.*\['{twice}'\]"):
        layer.add_weight(*arguments, **keywords)
    assert layer.weights == []


@pytest.mark.parametrize("trainable", [True, False])
def test_all_words_of_keras_2_count_in_their_order(layer, trainable):
    variable = layer.add_weight("new", 3, "float32", constant(1.5), "l2", trainable, "non_neg")
    check(layer, variable, (3,), 1.5, "new")
    assert variable.trainable is trainable
    assert type(variable.regularizer).__name__ == "L2"
    assert type(variable.constraint).__name__ == "NonNeg"


def test_none_means_the_default_as_in_keras_2(layer):
    variable = layer.add_weight("new", 3, None, None, None, None, None)
    assert variable.trainable
    assert variable.regularizer is variable.constraint is None
    assert keras.backend.standardize_dtype(variable.dtype) == "float32"


def test_more_positional_arguments_than_there_are_words_are_refused(layer):
    with pytest.raises(TypeError, match="`add_weight`"):
        layer.add_weight("new", 3, "float32", "ones", None, True, None, False)
    assert layer.weights == []


def test_a_wrong_shape_is_refused(layer):
    for shape in (True, "3", 2.5):
        with pytest.raises((TypeError, ValueError)):
            layer.add_weight("new", shape=shape)
    assert layer.weights == []
