# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the Keras quantizers share: immutable parameters, which Keras saves as configuration."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import numpy as np
import numpy.typing as npt

from mct_quantizers.common import arithmetic
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.quantizers.configurable import ConfigurableQuantizer
from mct_quantizers.common.quantizers.grid import GridQuantizer
from mct_quantizers.common.quantizers.lut import TableQuantizer
from mct_quantizers.common.registry import latest_subclasses
from mct_quantizers.common.validation import check_channels
from mct_quantizers.keras import kernels
from mct_quantizers.keras import ops as keras_ops

Tensor = Any
PACKAGE = "mct_quantizers"
"""The package under which Keras registers our classes, so that saved models find them."""


def deserialized(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What Keras serialized; quantizer classes of the user's own are found by their names.

    Registered classes and those of a scope around the call come first. The names here are given as an argument: a scope
    inside of another one would hide it.
    """
    objects = {**quantizer_classes(), **(custom_objects or {})}
    return keras.saving.deserialize_keras_object(config, custom_objects=objects)


def quantizer_classes() -> dict[str, type]:
    """All classes of inferable quantizers by their names."""
    return {cls.__name__: cls for cls in latest_subclasses(BaseKerasInferableQuantizer)}


class BaseKerasInferableQuantizer(BaseInferableQuantizer):
    """Base of the inferable quantizers: a callable that maps a float tensor to its quantized values.

    It has no variables: its configuration is its state, and goes into a `.keras` file with the layer that carries it.
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Quantized values of `inputs`.

        Raises:
            NotImplementedError: the class does not say how.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments.

        Raises:
            NotImplementedError: the class does not say which.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `get_config`, or it cannot be saved.")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The quantizer whose `get_config` was `config`."""
        return cls(**config)


class KerasConfigurableQuantizer(ConfigurableQuantizer, BaseKerasInferableQuantizer):
    """An inferable quantizer that shows its constructor arguments. A subclass supplies `_quantized`."""

    _params: Any
    _state: ClassVar[tuple[str, ...]] = ()
    """Attributes of `params` that are attributes of the quantizer too, as float32 or int32 arrays."""

    def _bind_params(self, params: Any) -> None:
        self._params = params
        for name in self._state:
            value = getattr(params, name)
            array = value.astype(np.float32 if np.issubdtype(value.dtype, np.floating) else np.int32)
            array.setflags(write=False)
            setattr(self, name, array)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Quantized values of `inputs`: same shape and dtype, no gradient.

        Args:
            inputs: floating point; float16 and bfloat16 are computed in float32.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: per channel, `inputs` has another number of channels along the axis.
        """
        return self._quantized(keras_ops.as_tensor(inputs))

    def _quantized(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and pickles lose that arrays are read-only: they are made once more."""
        self.__dict__.update(state)
        self._bind_params(self._params)

    @property
    def params(self) -> Any:
        """The parameters."""
        return self._params

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class KerasGridQuantizer(GridQuantizer, KerasConfigurableQuantizer):
    """Binds a quantizer on an integer grid to Keras tensors.

    State: `scale` (float32) and `zero_point` (int32), read-only arrays of shape (1,) or (C,).
    """

    _state: ClassVar[tuple[str, ...]] = ("scale", "zero_point")
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    params: QuantParams

    def _bind_params(self, params: QuantParams) -> None:
        super()._bind_params(params)
        self.axis = params.axis
        # A grid without zero point needs no addition; symmetric grids never have one.
        self._has_zero_point = "threshold" not in self._params_arguments

    def _quantized(self, inputs: Tensor) -> Tensor:
        check_channels(inputs.shape, self.axis, self.scale.size)
        aligned = arithmetic.broadcast_shape(len(inputs.shape), self.axis)
        zero_point = self.zero_point.reshape(aligned) if self._has_zero_point else None
        return kernels.fake_quantize(inputs, self.scale.reshape(aligned), zero_point, self.quant_min, self.quant_max)

    def quantize(self, inputs: Tensor) -> Tensor:
        """Integer codes of `inputs`: int32, same shape. Not inside a compiled function.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        return arithmetic.quantize(keras_ops.as_tensor(inputs), self.params, keras_ops)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of integer codes: float32, same shape."""
        return arithmetic.dequantize(keras.ops.convert_to_tensor(codes), self.params, keras_ops, like=_float32())


class KerasTableQuantizer(TableQuantizer, KerasConfigurableQuantizer):
    """Binds a lookup-table quantizer to Keras tensors.

    State: `lut_values`, shape (K,), and `threshold`, shape (1,) or (C,), read-only float32 arrays.
    """

    _state: ClassVar[tuple[str, ...]] = ("lut_values", "threshold")
    lut_values: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    params: LookupTable

    def _bind_params(self, params: LookupTable) -> None:
        super()._bind_params(params)
        self._assignment = kernels.assignment_of(params)

    def _quantized(self, inputs: Tensor) -> Tensor:
        grid = self.params.grid
        check_channels(inputs.shape, grid.axis, self.threshold.size)
        threshold = self.threshold.reshape(arithmetic.broadcast_shape(len(inputs.shape), grid.axis))
        return kernels.lut_quantize(inputs, threshold, self._assignment, grid)

    def quantize(self, inputs: Tensor) -> Tensor:
        """For each element of `inputs` the position of its level in the table: int32, same shape.

        Not inside a compiled function.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        return arithmetic.lut_codes(keras_ops.as_tensor(inputs), self.params, keras_ops)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of positions in the table: float32, same shape."""
        return arithmetic.lut_dequantize(keras.ops.convert_to_tensor(codes), self.params, keras_ops, like=_float32())


def _float32() -> Tensor:
    return keras.ops.convert_to_tensor(np.zeros(1, np.float32))
