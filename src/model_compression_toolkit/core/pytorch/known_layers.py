# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers of other packages, told by their names: nothing of these packages is imported."""

from torch import fx, nn

# Module and name of the class, and the axis of the output channels of its weight, a matrix.
_LINEAR_LAYERS: dict[tuple[str, str], int] = {
    # Of GPT and GPT-2: (inputs, outputs).
    ("transformers.pytorch_utils", "Conv1D"): 1,
    ("transformers.modeling_utils", "Conv1D"): 1,
    # Of parallel and fused implementations: (outputs, inputs), as `nn.Linear`.
    ("fairscale.nn.model_parallel.layers", "ColumnParallelLinear"): 0,
    ("fairscale.nn.model_parallel.layers", "RowParallelLinear"): 0,
    ("apex.fused_dense.fused_dense", "FusedDense"): 0,
}


def known_weight_axis(module: nn.Module) -> int | None:
    """Axis of the output channels of `module.weight`; None for a layer that is none of these, or has another shape.

    Args:
        module: any layer.
    """
    names = [(cls.__module__, cls.__name__) for cls in type(module).__mro__]
    axis = next((_LINEAR_LAYERS[name] for name in names if name in _LINEAR_LAYERS), None)
    # Not by attribute: while a model is traced, its attributes are symbols.
    parameters = dict(module.named_parameters(recurse=False))
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if axis is None or weight is None or weight.dim() != 2:
        return None
    has_outputs = bias is None or tuple(bias.shape) == (weight.shape[axis],)
    return axis if has_outputs else None


class LayerTracer(fx.Tracer):
    """`fx.Tracer` that does not look into these layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """See `fx.Tracer`."""
        return known_weight_axis(m) is not None or super().is_leaf_module(m, module_qualified_name)
