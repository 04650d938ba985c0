# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What all inferable quantizers share: parameters, and the constructor arguments that stand for them."""

import copy
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.packing import pack_integers


class ConfigurableQuantizer(BaseInferableQuantizer):
    """A quantizer whose state is one value, `params`. A wing supplies `_bind_params` and `params`."""

    num_bits: int
    _params_arguments: ClassVar[tuple[str, ...]] = ()
    """The constructor arguments that `params` determines, each an attribute of it too."""

    def __init__(self, params: Any, **arguments: Any) -> None:
        super().__init__()
        # A copy of plain numbers and lists: what the caller does to his list later is not ours.
        self._arguments = {name: _plain(value) for name, value in arguments.items()}
        self._initial_params = params
        self._bind_params(params)

    def _bind_params(self, params: Any) -> None:
        """Keep `params` as tensors of the framework."""
        raise NotImplementedError

    @property
    def params(self) -> Any:
        """The parameters as the tensors hold them now."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments: `type(q)(**q.get_config())` quantizes as `q` does."""
        config = copy.deepcopy(self._arguments)
        params = self.params
        if params != self._initial_params:
            # Loaded state has replaced what the constructor was given.
            config.update({name: getattr(params, name).tolist() for name in self._params_arguments})
        return config

    def quantize(self, inputs: Any) -> Any:
        """Integer codes of `inputs`: int32, same shape."""
        raise NotImplementedError

    def pack(self, inputs: Any) -> npt.NDArray[np.uint8]:
        """The integer codes of `inputs` as bytes without gaps, as `packing.pack_integers` writes them.

        Returns:
            Bytes, uint8, shape (ceil(size · num_bits / 8),).

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        return pack_integers(_as_array(self.quantize(inputs)), self.num_bits)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The quantizer whose `get_config` was `config`."""
        return cls(**config)

    @classmethod
    def from_params(cls, params: Any) -> Self:
        """The quantizer with the parameters `params`.

        Raises:
            ValueError: this class cannot represent them.
        """
        quantizer = cls(**cls._arguments_from(params))
        if quantizer.params != params:
            raise ValueError(f"{cls.__name__} cannot represent {params}.")
        return quantizer

    @classmethod
    def _arguments_from(cls, params: Any) -> dict[str, Any]:
        return {
            "num_bits": params.num_bits,
            **{name: np.asarray(getattr(params, name)).tolist() for name in cls._params_arguments},
        }


class WeightsQuantizer(ConfigurableQuantizer):
    """Adds the axis of the channels, which only weights have."""

    @property
    def per_channel(self) -> bool:
        """Whether each channel has parameters of its own."""
        return bool(self._arguments["per_channel"])

    @property
    def channel_axis(self) -> int | None:
        """Axis of the channels as given; None per tensor."""
        axis: int | None = self._arguments["channel_axis"]
        return axis

    @classmethod
    def _arguments_from(cls, params: Any) -> dict[str, Any]:
        arguments = super()._arguments_from(params)
        return {**arguments, "per_channel": params.axis is not None, "channel_axis": params.axis}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _as_array(value).tolist()


def _as_array(value: Any) -> npt.NDArray[Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
