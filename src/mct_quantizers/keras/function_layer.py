# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A function as a layer, so that a wrapper can hold it."""

from collections.abc import Callable
from typing import Any, Self

import keras

from mct_quantizers.keras.quantizers.base import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class FunctionLayer(keras.layers.Layer):
    """Calls a function.

    Args:
        function: any function of tensors. A model that holds it can be saved when it is a function of `keras.ops`, or
            one that is registered with `keras.saving.register_keras_serializable`; no code is ever saved.
    """

    def __init__(self, function: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result: arguments go through as they are."""
        return self.function(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, the function by its name.

        Raises:
            ValueError: the function has no name that a file could hold.
        """
        name = getattr(self.function, "__name__", "")
        if getattr(keras.ops, name, None) is self.function:
            return {**super().get_config(), "function": f"keras.ops.{name}"}
        registered = keras.saving.get_registered_name(self.function)
        if keras.saving.get_registered_object(registered) is not self.function:
            raise ValueError(
                "A function is saved by its name, and must be one of `keras.ops` or registered with "
                f"`keras.saving.register_keras_serializable`. Received: {self.function!r}"
            )
        return {**super().get_config(), "function": registered}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer whose `get_config` was `config`.

        Raises:
            ValueError: the function is neither one of `keras.ops` nor registered.
        """
        name = config["function"]
        namespace, _, leaf = str(name).rpartition(".")
        found = getattr(keras.ops, leaf, None) if namespace == "keras.ops" else keras.saving.get_registered_object(name)
        if not callable(found):
            raise ValueError(
                "`function` must be a function of `keras.ops` or registered with "
                f"`keras.saving.register_keras_serializable`. Received: {name!r}"
            )
        return cls(**{**config, "function": found})
