# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A network at W4A4 the way each package documents its quantization-aware training, for `peers.py`.

Each function takes a network in float and a batch of images (N, 3, 32, 32), and imports its package itself: no
environment has them all, and two packages share the names `mct_quantizers` and `model_compression_toolkit`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from networks import empty_module
from torch import Tensor, fx, nn
from torch.nn import functional

NUM_BITS = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network to train, and the widths of its quantizers in bits, one entry for each."""

    network: nn.Module
    weights: list[int]
    activations: list[int]


def project(network: nn.Module, images: Tensor) -> Prepared:
    """This project: LSQ, weights per channel, first and last layer at 8 bits."""
    import model_compression_toolkit as mct

    config = mct.QuantizationConfig.from_bits("w4a4", first_last_bits=8)
    return _of_wrappers(mct.prepare_qat(network, images, config))


def model_compression_toolkit(method: str) -> Callable[[nn.Module, Tensor], Prepared]:
    """model-compression-toolkit with a training method, for a target of 4 bits described here; it folds batch norm."""

    def prepare(network: nn.Module, images: Tensor) -> Prepared:
        # The package imports it, but none of its operators, which a build for CUDA cannot load without CUDA.
        with empty_module("torchvision._meta_registrations"):
            import torchvision  # noqa: F401

        import model_compression_toolkit as mct
        from model_compression_toolkit.trainable_infrastructure import TrainingMethod

        training = TrainingMethod[method]
        quantized, *_ = mct.qat.pytorch_quantization_aware_training_init_experimental(
            network,
            lambda: iter([[images]]),
            qat_config=mct.qat.QATConfig(training, training),
            target_platform_capabilities=_four_bits(),
        )
        return _of_wrappers(quantized)

    return prepare


def brevitas(network: nn.Module, images: Tensor) -> Prepared:
    """Layers of brevitas for those of torch: scales of weights from their largest values, of activations learned."""
    import brevitas.nn as layers

    weights: dict[str, Any] = {"weight_bit_width": NUM_BITS, "weight_scaling_per_output_channel": True}
    # Otherwise the first 300 steps measure percentiles instead of learning.
    learned = {"collect_stats_steps": 1}

    def convolution(old: nn.Conv2d) -> nn.Module:
        size = (old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
        return layers.QuantConv2d(*size, bias=old.bias is not None, **weights)

    def linear(old: nn.Linear) -> nn.Module:
        return layers.QuantLinear(old.in_features, old.out_features, bias=old.bias is not None, **weights)

    traced = _replace(network, convolution, linear, lambda: layers.QuantReLU(bit_width=NUM_BITS, **learned))
    quantized = nn.Sequential(layers.QuantIdentity(bit_width=NUM_BITS, **learned), traced)
    quantized.train()(images)
    bits: dict[str, list[int]] = {"weight_quant": [], "act_quant": []}
    for module in quantized.modules():
        for kind, found in bits.items():
            if getattr(getattr(module, kind, None), "is_quant_enabled", False):
                found.append(int(getattr(module, kind).bit_width()))
    return Prepared(quantized, bits["weight_quant"], bits["act_quant"])


def nncf(network: nn.Module, images: Tensor) -> Prepared:
    """`nncf.quantize`; of its targets the NPU has 4 bits, but none for the pooling, which is left out."""
    import nncf as package
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    quantized: nn.Module = package.quantize(
        network,
        package.Dataset([images]),
        subset_size=1,
        target_device=package.TargetDevice.NPU,
        ignored_scope=package.IgnoredScope(types=["adaptive_avg_pool2d"]),
        advanced_parameters=AdvancedQuantizationParameters(
            activations_quantization_params=QuantizationParameters(num_bits=NUM_BITS),
            weights_quantization_params=QuantizationParameters(num_bits=NUM_BITS, per_channel=True),
        ),
    )
    bits: dict[bool, list[int]] = {True: [], False: []}
    for module in quantized.modules():
        if type(module).__name__ in {"SymmetricQuantizer", "AsymmetricQuantizer"}:
            bits[bool(module.per_channel)].append(int(module.num_bits))
    return Prepared(quantized, bits[True], bits[False])


def torchao(network: nn.Module, images: Tensor) -> Prepared:
    """`torchao.quantization.qat` on the one linear layer; it refuses convolutions."""
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    weights = IntxFakeQuantizeConfig(torch.int4, "per_channel")
    activations = IntxFakeQuantizeConfig(torch.int4, "per_token", is_symmetric=False)
    quantize_(network, QATConfig(activation_config=activations, weight_config=weights, step="prepare"))
    names = [name for name, _ in network.named_modules()]
    counts = (sum(name.endswith(f"{kind}_fake_quantizer") for name in names) for kind in ("weight", "activation"))
    return Prepared(network, *([NUM_BITS] * count for count in counts))


class EagerLSQ(nn.Module):
    """The formula of LSQ through autograd (Esser et al. 2020, arXiv:1902.08153), with one scale per entry of `start`.

    Differs: activations start at a given scale, not at that of their first batch, which a step's time does not see.
    """

    def __init__(self, start: Tensor, quant_min: int, quant_max: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(start)
        self.quant_min, self.quant_max = quant_min, quant_max

    def forward(self, x: Tensor) -> Tensor:
        """`x` quantized and dequantized."""
        factor = (x.numel() / self.scale.numel() * self.quant_max) ** -0.5
        scale = (self.scale - self.scale * factor).detach() + self.scale * factor
        clipped = (x / scale).clamp(self.quant_min, self.quant_max)
        return (clipped.round() - clipped).detach() * scale + clipped * scale


class EagerLayer(nn.Module):
    """A convolution or a linear layer with quantized weights, one scale for each output channel."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        quant_max = 2 ** (NUM_BITS - 1) - 1
        weight = layer.weight.detach()
        mean = weight.abs().mean(tuple(range(1, weight.ndim)), keepdim=True)
        self.quantizer = EagerLSQ(2 * mean / quant_max**0.5, -quant_max - 1, quant_max)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the layer."""
        return torch.func.functional_call(self.layer, {"weight": self.quantizer(self.layer.weight)}, (x,))


def eager_lsq(network: nn.Module, images: Tensor) -> Prepared:
    """The formula in plain torch: weights per channel and the output of every ReLU."""

    def relu() -> nn.Module:
        return nn.Sequential(nn.ReLU(), EagerLSQ(torch.tensor(0.25), 0, 2**NUM_BITS - 1))

    quantized = _replace(network, EagerLayer, EagerLayer, relu)
    weights = sum(isinstance(module, EagerLayer) for module in quantized.modules())
    every = sum(isinstance(module, EagerLSQ) for module in quantized.modules())
    return Prepared(quantized, [NUM_BITS] * weights, [NUM_BITS] * (every - weights))


def _replace(
    network: nn.Module,
    convolution: Callable[[nn.Conv2d], nn.Module],
    linear: Callable[[nn.Linear], nn.Module],
    relu: Callable[[], nn.Module],
) -> nn.Module:
    """The traced network with another module for each convolution, linear layer and call of `relu`."""
    traced = fx.symbolic_trace(network)
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            old = traced.get_submodule(node.target)
            if isinstance(old, nn.Conv2d):
                traced.set_submodule(node.target, convolution(old))
            elif isinstance(old, nn.Linear):
                traced.set_submodule(node.target, linear(old))
        elif node.target is functional.relu:
            traced.add_submodule(f"{node.name}_quantized", relu())
            with traced.graph.inserting_after(node):
                node.replace_all_uses_with(traced.graph.call_module(f"{node.name}_quantized", (node.args[0],)))
            traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _of_wrappers(network: nn.Module) -> Prepared:
    """Widths in the wrappers and holders that both packages named `mct_quantizers` have."""
    weights, activations = [], []
    for module in network.modules():
        weights += [quantizer.num_bits for quantizer in getattr(module, "weights_quantizers", {}).values()]
        if hasattr(module, "activation_holder_quantizer"):
            activations.append(module.activation_holder_quantizer.num_bits)
    return Prepared(network, weights, activations)


def _four_bits() -> Any:
    """A target for model-compression-toolkit: every kernel and output, none between convolution and ReLU."""
    from model_compression_toolkit.target_platform_capabilities.schema import mct_current_schema as schema

    from mct_quantizers import QuantizationMethod
    from model_compression_toolkit.target_platform_capabilities import constants

    plain = schema.AttributeQuantizationConfig()
    kernel = schema.AttributeQuantizationConfig(
        weights_quantization_method=QuantizationMethod.SYMMETRIC,
        weights_n_bits=NUM_BITS,
        weights_per_channel_threshold=True,
        enable_weights_quantization=True,
    )
    other = schema.OpQuantizationConfig(
        default_weight_attr_config=plain,
        attr_weights_configs_mapping={},
        activation_quantization_method=QuantizationMethod.UNIFORM,
        activation_n_bits=NUM_BITS,
        supported_input_activation_n_bits=NUM_BITS,
        enable_activation_quantization=True,
        quantization_preserving=False,
        signedness=schema.Signedness.AUTO,
    )
    attributes = {constants.KERNEL_ATTR: kernel, constants.BIAS_ATTR: plain}
    layer = other.clone_and_edit(attr_weights_configs_mapping=attributes)
    with_weights, without = (
        schema.QuantizationConfigOptions(quantization_configurations=(config,)) for config in (layer, other)
    )
    names = schema.OperatorSetNames
    convolution = schema.OperatorsSet(name=names.CONV, qc_options=with_weights)
    linear = schema.OperatorsSet(name=names.FULLY_CONNECTED, qc_options=with_weights)
    add, relu = schema.OperatorsSet(name=names.ADD), schema.OperatorsSet(name=names.RELU)
    fused = ((convolution, relu), (convolution, add, relu))
    return schema.TargetPlatformCapabilities(
        default_qco=without,
        operator_set=(convolution, linear, add, relu),
        fusing_patterns=tuple(schema.Fusing(operator_groups=operators) for operators in fused),
        add_metadata=False,
    )
