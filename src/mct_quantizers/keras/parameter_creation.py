# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the interface's quantizers may ask of the layer that carries them."""

from collections.abc import Sequence
from typing import Any

import keras


class CreatesParameters(keras.layers.Layer):
    """A layer whose `add_weight` understands the words of Keras 2, too."""

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        """Add a variable, as every layer does.

        Also with the name as the first argument, with one integer as the shape, and with a name that has slashes, which
        become underscores.

        Args:
            *args: `name, shape, dtype, initializer` as in Keras 2, if the first is a string; else as in Keras 3.
            **kwargs: the arguments of `keras.layers.Layer.add_weight`.

        Raises:
            TypeError: an argument is given twice.
        """
        if args and isinstance(args[0], str):
            positional = dict(zip(("name", "shape", "dtype", "initializer"), args, strict=False))
            if twice := sorted(set(positional) & set(kwargs)):
                raise TypeError(f"`add_weight` must get each argument once. Received: {twice} twice")
            args, kwargs = (), {**positional, **kwargs}
        shape = kwargs.get("shape")
        if isinstance(shape, int):
            kwargs["shape"] = (shape,)
        elif isinstance(shape, Sequence):
            kwargs["shape"] = tuple(shape)
        if isinstance(kwargs.get("name"), str):
            kwargs["name"] = kwargs["name"].replace("/", "_")
        return super().add_weight(*args, **kwargs)
