# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`TrainingMethod`: the open set of training methods, with attribute access."""

from collections.abc import Iterator
from typing import Any

from model_compression_toolkit.trainable_infrastructure.methods import method

__all__ = ["TrainingMethod"]

_OWN_NAMES: set[str] = set()
"""Names that stand for quantizer classes of the user's own, not for a `Method`."""


class _TrainingMethodMeta(type):
    def __getattr__(cls, name: str) -> "TrainingMethod":
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return TrainingMethod(name)
        except ValueError as error:
            raise AttributeError(str(error)) from error

    def __iter__(cls) -> Iterator[Any]:
        return (cls(name) for name in _names())

    def __contains__(cls, name: object) -> bool:
        return name in _names()


class TrainingMethod(str, metaclass=_TrainingMethodMeta):
    """The name of a training method: `TrainingMethod.LSQ == "LSQ"`.

    The names are those of all `Method` classes that are imported, and those that `register` was given.

    Raises:
        ValueError: no method has that name; the text lists those that exist.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> "TrainingMethod":
        """The name, once it is known to be registered."""
        if not isinstance(name, str) or name not in _names():
            raise ValueError(
                f"The training method must be one of {_names()}. Received: {name!r}. A name for quantizer classes of "
                "your own is made with TrainingMethod.register(name)."
            )
        return super().__new__(cls, name)

    @classmethod
    def register(cls, name: str) -> "TrainingMethod":
        """Make `name` a training method, for quantizer classes that are marked with it.

        A `Method` subclass registers itself and needs no call. Registering a name again changes nothing.

        Args:
            name: an identifier of Python that does not begin with an underscore.

        Returns:
            `TrainingMethod.<name>`.

        Raises:
            TypeError: `name` is no string.
            ValueError: `name` is no such identifier, or one of the names of this class.
        """
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string. Received: name={name!r}")
        if not name.isidentifier() or name.startswith("_") or hasattr(str, name) or name in vars(cls):
            raise ValueError(
                "`name` must be an identifier that does not begin with an underscore and is no method of strings. "
                f"Received: name={name!r}"
            )
        if name not in method.registered_names():
            _OWN_NAMES.add(name)
        return cls(name)

    @property
    def value(self) -> str:
        """The name."""
        return str(self)


def _names() -> list[str]:
    return sorted({*method.registered_names(), *_OWN_NAMES})
