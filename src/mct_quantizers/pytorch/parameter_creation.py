# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the interface's quantizers may ask of the layer that carries them."""

import torch
from torch import nn


class CreatesParameters(nn.Module):
    """A module whose `register_parameter` can make the parameter, too."""

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
            param = nn.Parameter(torch.ones(1), requires_grad=requires_grad)
        super().register_parameter(name, param)
