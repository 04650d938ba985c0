# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the interface's quantizers may ask of the layer that carries them."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from mct_quantizers.pytorch.ops import state_tensor


class CreatesParameters(nn.Module):
    """A module whose `register_parameter` can make the parameter, too, and which forgets those of former quantizers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._creator_of: dict[str, Hashable] = {}
        """Which quantizer registered a tensor here."""

    def _initialize(self, key: Hashable, quantizer: Any, tensor_shape: Sequence[int] | None, name: str) -> None:
        """Let the quantizer `key` create what it needs; what a former one of that key created goes."""
        before = self._own_tensors()
        quantizer.initialize_quantization(tensor_shape, name, self)
        created = {own for own, tensor in self._own_tensors().items() if before.get(own) is not tensor}
        for own in [own for own, creator in self._creator_of.items() if creator == key and own not in created]:
            delattr(self, own)
            del self._creator_of[own]
        self._creator_of.update(dict.fromkeys(created, key))

    def _own_tensors(self) -> dict[str, Tensor | None]:
        return {**self._parameters, **self._buffers}

    def register_parameter(
        self, name: str, param: nn.Parameter | None = None, requires_grad: bool | None = None
    ) -> None:
        """Add a parameter, as every module does; with `requires_grad` given and no parameter, one is made.

        Args:
            name: its name.
            param: the parameter.
            requires_grad: whether the parameter that is made, a one of shape (1,), gets a gradient.

        Raises:
            TypeError: `param` is given together with `requires_grad`.
        """
        if requires_grad is not None:
            if param is not None:
                raise TypeError(
                    "`requires_grad` makes a parameter; give it without `param`, which has its own. "
                    f"Received: both, for {name!r}"
                )
            param = nn.Parameter(state_tensor(np.ones(1, np.float32)), requires_grad=requires_grad)
        super().register_parameter(name, param)
