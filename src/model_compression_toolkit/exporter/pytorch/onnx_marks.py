# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The marks that stand for, or follow, the quantization of a tensor while torch exports a model."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import onnxscript
import torch
from torch import Tensor, nn

from mct_quantizers.common.base_inferable_quantizer import BaseInferableQuantizer
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.exporter.pytorch.onnx_graph import DOMAIN, MARK
from model_compression_toolkit.exporter.pytorch.own_quantizers import in_inference
from model_compression_toolkit.exporter.pytorch.replay import use_name

__all__ = ["MarkedQuantizer", "marked", "translations"]


@torch.library.custom_op(f"{DOMAIN}::quantization_mark", mutates_args=())
def _mark(x: Tensor, name: str) -> Tensor:
    """Stands in an exported graph for the quantization of the tensor `name` of the plan, which has the grid or table.

    An operator that torch knows nothing of: no exporter folds it or looks into it.
    """
    del name
    return x.clone()


@_mark.register_fake
def _(x: Tensor, name: str) -> Tensor:
    del name
    return torch.empty_like(x)


def marked(x: Tensor, tensor: TensorPlan) -> Tensor:
    """`x`, marked as `tensor`."""
    result: Tensor = _mark(x, tensor.name)
    return result


class MarkedQuantizer(BaseInferableQuantizer, nn.Module):
    """Marks what a quantizer of the user's own makes, which torch exports as the operations of its call.

    Args:
        tensor: the tensor that it quantizes.
        quantizer: the quantizer.
    """

    def __init__(self, tensor: TensorPlan, quantizer: Any) -> None:
        super().__init__()
        self.tensor = tensor
        self.quantizer = quantizer

    def forward(self, inputs: Tensor) -> Tensor:
        """The quantized `inputs`, marked."""
        return marked(in_inference(self.quantizer, inputs), self.tensor)


def translations() -> dict[Any, Callable[..., Any]]:
    """What torch needs to write marks to ONNX, for one export: it numbers the uses of a tensor as they are executed."""
    uses: Counter[str] = Counter()
    schema = onnx.defs.OpSchema
    mark = onnxscript.values.Op(
        onnxscript.values.Opset(DOMAIN, 1),
        MARK,
        schema(
            MARK,
            DOMAIN,
            1,
            inputs=[schema.FormalParameter("x", "tensor(float)")],
            outputs=[schema.FormalParameter("y", "tensor(float)")],
            attributes=[schema.Attribute(key, schema.AttrType.STRING, required=True) for key in ("name", "call")],
        ),
    )

    def translate(x: Any, name: str) -> Any:
        uses[name] += 1
        return mark(x, name=name, call=use_name(name, uses[name]))

    return {torch.ops.mct_quantizers.quantization_mark.default: translate}
