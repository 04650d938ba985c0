# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A module around another one that answers for its attributes."""

from typing import Any, ClassVar

from torch import nn


class ForwardsAttributes(nn.Module):
    """Attributes that the module itself lacks are those of the module inside, such as `out_features` of a layer."""

    _inside: ClassVar[str] = "layer"
    """Name under which the module inside is registered."""

    def __getattr__(self, name: str) -> Any:
        """An attribute of the module itself, or of the one inside."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            # While a copy or an unpickled module is being filled, there is no module inside yet.
            inside = self.__dict__.get("_modules", {}).get(self._inside)
            if inside is None:
                raise
            return getattr(inside, name)
