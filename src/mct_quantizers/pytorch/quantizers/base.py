# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What the PyTorch quantizers share: modules whose buffers hold the parameters."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mct_quantizers.common import arithmetic
from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from mct_quantizers.common.constants import QUANTIZATION_METHOD
from mct_quantizers.common.grid_state import GridDescription
from mct_quantizers.common.lookup_table import FineGrid, LookupTable
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.quantizers.configurable import ConfigurableQuantizer, WeightsQuantizer
from mct_quantizers.common.quantizers.grid import GridQuantizer
from mct_quantizers.common.quantizers.lut import TableQuantizer
from mct_quantizers.common.validation import check_channels
from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.grid_state import GridStateModule
from mct_quantizers.pytorch.native.memory import is_in_jit_trace
from mct_quantizers.pytorch.onnx_nodes import OnnxNode, PlainTable, onnx_form


class BasePyTorchInferableQuantizer(BaseInferableQuantizer, GridStateModule):
    """Base of the inferable quantizers: a module that maps a float tensor to its quantized values.

    Its state is buffers, which follow the module that carries the quantizer through `.to()`, `state_dict`,
    `copy.deepcopy` and pickle.
    """

    _onnx_form: OnnxNode | PlainTable | None = None
    reuse = False
    enable_reuse = False
    quantizer_first_run = True
    resue_outputs: Tensor | None = None

    def enable_reuse_quantizer(self) -> None:
        """Let a weight quantizer give the result of its next call at every later call, whatever the input.

        For one weight that several layers read; activation quantizers ignore it. Wrappers need no such help: they keep
        the quantized weights of an inference by themselves, and notice changes.
        """
        self.enable_reuse = self.quantizer_first_run = True

    def disable_reuse_quantizer(self) -> None:
        """Quantize every input again."""
        self.enable_reuse = False

    def enable_custom_impl(self) -> None:
        """Let `torch.onnx.export` write one node of the domain `mct_quantizers`; see `onnx_nodes` of this wing.

        The node has the parameters of now, or those of a state that is loaded later; after another change of the
        buffers, call this again. A lookup-table quantizer of activations is written as plain operators, a quantizer of
        a class of your own as the operations of its call.

        Raises:
            ValueError: no node holds the parameters.
        """
        form = onnx_form(self)
        if "_onnx_form" not in self.__dict__:
            self.register_load_state_dict_post_hook(_enable_again)  # type: ignore[no-untyped-call]  # as above
        self._onnx_form = form


