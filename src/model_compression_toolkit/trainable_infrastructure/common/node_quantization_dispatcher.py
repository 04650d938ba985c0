# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The quantizers of a layer as the oldest form of the interface hands them to a wrapper."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NodeQuantizationDispatcher"]


class NodeQuantizationDispatcher(dict[Any, Any]):
    """The weight quantizers of a layer by attribute name; a wrapper takes it in the place of a dictionary.

    Args:
        weight_quantizers: quantizer of each weight.
        activation_quantizers: must be empty: activations have holders of their own.

    Raises:
        ValueError: activation quantizers are given.
    """

    def __init__(
        self, weight_quantizers: Mapping[str, Any] | None = None, activation_quantizers: Sequence[Any] | None = None
    ) -> None:
        if activation_quantizers:
            raise ValueError(
                "`activation_quantizers` must be empty: put each into an activation holder behind the layer. "
                f"Received: {activation_quantizers!r}"
            )
        super().__init__(weight_quantizers or {})

    @property
    def weight_quantizers(self) -> dict[Any, Any]:
        """Quantizer of each weight."""
        return self
