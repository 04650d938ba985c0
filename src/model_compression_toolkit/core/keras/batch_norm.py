# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Batch norm: folded exactly into the layer before it, or trained along and folded at the end."""

from typing import Any

import keras
import numpy as np
from keras import layers

from mct_quantizers.common.quant_params import FloatArray
from mct_quantizers.keras.ops import as_tensor
from model_compression_toolkit.core.common.operation import Kind
from model_compression_toolkit.core.keras.graph import Graph
from model_compression_toolkit.core.keras.layer_state import copy_weights
from model_compression_toolkit.core.keras.operators import (
    has_activation,
    kind_of,
    weight_axes,
    weight_of,
    weight_problem,
)
from model_compression_toolkit.core.keras.package import PACKAGE

Layer = Any
"""A Keras layer with a kernel, and a bias or None."""

_OF_MAGNITUDES = (
    keras.constraints.MaxNorm,
    keras.constraints.MinMaxNorm,
    keras.constraints.UnitNorm,
    keras.regularizers.L1,
    keras.regularizers.L2,
    keras.regularizers.L1L2,
    keras.regularizers.OrthogonalRegularizer,
)
"""Constraints and regularizers that do the same to a channel and to its negative."""
_FROZEN = "freeze_statistics"
"""Name of the flag among the variables in a file."""


