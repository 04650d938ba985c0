# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The protocol of the namespace of tensor functions that NumPy and every framework supply under the same names."""

from collections.abc import Sequence
from typing import Any, Protocol

Tensor = Any
"""A tensor of the namespace's framework."""


class Ops(Protocol):
    """Tensor functions over which every formula is written. All are elementwise unless they say otherwise."""

    def to_compute_dtype(self, x: Tensor) -> Tensor:
        """float16 and bfloat16 become float32; float32 and float64 stay.

        Raises:
            TypeError: `x` does not hold floating-point numbers.
        """

    def cast_like(self, x: Tensor, like: Tensor) -> Tensor:
        """`x` in the dtype of `like`."""

    def to_integer(self, x: Tensor) -> Tensor:
        """Integral floats as int32.

        Raises:
            ValueError: `x` contains NaN, which no integer stands for.
        """

    def constant(self, value: Any, like: Tensor) -> Tensor:
        """NumPy array or number as a tensor on the device of `like`, float32 (float64 if `like` is float64)."""

    def shape(self, x: Tensor) -> Sequence[int]:
        """Lengths of the axes."""

    def size(self, x: Tensor) -> Any:
        """Number of elements; a number, or a scalar tensor where it is not known yet."""

    def sample_size(self, x: Tensor) -> Any:
        """Number of elements of one sample, axis 0 counting the samples; as for `size`."""

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """`x` in another shape of the same size."""

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """`x / y` by the rule of IEEE 754, without warnings; never `x * (1 / y)`."""

    def round(self, x: Tensor) -> Tensor:
        """Nearest integer, ties to even."""

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        """`x` limited to `low … high`; NaN stays NaN."""

    def where(self, condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
        """`x` where the condition holds, else `y`."""

    def absolute(self, x: Tensor) -> Tensor:
        """`|x|`."""

    def maximum(self, x: Tensor, low: float) -> Tensor:
        """`x`, at least `low`."""

    def frexp(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mantissa in [0.5, 1) and exponent of two."""

    def search_sorted(self, boundaries: Tensor, x: Tensor) -> Tensor:
        """Number of `boundaries`, rising, shape (K,), that are at most each element of `x`: int32 or int64."""

    def take(self, values: Tensor, indices: Tensor) -> Tensor:
        """Elements of `values`, shape (K,), at `indices`."""

    def floor(self, x: Tensor) -> Tensor:
        """Largest integer that is at most `x`."""

    def exp(self, x: Tensor) -> Tensor:
        """`e**x`."""

    def log(self, x: Tensor) -> Tensor:
        """Natural logarithm."""

    def tanh(self, x: Tensor) -> Tensor:
        """Hyperbolic tangent."""

    def sort(self, x: Tensor) -> Tensor:
        """A vector, shape (K,), in rising order; the gradient follows the elements."""

    def total(self, x: Tensor) -> Tensor:
        """Sum of all elements, shape ()."""

    def largest(self, x: Tensor, axis: int | None) -> Tensor:
        """Largest element for each position along `axis`, or of all: the other axes have length 1."""

    def scale_gradient_by_error(self, x: Tensor, error: Tensor, factor: float) -> Tensor:
        """`x`; its gradient g becomes `g + factor · |g| · error`, none goes to `error`.

        The element-wise gradient scaling of Lee et al. 2021 (arXiv:2104.00903), equation 4: the one gradient that is
        not linear in what arrives, so that no expression of the other functions has it.
        """

    def stop_gradient(self, x: Tensor) -> Tensor:
        """`x` as a constant for differentiation."""

    def fake_quantize_learned(
        self,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        quant_min: int,
        quant_max: int,
        gradient_factor: Any,
    ) -> Tensor:
        """`arithmetic.fake_quantize_learned`, or a fused kernel that equals it; the factor is a number or a scalar."""
