# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Small Keras models, each with one thing that real models have, and inputs for them."""

import functools

import keras
import numpy as np
from keras import layers, ops


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def indices(*shape, high=10, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.int32)


def images(size=16):
    return random(size, 8, 8, 3, seed=1)


def conv_bn_relu(x, outputs, name, **arguments):
    x = layers.Conv2D(outputs, 3, padding="same", name=f"{name}_conv", **arguments)(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(3, name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(5, name="head"),
        ],
        name="sequential",
    )


def residual():
    image = keras.Input((8, 8, 3), name="image")
    x = shortcut = conv_bn_relu(image, 4, "stem", use_bias=False)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_norm")(x)
    x = layers.Add(name="add")([x, shortcut])
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, name="head")(x), name="residual")


def shared():
    x = keras.Input((4,), name="x")
    middle, act = layers.Dense(6, name="middle"), layers.ReLU(name="act")
    y = act(layers.Dense(6, name="first")(x))
    return keras.Model(x, layers.Dense(2, name="second")(act(middle(act(middle(y))))), name="shared")


def inner_block():
    x = keras.Input((8, 8, 4), name="inner_input")
    y = layers.Conv2D(4, 1, name="conv")(x)
    y = layers.BatchNormalization(name="norm")(y)
    return keras.Model(x, layers.ReLU(name="relu")(y), name="block")


def nested():
    """An inner model called twice, and a sequential one whose layers have names of others."""
    image = keras.Input((8, 8, 3), name="image")
    block = inner_block()
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = layers.Subtract(name="difference")([block(block(x)), x])
    tail = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Flatten(name="flatten"), layers.Dense(3, name="conv")], name="tail"
    )
    return keras.Model(image, tail(x), name="nested")


def dictionaries():
    """Inputs and outputs by name, not in the order of the alphabet."""
    right, left = keras.Input((4,), name="right"), keras.Input((6,), name="left")
    x = layers.Dense(5, activation="relu", name="of_right")(right)
    y = layers.Dense(5, name="of_left")(left)
    product = layers.Multiply(name="product")([x, y])
    outputs = {"total": layers.Dense(2, name="total")(product), "gate": layers.Dense(1, name="gate")(x)}
    return keras.Model({"right": right, "left": left}, outputs, name="dictionaries")


def lists():
    """Two inputs in a list, two outputs in a list, one of them an input of another layer."""
    first, second = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    dense = layers.Dense(6, name="dense")
    x = layers.Concatenate(name="join")([dense(first), layers.Activation("tanh", name="tanh")(dense(second))])
    return keras.Model([first, second], [layers.Dense(2, name="head")(x), x], name="lists")


def functions():
    """Functions of `keras.ops`, some with several results, and a constant."""
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, name="first")(x)
    left, right = ops.split(y, 2, axis=-1)
    y = ops.concatenate([left * ops.sigmoid(right), ops.relu(y[:, 1:3])], axis=-1)
    y = ops.reshape(y, (-1, 5))
    return keras.Model(x, layers.Dense(2, name="second")(y + 1.0), name="functions")


def attention_by_hand():
    x = keras.Input((5, 6), name="x")
    query, key, value = (layers.Dense(6, name=name)(x) for name in ("query", "key", "value"))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / 6**0.5
    y = ops.matmul(ops.softmax(scores, axis=-1), value)
    return keras.Model(x, layers.Dense(6, name="head")(y), name="attention_by_hand")


def convolutions_1d():
    x = keras.Input((12, 3), name="x")
    y = layers.Conv1D(4, 3, activation="relu", name="conv")(x)
    y = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")(y)
    y = layers.SeparableConv1D(5, 3, depth_multiplier=2, name="separable")(y)
    y = layers.Conv1DTranspose(4, 2, strides=2, name="transposed")(y)
    y = layers.GlobalMaxPooling1D(name="pool")(y)
    return keras.Model(x, layers.Dense(2, name="head")(y), name="convolutions_1d")


def convolutions_3d():
    x = keras.Input((4, 4, 4, 2), name="x")
    y = layers.Conv3D(3, 2, name="conv")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Conv3DTranspose(2, 2, name="transposed")(y)
    return keras.Model(x, layers.AveragePooling3D(2, name="pool")(y), name="convolutions_3d")


def einsum():
    x = keras.Input((5, 6), name="x")
    y = layers.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4), bias_axes="de", name="heads")(x)
    y = layers.EinsumDense("abde,dec->abc", output_shape=(None, 3), name="join")(y)
    return keras.Model(x, layers.LayerNormalization(name="norm")(y), name="einsum")


