# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`TrainingMethod`: the open set of registered training methods, with attribute access."""

from collections.abc import Iterator
from typing import Any

from model_compression_toolkit.trainable_infrastructure.methods import method


class _TrainingMethodMeta(type):
    def __getattr__(cls, name: str) -> "TrainingMethod":
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return TrainingMethod(name)
        except ValueError as error:
            raise AttributeError(str(error)) from error

    def __iter__(cls) -> Iterator[Any]:
        return (cls(name) for name in method.registered_names())

    def __contains__(cls, name: object) -> bool:
        return name in method.registered_names()


class TrainingMethod(str, metaclass=_TrainingMethodMeta):
    """The name of a registered training method: `TrainingMethod.LSQ == "LSQ"`.

    Raises:
        ValueError: no method has that name; the text lists those that exist.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> "TrainingMethod":
        """The name, once it is known to be registered."""
        method.method_class(name)
        return super().__new__(cls, name)

    @property
    def value(self) -> str:
        """The name."""
        return str(self)
