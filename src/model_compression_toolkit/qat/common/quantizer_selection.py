# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which quantizer trains a tensor: what the user's dictionaries say, else the one class that is marked for it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import BatchNorm, QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorPlan
from model_compression_toolkit.qat.common.qat_config import INTERFACE_METHOD, QATConfig, completed
from model_compression_toolkit.trainable_infrastructure.common.get_quantizer_config import (
    get_trainable_quantizer_activation_config,
    get_trainable_quantizer_weights_config,
)
from model_compression_toolkit.trainable_infrastructure.common.get_quantizers import get_trainable_quantizer_class
from model_compression_toolkit.trainable_infrastructure.common.method_classes import MethodClasses
from model_compression_toolkit.trainable_infrastructure.common.method_quantizer import MethodQuantizer
from model_compression_toolkit.trainable_infrastructure.methods.method import registered_names

__all__ = ["ClassTable", "QuantizerSelection", "class_table"]

ClassTable = dict[Any, dict[QuantizationMethod, type]]
"""Quantizer class of each training method and grid."""


def class_table(classes: MethodClasses, target: QuantizationTarget) -> ClassTable:
    """The classes of all registered methods, for one target."""
    table: ClassTable = {}
    for cls in classes.made():
        if cls.quantization_target is target:
            table.setdefault(cls.identifier, {}).update(dict.fromkeys(cls.quantization_method, cls))
    return table


class QuantizerSelection:
    """The quantizers of one framework.

    A class in the tables counts before every other; else the one class that is marked with target, training method and
    grid.

    Args:
        tables: the tables of the framework, by target. Users change them.
        classes: the classes of the built-in methods.
        base: what all quantizers of the framework in training derive from.
        holder: the class of its activation holders.
    """

    def __init__(
        self, tables: Mapping[QuantizationTarget, ClassTable], classes: MethodClasses, base: type, holder: type
    ) -> None:
        self._tables, self._classes, self._base, self._holder = tables, classes, base, holder

    def class_for(self, target: QuantizationTarget, training_method: Any, grid: QuantizationMethod) -> Any:
        """The quantizer class for a target, a training method and a grid.

        Raises:
            ValueError: no class or several classes are marked so, or the method does not train that grid.
        """
        chosen = self._tables[target].get(training_method, {}).get(grid)
        # Also makes the classes of methods that were registered since.
        built_in = self._classes.made()
        if chosen is not None and chosen not in built_in:
            return chosen
        try:
            return get_trainable_quantizer_class(target, training_method, grid, self._base)
        except ValueError:
            if training_method in registered_names():
                # Says what the method does train, where that is the reason.
                self._classes.of(training_method, target, grid)
            raise

    def quantizer_for(self, tensor: TensorPlan, qat_config: QATConfig) -> Any:
        """The quantizer that trains a calibrated tensor.

        Args:
            tensor: its plan.
            qat_config: the training methods, completed.

        Raises:
            TypeError: a setting of `qat_config` that the quantizer does not have.
            ValueError: no class, or a setting out of bounds.
        """
        grid = tensor.calibrated()[0].method
        if tensor.is_weight:
            cls = self.class_for(QuantizationTarget.Weights, qat_config.weight_training_method, grid)
            settings = qat_config.weight_quantizer_params_override or {}
            return cls(get_trainable_quantizer_weights_config(tensor), **settings)
        cls = self.class_for(QuantizationTarget.Activation, qat_config.activation_training_method, grid)
        settings = qat_config.activation_quantizer_params_override or {}
        return cls(get_trainable_quantizer_activation_config(tensor), **settings)

    def with_batch_norm(self, config: QuantizationConfig, methods: QATConfig) -> QuantizationConfig:
        """The configuration with batch norms folded first where quantizers of the user's own train the weights.

        Folding later multiplies scales, and nothing is known of what such a quantizer freezes to.

        Raises:
            ValueError: the configuration wants them live.
        """
        cls = self.class_for(QuantizationTarget.Weights, methods.weight_training_method, config.weights.method)
        if issubclass(cls, MethodQuantizer) or config.batch_norm is BatchNorm.FOLD:
            return config
        if config.batch_norm is BatchNorm.LIVE:
            raise ValueError(
                f"`batch_norm` 'live' needs weights that a training method trains; {cls.__name__} is a quantizer of "
                "its own. Use 'auto' or 'fold'."
            )
        return dataclasses.replace(config, batch_norm=BatchNorm.FOLD)

    def quantization_builder(
        self, n: TensorPlan, qat_config: QATConfig, kernel_attr: str | None = None
    ) -> tuple[dict[str, Any], list[Any]]:
        """The quantizers that train a calibrated tensor.

        Args:
            n: its plan.
            qat_config: the training methods; STE by default.
            kernel_attr: name of the weight, to check it.

        Returns:
            For a weight its quantizer by its name, and no activation quantizers; for an activation the reverse.

        Raises:
            TypeError: a setting of `qat_config` that the quantizer does not have.
            ValueError: not calibrated, another weight than `kernel_attr`, or no quantizer class for it.
        """
        if kernel_attr not in (None, n.site.tensor):
            raise ValueError(f"`kernel_attr` must be {n.site.tensor!r}, the tensor of `n`. Received: {kernel_attr!r}")
        quantizer = self.quantizer_for(n, completed(qat_config, INTERFACE_METHOD))
        return ({n.site.tensor: quantizer}, []) if n.is_weight else ({}, [quantizer])

    def get_activation_quantizer_holder(
        self, n: TensorPlan, qat_config: QATConfig, holder_type: type | None = None
    ) -> Any:
        """A holder with the quantizer that trains a calibrated activation.

        Args:
            n: its plan.
            qat_config: the training methods; STE by default.
            holder_type: class of the holder; the plain one of the framework unless given.

        Raises:
            ValueError: `n` is not calibrated, or a weight.
        """
        _, quantizers = self.quantization_builder(n, qat_config)
        if len(quantizers) != 1:
            raise ValueError(f"`n` must be the plan of an activation. Received: {n.name}")
        return (holder_type or self._holder)(quantizers[0])
