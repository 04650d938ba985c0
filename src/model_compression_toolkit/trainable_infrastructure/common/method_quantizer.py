# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Binds a training method to a quantizer, without a framework: the quantizers of all methods are this one class."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mct_quantizers.common.arithmetic import broadcast_shape
from mct_quantizers.common.grid_state import GridDescription
from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.ops import Tensor
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.common.quant_params import QuantParams
from mct_quantizers.common.registry import get_built_in_quantizer_class
from mct_quantizers.common.validation import check_channels
from model_compression_toolkit.core.common.quantization_plan import inferable_method
from model_compression_toolkit.trainable_infrastructure.common.base_trainable_quantizer import (
    BaseTrainableQuantizer,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerConfig,
    initial_params,
    method_of,
)
from model_compression_toolkit.trainable_infrastructure.methods.method import (
    Learned,
    Method,
    check_settings,
    settings_of,
)

__all__ = ["MethodQuantizer"]


class MethodQuantizer(BaseTrainableQuantizer):
    """A quantizer that a `Method` trains. A wing supplies the variables and its tensor functions.

    The state is what the method learns, made when a wrapper or holder calls `initialize_quantization`.

    Args:
        quantization_config: the calibrated grid.
        freeze_quant_params: whether nothing of it is trained.
        **method_arguments: settings of the method.

    Raises:
        TypeError: a setting that the method does not have, or of the wrong type; see also `BaseTrainableQuantizer`.
        ValueError: a setting out of bounds; a grid that the method does not train.
    """

    training_method: ClassVar[type[Method]]
    _ops: Any
    """The framework's tensor functions, an `Ops`."""
    _inferable_base: type

    def __init__(
        self,
        quantization_config: TrainableQuantizerConfig,
        freeze_quant_params: bool = False,
        **method_arguments: Any,
    ) -> None:
        super().__init__(quantization_config, freeze_quant_params)
        check_settings(self.training_method, method_arguments)
        self.method_arguments = method_arguments
        self.method = self.training_method(method_of(quantization_config), self.quantization_target, **method_arguments)
        self.initial_params = initial_params(quantization_config)
        # A number of its own: the size of an array is unknown to torch.compile.
        self._num_scales = int(self.initial_params.scale.size)
        self._per_scale: dict[str, bool] = {}
        # Once more: now the method is known.
        self._keep_grid()

    def grid_description(self) -> GridDescription | None:
        """Of which grid the state of the quantizer is, and which method trains it with which settings."""
        method = getattr(self, "method", None)
        if method is None:
            return None
        defaults = {name: item.default for name, item in settings_of(self.training_method).items()}
        settings = {**defaults, **self.method_arguments}
        return GridDescription.of_params(
            self.initial_params, method.quantization_method, method.name, self.freeze_quant_params, settings
        )

    @property
    def num_bits(self) -> int:
        """Width of the integer."""
        return self.initial_params.num_bits

    @property
    def power_of_two(self) -> bool:
        """Whether thresholds are powers of two."""
        return self.method.quantization_method is QuantizationMethod.POWER_OF_TWO

    @property
    def sign(self) -> bool:
        """Whether the integers are signed."""
        return self.initial_params.signed

    def initialize_quantization(
        self, tensor_shape: Sequence[int] | None, name: str | None, layer: Any
    ) -> dict[str, Any]:
        """Make the state, once. A quantizer that has its state already keeps it.

        Args:
            tensor_shape: shape of a weight.
            name: prefix for the names of the variables.
            layer: the wrapper or holder.
        """
        if not self._per_scale:
            shape = tensor_shape if self.method.is_weight else None
            state = self.method.parameters(self.initial_params, shape)
            for key, learned in state.items():
                trainable = learned.trainable and not self.freeze_quant_params
                variable = self._new_variable(key, learned, trainable, name, layer)
                self.add_quantizer_variable(key, variable, VariableGroup.QPARAMS)
            self._per_scale = {key: learned.per_scale for key, learned in state.items()}
        return self.quantizer_parameters

    @property
    def params(self) -> QuantParams | LookupTable:
        """What the quantizer would freeze to now."""
        learned = {key: self._as_array(self._variable(key)) for key in self._state()}
        return self.method.freeze(learned, self.initial_params)

    def frozen_weight(self, weight: Tensor) -> Tensor:
        """The weight to which the frozen quantizer is applied; `weight` itself unless the method changes it.

        Args:
            weight: floating point; an activation comes back as it is.

        Returns:
            Shape and dtype of `weight`.
        """
        if not self.method.is_weight or type(self.method).frozen_weight is Method.frozen_weight:
            return weight
        values = self._ops.stop_gradient(self._ops.to_compute_dtype(weight))
        frozen = self.method.frozen_weight(values, self._learned(values), self.initial_params, self._ops)
        return self._ops.cast_like(self._ops.stop_gradient(frozen), weight)

    def regularization(self, weight: Tensor | None = None) -> Tensor | None:
        """What the method adds to the loss of training, shape (); None adds nothing.

        Args:
            weight: the weight that is quantized; None for an activation.
        """
        like = self._variable(next(iter(self._state())))
        values = None if weight is None else self._ops.to_compute_dtype(weight)
        rank = 1 if weight is None else len(self._ops.shape(weight))
        return self.method.regularization(values, self._learned(like, rank), self.initial_params, self._ops)

    def quantize(self, inputs: Tensor) -> Tensor:
        """Integer codes of `inputs` on what the quantizer would freeze to now: int32, same shape.

        Raises:
            TypeError: `inputs` is not floating point.
            ValueError: NaN in `inputs`, or another number of channels.
        """
        return self.convert2inferable().quantize(self.frozen_weight(self._ops.stop_gradient(inputs)))

    def convert2inferable(self) -> Any:
        """The inferable quantizer with what was learned."""
        params, target = self.params, self.quantization_target
        method = inferable_method(params, self.method.quantization_method, target)
        cls = get_built_in_quantizer_class(target, method, self._inferable_base)
        return cls.from_params(params)

    def _description(self) -> str:
        grid, params = self.method.quantization_method.name, self.initial_params
        return f"{self.method.name}, {grid}, num_bits={params.num_bits}, axis={params.axis}"

    def _quantized(self, inputs: Tensor, training: bool) -> Tensor:
        """Quantized `inputs`, after checks; in training the state that is not trained moves on."""
        ops, params = self._ops, self.initial_params
        values = ops.to_compute_dtype(inputs)
        check_channels(ops.shape(values), params.axis, self._num_scales)
        learned = self._learned(values)
        if training:
            moved = self.method.advance({key: self._variable(key) for key in self._state()}, ops)
            result = self.method.quantize(values, {**learned, **self._kept(learned, moved)}, params, ops)
            self._assign(moved)
        else:
            result = self.method.evaluate(values, learned, params, ops)
        return ops.cast_like(result, inputs)

    def _learned(self, like: Tensor, rank: int | None = None) -> dict[str, Tensor]:
        """The state as the method wants it: in the dtype of `like`, lined up with a tensor of its rank."""
        ops = self._ops
        shape = broadcast_shape(len(ops.shape(like)) if rank is None else rank, self.initial_params.axis)
        learned = {}
        for key, per_scale in self._state().items():
            value = ops.cast_like(self._variable(key), like)
            learned[key] = ops.reshape(value, shape) if per_scale else value
        return learned

    def _state(self) -> Mapping[str, bool]:
        if not self._per_scale:
            raise ValueError(
                f"{type(self).__name__} has no state yet: put it into a wrapper or holder, or call "
                "`initialize_quantization(tensor_shape, name, layer)`."
            )
        return self._per_scale

    def _kept(self, learned: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of the state must be copied because `_assign` will write over it while a gradient still needs it."""
        del learned, moved
        return {}

    def _new_variable(self, key: str, learned: Learned, trainable: bool, prefix: str | None, layer: Any) -> Any:
        raise NotImplementedError

    def _variable(self, key: str) -> Tensor:
        raise NotImplementedError

    def _as_array(self, variable: Any) -> Any:
        raise NotImplementedError

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        raise NotImplementedError