def words():
    x = keras.Input((5,), dtype="int32", name="x")
    y = layers.Embedding(10, 6, name="words")(x)
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    return keras.Model(x, layers.Dense(3, name="head")(y), name="words")


def recurrent():
    x = keras.Input((7, 4), name="x")
    y, hidden, _ = layers.LSTM(5, return_sequences=True, return_state=True, name="lstm")(x)
    y = layers.GRU(5, name="gru")(y)
    return keras.Model(x, layers.Dense(2, name="head")(layers.Add(name="add")([y, hidden])), name="recurrent")


def multi_head():
    x = keras.Input((5, 6), name="x")
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    return keras.Model(x, layers.Dense(2, name="head")(y), name="multi_head")


def u_net():
    image = keras.Input((8, 8, 3), name="image")
    high = conv_bn_relu(image, 4, "high")
    low = conv_bn_relu(layers.MaxPooling2D(2, name="down")(high), 6, "low")
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(low)
    x = layers.Concatenate(name="join")([x, high])
    x = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = layers.BatchNormalization(name="separable_norm")(x)
    return keras.Model(image, layers.Conv2D(2, 1, name="head")(layers.ReLU(name="relu")(x)), name="u_net")


def dropout():
    x = keras.Input((4,), name="x")
    y = layers.Dropout(0.5, name="drop")(layers.Dense(6, activation="relu", name="first")(x))
    return keras.Model(x, layers.Dense(2, name="second")(y), name="dropout")


ZOO = {
    "sequential": (sequential, images),
    "residual": (residual, images),
    "shared": (shared, lambda: random(32, 4)),
    "nested": (nested, images),
    "dictionaries": (dictionaries, lambda: {"right": random(32, 4), "left": random(32, 6, seed=3)}),
    "lists": (lists, lambda: [random(32, 4), random(32, 4, seed=3)]),
    "functions": (functions, lambda: random(32, 4)),
    "attention_by_hand": (attention_by_hand, lambda: random(16, 5, 6)),
    "convolutions_1d": (convolutions_1d, lambda: random(16, 12, 3)),
    "convolutions_3d": (convolutions_3d, lambda: random(16, 4, 4, 4, 2)),
    "einsum": (einsum, lambda: random(16, 5, 6)),
    "words": (words, lambda: indices(32, 5)),
    "recurrent": (recurrent, lambda: random(16, 7, 4)),
    "multi_head": (multi_head, lambda: random(16, 5, 6)),
    "u_net": (u_net, images),
    "dropout": (dropout, lambda: random(32, 4)),
}


def worn(model, seed=0):
    """The model as training leaves it, the same on every backend: batch norms with negative factors among others."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype != "float32":
            continue
        shape = tuple(weight.shape)
        if weight.name == "moving_variance":
            weight.assign(generator.uniform(0.5, 2.0, shape))
        elif weight.name == "gamma":
            weight.assign(generator.uniform(-1.5, 1.5, shape))
        elif len(shape) == 1:
            weight.assign(0.3 * generator.normal(size=shape))
        else:
            weight.assign(generator.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
    return model


def fresh(name):
    """A model of the zoo and a batch of its inputs."""
    make, inputs = ZOO[name]
    # Keras numbers functions without a name over the whole process.
    keras.utils.clear_session(free_memory=False)
    return worn(make()), inputs()


@functools.cache
def built(name):
    """A model of the zoo and a batch of its inputs; the same ones in every call, not to be changed."""
    return fresh(name)


def run(model, inputs, training=False):
    """The outputs, flattened, as one vector."""
    return flat(model(inputs, training=training))


def flat(outputs):
    arrays = [np.asarray(ops.convert_to_numpy(ops.cast(item, "float32"))) for item in keras.tree.flatten(outputs)]
    return np.concatenate([array.ravel() for array in arrays])


def fingerprint(model):
    """What a flow must leave alone in a model of the user."""
    flattened = list(model._flatten_layers())
    return {
        "name": model.name,
        "weights": [(id(weight), weight.path, weight.trainable, weight.numpy().tobytes()) for weight in model.weights],
        "layers": [(id(layer), layer.name, layer.trainable, len(layer._inbound_nodes)) for layer in flattened],
        "outputs": [id(tensor) for tensor in model.outputs],
        "compiled": (model.compiled, id(getattr(model, "optimizer", None))),
    }
