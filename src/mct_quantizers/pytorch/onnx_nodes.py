# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""How `torch.onnx.export` writes a quantizer after its `enable_custom_impl()`: as one node of `onnx_ops.OPERATORS`.

    for module in model.modules():
        if isinstance(module, BasePyTorchInferableQuantizer):
            module.enable_custom_impl()
    torch.onnx.export(model, (x,), "model.onnx")
    session = onnxruntime.InferenceSession("model.onnx", get_ort_session_options())

Both exporters of torch do: the default one, through `torch.onnx.ops.symbolic` (torch 2.8), and the one of TorchScript
(`dynamo=False`), through `symbolic` of an autograd function. Parameters that are inputs are `Constant` nodes; the
default exporter's optimizer turns them into initializers (`optimize=False` keeps the nodes). A program that was
captured before, by `torch.export.export` or `torch.fx`, has the plain operations.
"""

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from mct_quantizers.common.constants import MCTQ_VERSION
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_params import FloatArray, QuantParams, from_range
from mct_quantizers.common.quantizers.lut import ActivationLutPOT, WeightsLUTPOT, WeightsLUTSymmetric
from mct_quantizers.common.quantizers.symmetric import ActivationPOT, ActivationSymmetric, WeightsPOT, WeightsSymmetric
from mct_quantizers.common.quantizers.uniform import ActivationUniform, WeightsUniform
from mct_quantizers.common.validation import check_channels
from mct_quantizers.pytorch import ops as torch_ops
from mct_quantizers.pytorch.native.memory import is_in_jit_trace
from mct_quantizers.pytorch.onnx_ops import DOMAIN, OPERATORS, OPSET, operator_parameters, quantized, version_attribute

__all__ = ["OnnxNode", "PlainTable", "onnx_form"]

_OPERATOR_OF: dict[type, str] = {
    # A subclass stands before its base.
    ActivationPOT: "ActivationPOTQuantizer",
    ActivationSymmetric: "ActivationSymmetricQuantizer",
    ActivationUniform: "ActivationUniformQuantizer",
    WeightsPOT: "WeightsPOTQuantizer",
    WeightsSymmetric: "WeightsSymmetricQuantizer",
    WeightsUniform: "WeightsUniformQuantizer",
    WeightsLUTPOT: "WeightsLUTPOTQuantizer",
    WeightsLUTSymmetric: "WeightsLUTSymmetricQuantizer",
}


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """A quantizer as a node of the domain `mct_quantizers`.

    Attributes:
        op_type: name of the operator.
        params: what it computes.
        constants: the inputs that follow the tensor.
        attributes: those that do not depend on the tensor.
    """

    op_type: str
    params: QuantParams | LookupTable
    constants: tuple[tuple[float, ...], ...]
    attributes: dict[str, int | float | str]

    def __call__(self, inputs: Tensor) -> Tensor:
        """The output of the node: shape and dtype of `inputs`.

        Args:
            inputs: float32, float16 or bfloat16.

        Raises:
            TypeError: `inputs` has another dtype.
            ValueError: per channel, `inputs` has another number of channels along the axis.
        """
        if inputs.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(
                f"The ONNX operator {self.op_type} takes float32, float16 or bfloat16. Received: dtype {inputs.dtype}"
            )
        params = self.params
        count = params.scale.size if isinstance(params, QuantParams) else params.threshold.size
        check_channels(inputs.shape, params.axis, count)
        single = inputs if inputs.dtype == torch.float32 else inputs.float()
        result = self._traced(single) if is_in_jit_trace() else self._symbolic(single)
        return result if inputs.dtype == torch.float32 else result.to(inputs.dtype)

    def attributes_for(self, rank: int) -> dict[str, int | float | str]:
        """All attributes for a tensor of `rank`."""
        attributes = dict(self.attributes)
        if self.params.axis is not None:
            attributes["channel_axis"] = self.params.axis % rank
            if "input_rank" in attributes:
                attributes["input_rank"] = rank
        return attributes

    def _symbolic(self, inputs: Tensor) -> Tensor:
        """For the default exporter."""
        symbolic: Any = torch.onnx.ops.symbolic
        constants = [
            symbolic("Constant", (), {"value_floats": values}, dtype=torch.float32, shape=(len(values),))
            for values in self.constants
        ]
        output = symbolic(
            f"{DOMAIN}::{self.op_type}",
            (inputs, *constants),
            self.attributes_for(inputs.dim()),
            dtype=torch.float32,
            shape=inputs.shape,
            version=OPSET,
        )
        # torch puts the result of a symbolic operator on the CPU.
        result: Tensor = output if output.device == inputs.device else output.to(inputs.device)
        return result

    def _traced(self, inputs: Tensor) -> Tensor:
        """For the exporter of TorchScript."""
        apply: Any = _TorchScriptNode.apply
        output: Tensor = apply(inputs, self, self.attributes_for(inputs.dim()))
        return output


@dataclass(frozen=True, slots=True)
class PlainTable:
    """A lookup table as operators of standard ONNX, which has no binary search: compares with every boundary.

    Attributes:
        table: the table.
    """

    table: LookupTable

    def __call__(self, inputs: Tensor) -> Tensor:
        """Quantized values of `inputs`: its shape and dtype, NaN kept."""
        result: Tensor = quantized(inputs.detach(), self.table, _STANDARD_OPS)
        return result


def onnx_form(quantizer: object) -> OnnxNode | PlainTable | None:
    """What `torch.onnx.export` writes for a quantizer with its parameters of now; None: the operations of its call.

    Raises:
        ValueError: no node holds its parameters.
    """
    if isinstance(quantizer, ActivationLutPOT):
        return PlainTable(quantizer.params)
    op_type = next((name for cls, name in _OPERATOR_OF.items() if isinstance(quantizer, cls)), None)
    if op_type is None:
        return None
    with np.errstate(over="ignore"):  # infinity is refused with the parameters
        node = _node(op_type, quantizer)
        values = tuple(np.asarray(value, np.float32).tobytes() for value in node.constants)
    restored = operator_parameters(op_type, values, tuple(sorted(node.attributes.items())))
    if restored != node.params:
        raise ValueError(f"The ONNX operator {op_type} cannot hold these parameters. Received: {node.params}")
    return node


def _node(op_type: str, quantizer: Any) -> OnnxNode:
    params, operator = quantizer.params, OPERATORS[op_type]
    if isinstance(params, LookupTable):
        # As the float attribute holds it, and as float32 arithmetic adds it.
        params = dataclasses.replace(params, eps=float(np.float32(params.eps)))
    values: dict[str, Any] = {name: getattr(params, name) for name in ("threshold", "eps") if hasattr(params, name)}
    if "min_range" in (*operator.inputs, *operator.floats):
        values["min_range"], values["max_range"] = _float32_range(params)
    if isinstance(params, LookupTable):
        values |= {"lut_values": params.lut_values, "lut_values_bitwidth": params.lut_values_bitwidth}
        values["input_rank"] = 4 if (rank := quantizer.get_config().get("input_rank")) is None else rank
    if "channel_axis" in operator.integers:
        axis = quantizer.channel_axis
        values |= {"per_channel": int(quantizer.per_channel), "channel_axis": 0 if axis is None else axis}
    # The operator writes weights as signed also where the range says what they are.
    signed = True if op_type == "WeightsUniformQuantizer" else params.signed
    values |= {"num_bits": params.num_bits, "signed": int(signed)}
    floats = {name: float(np.float32(np.asarray(values[name]).item())) for name in operator.floats}
    return OnnxNode(
        op_type,
        params,
        tuple(tuple(np.asarray(values[name]).tolist()) for name in operator.inputs),
        {
            **floats,
            **{name: values[name] for name in operator.integers},
            MCTQ_VERSION: version_attribute(floats.values()),
        },
    )


def _float32_range(params: QuantParams) -> tuple[FloatArray, FloatArray]:
    """Ends of the range as float32 numbers from which `from_range` gives `params` again.

    Rounding both ends changes one scale of thirty. Where it does, the end further from zero is rounded towards zero and
    the other one takes up the difference, for which it has finer steps.
    """
    low, high = (end.astype(np.float32).astype(np.float64) for end in (params.min_range, params.max_range))
    differs = from_range(low, high, params.num_bits, axis=params.axis).scale != params.scale
    width = params.scale * (params.quant_max - params.quant_min)
    upwards = params.max_range >= -params.min_range
    far = np.where(upwards, params.max_range, -params.min_range)
    single = far.astype(np.float32)
    single = np.where(single > far, np.nextafter(single, np.float32(0)), single)
    near = (width - single).astype(np.float32)
    low = np.where(differs, np.where(upwards, -near, -single), low)
    high = np.where(differs, np.where(upwards, single, near), high)
    return low + 0.0, high + 0.0


class _TorchScriptNode(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, node: OnnxNode, attributes: dict[str, int | float | str]) -> Tensor:
        del ctx, attributes
        # Not the quantizer's own call: its buffers are values of the trace, which a function must be given.
        result: Tensor = quantized(inputs.detach(), node.params, torch_ops)
        return result

    @staticmethod
    def symbolic(g: Any, inputs: Any, node: OnnxNode, attributes: dict[str, int | float | str]) -> Any:
        constants = [
            g.op("Constant", value_t=torch.tensor(values, dtype=torch.float32, device="cpu"))
            for values in node.constants
        ]
        kinds = {int: "i", float: "f", str: "s"}
        typed = {f"{name}_{kinds[type(value)]}": value for name, value in attributes.items()}
        return g.op(f"{DOMAIN}::{node.op_type}", inputs, *constants, **typed).setType(inputs.type())


def _count_boundaries(boundaries: Tensor, x: Tensor) -> Tensor:
    """How many boundaries each number has reached; NaN passes all of them, as in a binary search."""
    return torch.logical_not(x.unsqueeze(-1) < boundaries).sum(-1)


_STANDARD_OPS: Any = SimpleNamespace(**vars(torch_ops) | {"search_sorted": _count_boundaries})
