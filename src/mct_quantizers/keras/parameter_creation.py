# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the interface's quantizers may ask of the layer that carries them."""

from collections.abc import Sequence
from typing import Any

import keras

_KERAS_2_ORDER = ("name", "shape", "dtype", "initializer", "regularizer", "trainable", "constraint")


class CreatesParameters(keras.layers.Layer):
    """A layer whose `add_weight` understands the words of Keras 2, too."""

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Add a variable, as every layer does.

        Also with the name as the first argument, with one integer as the shape, and with a name that has slashes, which
        become underscores. The variable is an attribute too, `added_` and its name.

        Args:
            *args: if the first is a string `name, shape, dtype, initializer, regularizer, trainable, constraint`, as in
                Keras 2; else as in Keras 3.
            **kwargs: the arguments of `keras.layers.Layer.add_weight`.

        Raises:
            TypeError: an argument is given twice, or more than these seven in order.
        """
        if args and isinstance(args[0], str):
            if len(args) > len(_KERAS_2_ORDER):
                raise TypeError(f"`add_weight` takes {_KERAS_2_ORDER} in this order. Received: {len(args)} arguments")
            positional = dict(zip(_KERAS_2_ORDER, args, strict=False))
            if twice := sorted(set(positional) & set(kwargs)):
                raise TypeError(f"`add_weight` must get each argument once. Received: {twice} twice")
            # None means the default, as in Keras 2.
            given = {key: value for key, value in positional.items() if value is not None}
            args, kwargs = (), {**given, **kwargs}
        shape = kwargs.get("shape")
        if isinstance(shape, int) and not isinstance(shape, bool):
            kwargs["shape"] = (shape,)
        elif isinstance(shape, Sequence):
            kwargs["shape"] = tuple(shape)
        if isinstance(kwargs.get("name"), str):
            kwargs["name"] = kwargs["name"].replace("/", "_")
        variable = super().add_weight(*args, **kwargs)
        # TensorFlow's checkpoints hold what stands under an attribute, and nothing else.
        attribute, number = f"added_{variable.name}", 1
        while hasattr(self, attribute):
            number += 1
            attribute = f"added_{variable.name}_{number}"
        setattr(self, attribute, variable)
        return variable