@keras.saving.register_keras_serializable(PACKAGE)
class LiveBatchNormalization(layers.BatchNormalization):
    """A batch norm in quantization-aware training. Its statistics can be frozen.

    One that will be folded counts by the magnitude of its factors, so that folding never flips the sign of a weight's
    integers; preparing a model makes all factors positive first, without changing what it computes.

    Args:
        folds: whether it will be folded when training ends.
        freeze_statistics: whether training uses and keeps the moving statistics.
        **kwargs: arguments of `keras.layers.BatchNormalization`.
    """

    def __init__(self, folds: bool = True, freeze_statistics: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folds, self.freeze_statistics = folds, freeze_statistics

    def build(self, input_shape: Any) -> None:
        """Make the variables; TensorFlow's checkpoints hold whether the statistics are frozen, too."""
        super().build(input_shape)
        if keras.backend.backend() == "tensorflow":
            from mct_quantizers.keras.tensorflow_checkpoint import CheckpointedRecord

            self.frozen_record = CheckpointedRecord(
                lambda: str(int(self.freeze_statistics)).encode(), lambda text: self._set_frozen(int(text))
            )

    def save_own_variables(self, store: Any) -> None:
        """Keras calls it when it writes weights: whether the statistics are frozen is state."""
        super().save_own_variables(store)
        store[_FROZEN] = np.asarray([self.freeze_statistics], np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Keras calls it when it reads weights; files of former releases leave the flag as it is."""
        found = {name: store[name] for name in store.keys()}  # Keras's store is no mapping
        frozen = found.pop(_FROZEN, None)
        super().load_own_variables(found)
        if frozen is not None:
            self._set_frozen(np.asarray(frozen).item())

    def _set_frozen(self, frozen: Any) -> None:
        self.freeze_statistics = bool(frozen)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The normalized `inputs`; arguments as of `keras.layers.BatchNormalization`."""
        training = training and not self.freeze_statistics
        gamma = self.gamma
        if gamma is None or not self.folds:
            return super().call(inputs, training=training, mask=mask)
        value = as_tensor(gamma)
        # Past Keras, which would keep a list of what it sees. Not `abs`: its gradient is zero at zero, and a factor
        # could never leave it.
        object.__setattr__(self, "gamma", keras.ops.where(value >= 0, value, -value))
        try:
            return super().call(inputs, training=training, mask=mask)
        finally:
            object.__setattr__(self, "gamma", gamma)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "folds": self.folds, "freeze_statistics": self.freeze_statistics}

    def plain(self) -> layers.BatchNormalization:
        """A batch norm with the same weights, as it was before training."""
        config = self.get_config()
        for name in ("folds", "freeze_statistics"):
            del config[name]
        norm = layers.BatchNormalization.from_config(config)
        norm.build_from_config(self.get_build_config())
        norm.set_weights(self.get_weights())
        return norm


def live_batch_norm(norm: layers.BatchNormalization, folds: bool) -> LiveBatchNormalization:
    """A batch norm for training with the same weights."""
    live: LiveBatchNormalization = LiveBatchNormalization.from_config({**norm.get_config(), "folds": folds})
    live.build_from_config(norm.get_build_config())
    live.set_weights(norm.get_weights())
    return live


def freeze_batch_norm_statistics(model: keras.Model) -> None:
    """From now on, training uses and keeps the moving statistics of every batch norm; factors still train.

    Freezing towards the end of training lets the weights settle on the statistics that will be folded
    (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2). A model that is compiled must be compiled again, with its
    optimizer: `model.compile(model.optimizer, ...)`. The flag is saved and loaded with the weights; it too asks a model
    that is compiled already to be compiled again.

    Args:
        model: a model that `prepare_qat` returned.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, LiveBatchNormalization):
            layer.freeze_statistics = True


def foldable_batch_norms(graph: Graph) -> dict[str, str]:
    """The layer into which each batch norm can be folded, by the path of the batch norm."""
    pairs: dict[str, str] = {}
    paths = [call.path for call in graph.calls]
    outputs = keras.tree.flatten(graph.outputs)
    for call in graph.calls:
        # A subclass may compute anything; with a mask, a second input, the statistics are those of a part.
        if type(call.operation) is not layers.BatchNormalization or len(call.inputs) != 1:
            continue
        (value,) = call.inputs
        source = value.call
        if (
            source is not None
            and kind_of(source) is Kind.WEIGHTED
            and not isinstance(source.operation, (layers.Embedding, layers.EinsumDense))
            and not weight_problem(source.operation)
            and not has_activation(source.operation)
            and len(graph.users(value)) == 1
            and value not in outputs
            and paths.count(call.path) == paths.count(source.path) == 1
            and _channel_axis(source.operation, len(value.shape)) == call.operation.axis % len(value.shape)
        ):
            pairs[call.path] = source.path
    return pairs


def has_scale_per_output(layer: Layer) -> bool:
    """Whether each output channel of a layer, quantized per channel, has a scale of its own."""
    return getattr(layer, "depth_multiplier", 1) == 1 or not isinstance(
        layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
    )


def affine_of(norm: Layer) -> tuple[FloatArray, FloatArray]:
    """Factor and shift of each channel in evaluation, float64, shape (C,): `y = factor · x + shift`.

    Of a live batch norm the factors are the magnitudes that training used.
    """
    mean, variance = _float64(norm.moving_mean), _float64(norm.moving_variance)
    gamma = np.ones_like(mean) if norm.gamma is None else _float64(norm.gamma)
    beta = np.zeros_like(mean) if norm.beta is None else _float64(norm.beta)
    if isinstance(norm, LiveBatchNormalization) and norm.folds:
        gamma = np.abs(gamma)
    factor = gamma / np.sqrt(variance + norm.epsilon)
    return factor, beta - mean * factor


def fold_batch_norm(layer: Layer, norm: Layer) -> None:
    """Make `layer`, which has a bias, compute what `layer` followed by `norm` computes in evaluation, in place.

    The products are computed in float64 and rounded once.
    """
    factor, shift = affine_of(norm)
    kernel = kernel_of(layer)
    kernel.assign(_float64(kernel) * along_outputs(factor, layer))
    layer.bias.assign(folded_bias(layer, factor, shift))


def folded_bias(layer: Layer, factor: FloatArray, shift: FloatArray) -> FloatArray:
    """Bias of `layer` once `y = factor · x + shift` is folded into it, float64, shape (C,)."""
    return _float64(layer.bias) * factor + shift


def with_bias(layer: Layer) -> Layer:
    """A copy of a built layer that has a bias, zero where the layer has none."""
    copied = type(layer).from_config({**layer.get_config(), "use_bias": True})
    copied.build_from_config(layer.get_build_config())
    copy_weights(layer, copied)
    return copied


def make_factors_positive(layer: Layer, norm: Layer) -> None:
    """Flip weights and statistics of the channels whose factor is negative; what is computed stays the same."""
    if norm.gamma is None:
        return
    sign = np.where(_float64(norm.gamma) < 0, -1.0, 1.0)
    kernel = kernel_of(layer)
    kernel.assign(_float64(kernel) * along_outputs(sign, layer))
    for variable in (layer.bias, norm.moving_mean, norm.gamma):
        if variable is not None:
            variable.assign(_float64(variable) * sign)


def problem_of_training(layer: Layer, norm: Layer, stays_live: bool) -> str:
    """Why a batch norm cannot be folded into a layer that trains; empty where it can.

    Constraints and regularizers act on the weights as they are. A batch norm that is folded before training changes
    weights and bias; one that stays live flips the signs of the channels with a negative factor.

    Args:
        layer: the layer, built.
        norm: the batch norm.
        stays_live: whether it is folded when training ends.
    """
    flips = norm.gamma is not None and bool((_float64(norm.gamma) < 0).any())
    if stays_live and not flips:
        return ""
    for variable in [kernel_of(layer), layer.bias, norm.gamma if stays_live else None]:
        for kind in ("constraint", "regularizer"):
            rule = getattr(variable, kind, None)
            keeps_signs = type(rule) in _OF_MAGNITUDES and (stays_live or kind == "regularizer")
            if rule is not None and not keeps_signs:
                return f"the {kind} {type(rule).__name__} acts on {variable.name!r} as it is"
    return ""


def kernel_name(layer: Layer) -> str:
    """Name of the weight whose last axis, or that before it, makes the outputs."""
    return list(weight_axes(layer))[-1]


def kernel_of(layer: Layer) -> keras.Variable:
    """The weight whose factors make the outputs' factors."""
    return weight_of(layer, kernel_name(layer))


def along_outputs(values: FloatArray, layer: Layer) -> FloatArray:
    """One number for each output channel, shaped to multiply the kernel of `layer`."""
    shape = kernel_of(layer).shape
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return values.reshape(shape[-2:])
    return values.reshape(-1, *([1] * (-weight_axes(layer)[kernel_name(layer)] - 1)))


def _channel_axis(layer: Layer, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _float64(variable: Any) -> FloatArray:
    array: FloatArray = np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
    return array
