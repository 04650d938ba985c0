# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which framework a model is of, without importing any."""

import importlib
import sys
from typing import Any

_LEGACY_KERAS = ("tf_keras", "tensorflow.python.keras", "keras.engine", "keras.api._v2")


def wing_of(model: Any) -> str:
    """The wing for a model: "keras" or "pytorch".

    Raises:
        TypeError: a model of no framework that is supported, such as one of Keras 2 (`tf_keras`).
    """
    # A framework that nobody has imported has made no model. On its torch backend a Keras model is a torch module too.
    for framework, wing, cls in (("keras", "keras", "Model"), ("torch", "pytorch", "nn.Module")):
        found: Any = sys.modules.get(framework)
        for name in cls.split("."):
            found = getattr(found, name, None)
        if isinstance(found, type) and isinstance(model, found):
            return wing
    raise TypeError(f"`model` must be a torch.nn.Module or a keras.Model of Keras 3. Received: {described(model)}")


def wing_module(model: Any, pattern: str) -> Any:
    """The module of the wing for a model.

    Args:
        model: any model.
        pattern: name of the module, `{}` for the wing.

    Raises:
        TypeError: see `wing_of`.
    """
    return importlib.import_module(pattern.format(wing_of(model)))


def described(model: Any) -> str:
    """The class of something that should be a model, and the way out for models of Keras 2."""
    cls = type(model)
    is_legacy = any(base.__module__.startswith(_LEGACY_KERAS) for base in cls.__mro__)
    advice = " (Keras 2: build it with `import keras`, Keras 3, and load its weights)" if is_legacy else ""
    return f"{cls.__name__}{advice}"