class PytorchConfigurableQuantizer(ConfigurableQuantizer, BasePyTorchInferableQuantizer):
    """An inferable quantizer that shows its constructor arguments. A subclass supplies `_quantized`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantized values of `inputs`: same shape and dtype, no gradient.

        Args:
            inputs: floating point; float16 and bfloat16 are computed in float32. Never changed.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: per channel, `inputs` has another number of channels along the axis.
        """
        if self._onnx_form is not None and torch.onnx.is_in_onnx_export():
            return self._onnx_form(inputs)
        if not self.enable_reuse or not isinstance(self, WeightsQuantizer):
            return self._quantized(inputs)
        if self.quantizer_first_run or self.resue_outputs is None:
            self.resue_outputs = self._quantized(inputs)
            self.quantizer_first_run = False
        return self.resue_outputs

    def _quantized(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def _keep_grid(self, params: QuantParams | LookupTable) -> None:
        methods: Any = getattr(type(self), QUANTIZATION_METHOD, None)
        # A class without marks does not say of which kind its grid is.
        if methods:
            self._set_grid(GridDescription.of_params(params, methods[0]))

    def extra_repr(self) -> str:
        """What `print` shows."""
        # A tensor on the meta device has no numbers.
        has_numbers = not any(buffer.is_meta for buffer in self.buffers())
        config = self.get_config() if has_numbers else self._arguments
        return ", ".join(f"{name}={value}" for name, value in config.items())


class PytorchGridQuantizer(GridQuantizer, PytorchConfigurableQuantizer):
    """Binds a quantizer on an integer grid to torch tensors.

    State: buffers `scale` (float32) and `zero_point` (int32) of shape (1,) or (C,).
    """

    scale: Tensor
    zero_point: Tensor

    def _bind_params(self, params: QuantParams) -> None:
        self.axis = params.axis
        # A grid without zero point needs no addition at every call; symmetric grids never have one.
        self._has_zero_point = "threshold" not in self._params_arguments
        self.register_buffer("scale", torch_ops.state_tensor(params.scale, torch.float32))
        self.register_buffer("zero_point", torch_ops.state_tensor(params.zero_point, torch.int32))
        self._keep_grid(params)

    @property
    def params(self) -> QuantParams:
        """The parameters as the buffers hold them now."""
        return QuantParams(
            scale=self.scale.detach().cpu().numpy().astype(np.float64),
            zero_point=self.zero_point.cpu().numpy(),
            num_bits=self.num_bits,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            axis=self.axis,
        )

    def _quantized(self, inputs: Tensor) -> Tensor:
        zero_point = self.zero_point if self._has_zero_point else None
        return _fake_quantize(inputs, self.scale, zero_point, self.quant_min, self.quant_max, self.axis)

    def quantize(self, inputs: Tensor) -> Tensor:
        """Integer codes of `inputs`: int32, same shape.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        codes: Tensor = arithmetic.quantize(inputs.detach(), self.params, torch_ops)
        return codes

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of integer codes: float32, same shape."""
        values: Tensor = arithmetic.dequantize(codes, self.params, torch_ops, like=self.scale)
        return values


class PytorchTableQuantizer(TableQuantizer, PytorchConfigurableQuantizer):
    """Binds a lookup-table quantizer to torch tensors.

    State: buffers `lut_values`, shape (K,), and `threshold`, shape (1,) or (C,), float32. What the binary search needs
    is derived from them and not saved.
    """

    lut_values: Tensor
    threshold: Tensor
    levels: Tensor
    boundaries: Tensor

    def _bind_params(self, params: LookupTable) -> None:
        self._table = params
        self.register_buffer("lut_values", torch_ops.state_tensor(params.lut_values, torch.float32))
        self.register_buffer("threshold", torch_ops.state_tensor(params.threshold, torch.float32))
        for name, array in zip(("levels", "boundaries"), params.assignment(), strict=True):
            self.register_buffer(name, torch_ops.state_tensor(array, torch.float32), persistent=False)
        self._keep_grid(params)

    @property
    def params(self) -> LookupTable:
        """The parameters as the buffers hold them now."""
        values, threshold = (
            buffer.detach().cpu().numpy().astype(np.float64) for buffer in (self.lut_values, self.threshold)
        )
        return dataclasses.replace(self._table, lut_values=values, threshold=threshold)

    def _quantized(self, inputs: Tensor) -> Tensor:
        return _lut_quantize(inputs, self.threshold, self.levels, self.boundaries, self._table.grid)

    def quantize(self, inputs: Tensor) -> Tensor:
        """For each element of `inputs` the position of its level in the table: int32, same shape.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        codes: Tensor = arithmetic.lut_codes(inputs.detach(), self.params, torch_ops)
        return codes

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of positions in the table: float32, same shape."""
        values: Tensor = arithmetic.lut_dequantize(codes, self.params, torch_ops, like=self.threshold)
        return values

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name, array in zip(("levels", "boundaries"), self.params.assignment(), strict=True):
            setattr(self, name, torch.tensor(array, dtype=torch.float32, device=self.lut_values.device))


def _enable_again(quantizer: nn.Module, incompatible_keys: Any) -> None:
    del incompatible_keys
    if isinstance(quantizer, BasePyTorchInferableQuantizer):
        quantizer.enable_custom_impl()


def _check_channels(inputs: Tensor, axis: int | None, num_channels: int) -> None:
    """As `check_channels`; in a trace of `torch.jit`, where sizes are tensors, what ran before has checked them."""
    if not is_in_jit_trace():
        check_channels(inputs.shape, axis, num_channels)


@torch.fx.wrap
def _lut_quantize(inputs: Tensor, threshold: Tensor, levels: Tensor, boundaries: Tensor, grid: FineGrid) -> Tensor:
    """One node of a symbolic trace: the checks need a tensor, not its stand-in."""
    _check_channels(inputs, grid.axis, threshold.numel())
    values = torch_ops.to_compute_dtype(inputs.detach())
    # float64 is computed in float64; for all else this is no copy.
    threshold, levels, boundaries = (tensor.to(values.dtype) for tensor in (threshold, levels, boundaries))
    result: Tensor = arithmetic.lut_quantize_tensor(values, threshold, levels, boundaries, grid, torch_ops)
    return result.to(inputs.dtype)


@torch.fx.wrap
def _fake_quantize(
    inputs: Tensor, scale: Tensor, zero_point: Tensor | None, quant_min: int, quant_max: int, axis: int | None
) -> Tensor:
    """One node of a symbolic trace: the checks need a tensor, not its stand-in."""
    torch_ops.check_floating_point(inputs)
    _check_channels(inputs, axis, scale.numel())
    aligned = arithmetic.broadcast_shape(inputs.dim(), axis)
    zero_point = None if zero_point is None else zero_point.view(aligned)
    return kernels.fake_quantize(inputs, scale.view(aligned), zero_point, quant_min, quant_max)
