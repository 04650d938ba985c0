# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Keras models with code of their own, as users write them."""

import keras
from keras import layers, ops
from keras_models import images, random

PACKAGE = "own_models"


@keras.saving.register_keras_serializable(PACKAGE)
class Block(layers.Layer):
    """A residual block; batch norm takes the training flag by name."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build((*input_shape[:-1], self.filters))

    def call(self, inputs, training=False):
        return ops.relu(self.norm(self.conv(inputs), training=training)) + inputs

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(PACKAGE)
class Net(keras.Model):
    """Blocks in a list, a sequential part, a head in a dictionary; the constructor takes nothing of Keras's."""

    def __init__(self, filters=4):
        super().__init__()
        self.filters = filters
        self.stem = layers.Conv2D(filters, 3)
        self.blocks = [Block(filters), Block(filters)]
        self.tail = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(5), layers.BatchNormalization()])
        self.heads = {"classes": layers.Dense(3)}

    def call(self, inputs):
        x = self.stem(inputs)
        for block in self.blocks:
            x = block(x)
        return self.heads["classes"](self.tail(x))

    def get_config(self):
        return {"filters": self.filters}


@keras.saving.register_keras_serializable(PACKAGE)
class WithToken(Net):
    """Adds a weight of its own."""

    def __init__(self, filters=4):
        super().__init__(filters)
        self.token = self.add_weight(shape=(filters,), initializer="ones", name="token")

    def call(self, inputs):
        x = self.stem(inputs) + self.token
        for block in self.blocks:
            x = block(x)
        return self.heads["classes"](self.tail(x))


@keras.saving.register_keras_serializable(PACKAGE)
class WithFunctionalPart(keras.Model):
    """A functional model inside, and an embedding of numbers that are no inputs."""

    def __init__(self):
        super().__init__()
        image = keras.Input((6, 6, 4))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(image)))
        self.backbone = keras.Model(image, layers.Add()([x, image]))
        self.stem, self.positions, self.head = layers.Conv2D(4, 3), layers.Embedding(6, 4), layers.Dense(3)

    def call(self, inputs):
        x = self.backbone(self.stem(inputs)) + self.positions(ops.arange(6))
        return self.head(ops.mean(x, axis=(1, 2)))

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(PACKAGE)
class ByName(keras.Model):
    """Inputs and outputs in dictionaries, one layer used twice."""

    def __init__(self):
        super().__init__()
        self.shared, self.head = layers.Dense(4), layers.Dense(2)

    def call(self, inputs):
        left, right = self.shared(inputs["left"]), self.shared(inputs["right"])
        return {"joined": self.head(ops.concatenate([left, right], axis=-1)), "left": left}

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(PACKAGE)
class Backbone(keras.Model):
    """Makes its functional graph in the constructor, and is saved by its own arguments."""

    def __init__(self, width=6, **kwargs):
        x = keras.Input((5,))
        hidden = layers.Dense(width, activation="relu")
        super().__init__(x, layers.Dense(3)(hidden(x)), **kwargs)
        self.width, self.hidden = width, hidden

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class Scaled(Backbone):
    """Adds a step of its own to the graph, with a weight of its own."""

    def __init__(self, width=6, **kwargs):
        super().__init__(width, **kwargs)
        self.temperature = self.add_weight(shape=(), initializer=keras.initializers.Constant(2.0), name="temperature")

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) / self.temperature


def pair():
    return {"left": random(16, 3), "right": random(16, 3, seed=1)}


def rows():
    return random(16, 5)


TRACEABLE = {"net": (Net, images), "by name": (ByName, pair), "a backbone": (Backbone, rows)}
UNTRACEABLE = {
    "a backbone with a step": (Scaled, rows, r"it has weights of its own: \['temperature'\]"),
    "with a token": (WithToken, images, r"it has weights of its own: \['token'\]"),
    "with a functional part": (WithFunctionalPart, images, "takes a tensor that is no result of a call"),
}
ALL = {**TRACEABLE, **{name: item[:2] for name, item in UNTRACEABLE.items()}}


def own(name):
    """A built model and a batch of its inputs."""
    keras.utils.set_random_seed(0)
    make, inputs = ALL[name]
    model = make()
    model(inputs())
    return model, inputs()
