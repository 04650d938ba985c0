# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The cases of the tests of the training methods, and quantizers and networks for them in both wings.

Everything goes in and comes out as NumPy arrays. Keras computes on the backend of the day.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from mct_quantizers.common.lookup_table import LookupTable
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from mct_quantizers.common.quant_params import QuantParams
from model_compression_toolkit.trainable_infrastructure.common.trainable_quantizer_config import (
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
)
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class, registered_names

POT, SYMMETRIC, UNIFORM = GRIDS = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
NAMES = registered_names()
CHANNELS = 3
ELEMENTS = 40
"""Elements of each channel of a sample."""
TABLES = ("APOT", "LQ_NETS", "LUT")
"""The methods that freeze to a lookup table."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "DQA": {"steps": 8},
    "SOFT_ROUNDING": {"steps": 8},
    "GRADUAL": {"end": 8},
    "STOCHASTIC": {"end": 8},
}
"""Settings with which a schedule runs from end to end in a few steps."""

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
# Without Keras the directory tests/keras is found, a package without a file.
_has_keras = getattr(importlib.util.find_spec("keras"), "origin", None) is not None
needs_keras = pytest.mark.skipif(not _has_keras, reason="keras is not installed")


class Case(NamedTuple):
    """What is trained: method, grid, weight or activation, axis of the channels (None per tensor)."""

    name: str
    grid: QuantizationMethod
    target: QuantizationTarget = WEIGHT
    axis: int | None = None

    def __str__(self) -> str:
        return f"{self.name}-{self.grid.name}-{self.target.name}-{self.axis}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return (CHANNELS, ELEMENTS) if self.axis == 0 else (ELEMENTS, CHANNELS)


def cases_of(*names: str) -> list[Case]:
    """Methods on every grid that they train: weights both ways, activations per tensor."""
    return [
        Case(name, grid, target, axis)
        for name in names
        for grid in GRIDS
        for target, axis in ((WEIGHT, None), (WEIGHT, 0), (WEIGHT, 1), (ACTIVATION, None))
        if grid in method_class(name).supports and target in method_class(name).targets
    ]


def few_of(*names: str) -> list[Case]:
    """For each method one weight, per channel, and one activation, on grids that differ from method to method."""
    found = []
    for name in names:
        grids = [grid for grid in GRIDS if grid in method_class(name).supports]
        for index, target in enumerate(sorted(method_class(name).targets, key=lambda target: target.name)):
            grid = grids[(NAMES.index(name) + index) % len(grids)]
            found.append(Case(name, grid, target, None if target is ACTIVATION else 1))
    return found


def wings(full: Iterable[Case], few: Iterable[Case]) -> Any:
    """Parametrizes `wing` and `case`: PyTorch with all cases, Keras, which takes longer, with few."""
    pytorch = [pytest.param("pytorch", case, marks=needs_torch, id=f"pytorch-{case}") for case in full]
    keras = [pytest.param("keras", case, marks=[needs_keras, pytest.mark.keras], id=f"keras-{case}") for case in few]
    return pytest.mark.parametrize(("wing", "case"), [*pytorch, *keras])


def both_wings(*names: str) -> Any:
    """Parametrizes `wing` and `case` for methods."""
    return wings(cases_of(*names), few_of(*names))


def config_of(case: Case, num_bits: int = 4, signed: bool = True) -> Any:
    """A calibrated grid, the ranges of the channels different."""
    size = 1 if case.axis is None else CHANNELS
    if case.grid is UNIFORM:
        values = {"range_min": -np.linspace(0.5, 0.9, size), "range_max": np.linspace(1.0, 2.0, size)}
    else:
        values = {"threshold": 2.0 ** np.arange(size) if case.grid is POT else np.linspace(0.7, 1.9, size)}
    if case.target is WEIGHT:
        return TrainableQuantizerWeightsConfig(
            case.grid,
            num_bits,
            values,
            weights_channels_axis=case.axis,
            weights_per_channel_threshold=case.axis is not None,
        )
    plain: dict[str, Any] = {name: float(value[0]) for name, value in values.items()}
    if case.grid is not UNIFORM:
        plain["is_signed"] = signed
    return TrainableQuantizerActivationConfig(case.grid, num_bits, plain)


def classes_of(wing: str) -> Any:
    """The quantizer classes of a wing."""
    return importlib.import_module(
        f"model_compression_toolkit.trainable_infrastructure.{wing}.method_quantizers"
    ).CLASSES


def class_of(wing: str, case: Case) -> Any:
    """The quantizer class of a case."""
    return classes_of(wing).of(case.name, case.target, case.grid)


def quantizer_of(wing: str, case: Case, num_bits: int = 4, signed: bool = True, **settings: Any) -> Any:
    """The quantizer of a case with its state, on no layer."""
    quantizer = class_of(wing, case)(config_of(case, num_bits, signed), **settings)
    quantizer.initialize_quantization(case.shape if case.target is WEIGHT else None, "x", None)
    return quantizer


def sample(case: Case, seed: int = 0) -> np.ndarray:
    """Values inside and outside of the range, float32."""
    x = np.random.default_rng(seed).normal(scale=1.5, size=(ELEMENTS, CHANNELS)).astype(np.float32)
    return x.T.copy() if case.axis == 0 else x


def odd_states(quantizer: Any, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """States as an optimizer may leave them: negative, tiny, zero and huge numbers in everything that is learned."""
    spread = np.array([0.1, -0.2, 0.31, 1e-12, -1e-31, 0.0, 1e-45, -3.7, 100.0, -1e20], np.float32)
    state = state_of(quantizer)
    rng = np.random.default_rng(seed)
    states = []
    for start in range(len(spread)):
        odd = {}
        for key in trainable_names(quantizer):
            tiled = np.resize(np.roll(spread, -start), state[key].shape)
            odd[key] = tiled if start % 2 else rng.permutation(tiled.ravel()).reshape(tiled.shape)
        # Also the counters, at both ends of a schedule.
        for key in ("step", "annealing_step"):
            if key in state:
                odd[key] = np.array([0.0 if start % 2 else 1e6], np.float32)
        if "scale" in state:
            # The scale of a method that does not train it is as calibrated; one that a user sets counts as well.
            odd["scale"] = np.resize(np.roll(spread, -start), state["scale"].shape)
        states.append(odd)
    return states


# The state of a quantizer, in either wing.


def is_torch(quantizer: Any) -> bool:
    """Whether a quantizer belongs to the PyTorch wing."""
    return not hasattr(quantizer, "get_config")


def variables_of(quantizer: Any) -> dict[str, Any]:
    """The variables of a quantizer by name."""
    return {name: entry["var"] for name, entry in quantizer.quantizer_parameters.items()}


def trainable_names(quantizer: Any) -> list[str]:
    """Names of what gets a gradient."""
    flag = "requires_grad" if is_torch(quantizer) else "trainable"
    return [name for name, variable in variables_of(quantizer).items() if getattr(variable, flag)]


def unit_of(quantizer: Any, name: str) -> np.ndarray:
    """What a part of the state is trained in units of."""
    if is_torch(quantizer):
        unit = dict(quantizer.named_buffers()).get(f"{name}_unit")
        return np.float32(1.0) if unit is None else unit.numpy()
    unit = quantizer._units.get(name)
    return np.float32(1.0) if unit is None else np.array(unit)


def state_of(quantizer: Any) -> dict[str, np.ndarray]:
    """The state as copies, scales as they are."""
    if is_torch(quantizer):
        found = {name: variable.detach().numpy().copy() for name, variable in variables_of(quantizer).items()}
    else:
        import keras

        found = {name: np.array(keras.ops.convert_to_numpy(value)) for name, value in variables_of(quantizer).items()}
    return {name: value * unit_of(quantizer, name) for name, value in found.items()}


def set_state(quantizer: Any, state: Mapping[str, np.ndarray]) -> None:
    """Write a state, or a part of it."""
    variables = variables_of(quantizer)
    for name, given in state.items():
        value = given / unit_of(quantizer, name)
        if is_torch(quantizer):
            import torch

            with torch.no_grad():
                variables[name].copy_(torch.from_numpy(np.array(value)))
        else:
            variables[name].assign(value)


def perturbed(quantizer: Any, seed: int = 7) -> dict[str, np.ndarray]:
    """Change what is learned so that nothing stands at its start; the first scale becomes negative."""
    rng = np.random.default_rng(seed)
    state = state_of(quantizer)
    for name in trainable_names(quantizer):
        value = state[name]
        if name == "scale":
            value = value * np.float32(1.1)
            value[0] = -value[0]
        elif name == "rounding":
            value = rng.normal(scale=1.5, size=value.shape).astype(np.float32)
        elif name in ("levels", "basis"):
            value = value + rng.uniform(-0.02, 0.02, value.shape).astype(np.float32)
        else:
            value = value + rng.uniform(0.01, 0.06, value.shape).astype(np.float32)
        state[name] = value
    set_state(quantizer, state)
    return state_of(quantizer)


def tensor_for(quantizer: Any, array: np.ndarray) -> Any:
    """An array as a tensor of the quantizer's wing."""
    if is_torch(quantizer):
        import torch

        return torch.from_numpy(array)
    import keras

    return keras.ops.convert_to_tensor(array)


def run(quantizer: Any, x: np.ndarray, training: bool = False) -> np.ndarray:
    """Output for an array."""
    if is_torch(quantizer):
        import torch

        return np.asarray(quantizer(torch.from_numpy(x), training=training).detach().numpy())
    import keras

    return np.asarray(keras.ops.convert_to_numpy(quantizer(keras.ops.convert_to_tensor(x), training=training)))


def run_inferable(quantizer: Any, x: np.ndarray) -> np.ndarray:
    """Output of what a quantizer freezes to; of a weight for what it freezes the weight to."""

    def frozen(tensor: Any) -> Any:
        return quantizer.convert2inferable()(quantizer.frozen_weight(tensor) if quantizer.method.is_weight else tensor)

    if is_torch(quantizer):
        import torch

        return np.asarray(frozen(torch.from_numpy(x)).numpy())
    import keras

    return np.asarray(keras.ops.convert_to_numpy(frozen(keras.ops.convert_to_tensor(x))))


Loss = Callable[[Any], Any]


def gradients(quantizer: Any, x: np.ndarray, loss: Loss | None = None, training: bool = True) -> dict[str, np.ndarray]:
    """Gradients of `loss(quantizer(x))`, by default of the sum, to `x` and each trainable state, zero where none flows.

    A step of training moves no counter: the state stays as it is.

    Args:
        quantizer: of either wing.
        x: float32.
        loss: what becomes of an output, with the operators of arithmetic; the elements are summed.
        training: whether it is a step of training.
    """
    function = loss or (lambda output: output)
    return _gradients(quantizer, x, lambda tensor: function(quantizer(tensor, training=training)))


def end_step(quantizer: Any) -> None:
    """What a gradient that comes back does in PyTorch: the next call in training begins a step. In Keras each does."""
    if is_torch(quantizer) and hasattr(quantizer, "gradient_came"):
        quantizer.gradient_came.fill_(1.0)


def penalty(quantizer: Any, x: np.ndarray | None) -> tuple[float, dict[str, np.ndarray]]:
    """What the method adds to the loss, and the gradients of that."""
    given = np.zeros((1,), np.float32) if x is None else x

    def function(tensor: Any) -> Any:
        return quantizer.regularization(None if x is None else tensor)

    if is_torch(quantizer):
        import torch

        value = function(torch.from_numpy(given)).item()
    else:
        import keras

        value = float(keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(given))))
    return value, _gradients(quantizer, given, function)


def _gradients(quantizer: Any, x: np.ndarray, function: Callable[[Any], Any]) -> dict[str, np.ndarray]:
    names = trainable_names(quantizer)
    given = [x, *(state_of(quantizer)[name] / unit_of(quantizer, name) for name in names)]
    kept = state_of(quantizer)
    if is_torch(quantizer):
        found = _torch_gradients(quantizer, names, x, function)
    else:
        found = _keras_gradients(quantizer, names, given, function)
    set_state(quantizer, kept)
    # Of what is trained in units the gradient is divided by the unit: see `arithmetic.in_units`.
    filled = [
        np.zeros_like(value) if each is None else np.asarray(each) * (1.0 if name == "x" else unit_of(quantizer, name))
        for name, value, each in zip(["x", *names], given, found, strict=True)
    ]
    return dict(zip(["x", *names], filled, strict=True))


def _torch_gradients(quantizer: Any, names: list[str], x: np.ndarray, function: Callable[[Any], Any]) -> list[Any]:
    import torch

    tensor = torch.from_numpy(x.copy()).requires_grad_()
    variables = variables_of(quantizer)
    total = function(tensor).sum()
    inputs = [tensor, *(variables[name] for name in names)]
    if not total.requires_grad:
        return [None] * len(inputs)
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [None if each is None else each.numpy() for each in found]


def _keras_gradients(
    quantizer: Any, names: list[str], given: list[np.ndarray], function: Callable[[Any], Any]
) -> list[Any]:
    import keras

    variables = variables_of(quantizer)

    def scalar(tensor: Any, *state: Any) -> Any:
        with keras.StatelessScope(state_mapping=[(variables[n], s) for n, s in zip(names, state, strict=True)]):
            return keras.ops.sum(function(tensor))

    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(value) for value in given]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = scalar(*tensors)
        found = tape.gradient(total, tensors)
        return [None if each is None else tf.convert_to_tensor(each).numpy() for each in found]
    if keras.config.backend() == "jax":
        import jax

        return list(jax.grad(scalar, argnums=tuple(range(len(given))))(*map(jax.numpy.asarray, given)))
    import torch

    leaves = [torch.tensor(value, requires_grad=True) for value in given]
    total = scalar(*leaves)
    if not total.requires_grad:
        return [None] * len(leaves)
    return [None if each is None else each.numpy() for each in torch.autograd.grad(total, leaves, allow_unused=True)]


# A network of one wrapped dense layer, a holder, a rectifier and a second wrapped dense layer.

INPUTS, HIDDEN, OUTPUTS, BATCH = 6, 5, 3, 16


class Plan(NamedTuple):
    """The quantization of the network: methods of weights and of the activation, their grid, axis of the weights.

    The axis is that of PyTorch, 0 for the outputs; Keras has its kernels the other way around.
    """

    weights: str
    activation: str
    grid: QuantizationMethod
    axis: int | None = 0
    schedules: bool = True

    def __str__(self) -> str:
        return f"{self.weights}-{self.activation}-{self.grid.name}-{self.axis}"


def plan_of(name: str, grid: QuantizationMethod | None = None, axis: int | None = 0) -> Plan:
    """A plan for a method on a grid, by default its last in the order of `GRIDS`; STE where it trains no activation."""
    found = grid or [grid for grid in GRIDS if grid in method_class(name).supports][-1]
    return Plan(name, name if ACTIVATION in method_class(name).targets else "STE", found, axis)


PLANS = [plan_of(name) for name in NAMES]
"""One for each method."""
ALL_PLANS = [plan_of(name, grid, axis) for name in NAMES for grid in GRIDS for axis in (None, 0, 1)
             if grid in method_class(name).supports]  # fmt: skip
"""One for each method, grid and axis."""


def batch(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets."""
    x = np.random.default_rng(seed).normal(size=(BATCH, INPUTS)).astype(np.float32)
    return x, np.stack([x[:, 0], x[:, 1] * x[:, 2], np.abs(x[:, 3])], axis=1).astype(np.float32)


def initial_weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight as PyTorch has it and bias of both layers."""
    rng = np.random.default_rng(0)
    shapes = ((HIDDEN, INPUTS), (OUTPUTS, HIDDEN))
    return [
        (rng.uniform(-0.6, 0.6, shape).astype(np.float32), rng.uniform(-0.2, 0.2, shape[:1]).astype(np.float32))
        for shape in shapes
    ]


def _network_quantizers(wing: str, plan: Plan, num_bits: int, spread: float) -> tuple[list[Any], Any]:
    """Quantizers of the two weights and of the activation, with ranges `spread` times as wide, uniform ones moved."""
    classes, weights = classes_of(wing), []
    settings = {name: SCHEDULES.get(name, {}) if plan.schedules else {} for name in (plan.weights, plan.activation)}
    for weight, _ in initial_weights():
        over = None if plan.axis is None else 1 - plan.axis
        low, high = weight.min(axis=over), spread * weight.max(axis=over)
        ends = {"range_min": low, "range_max": high}
        if plan.grid is not UNIFORM:
            ends = {"threshold": 0.9 * np.maximum(-low, high)}
        axis = plan.axis if plan.axis is None or wing == "pytorch" else 1 - plan.axis
        config = TrainableQuantizerWeightsConfig(
            plan.grid, num_bits, ends, weights_channels_axis=axis, weights_per_channel_threshold=axis is not None
        )
        weights.append(classes.of(plan.weights, WEIGHT, plan.grid)(config, **settings[plan.weights]))
    ends = {"range_min": -1.3, "range_max": 2.1 * spread}
    if plan.grid is not UNIFORM:
        ends = {"threshold": 2.0 * spread, "is_signed": True}
    config = TrainableQuantizerActivationConfig(plan.grid, num_bits, ends)
    return weights, classes.of(plan.activation, ACTIVATION, plan.grid)(config, **settings[plan.activation])


def torch_network(plan: Plan, num_bits: int = 4, spread: float = 1.0) -> Any:
    """The network in training mode; `spread` widens the calibrated ranges."""
    import torch
    from torch import nn

    from mct_quantizers import PytorchActivationQuantizationHolder, PytorchQuantizationWrapper

    weights, activation = _network_quantizers("pytorch", plan, num_bits, spread)
    layers = [nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, OUTPUTS)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, initial_weights(), strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    first, second = (
        PytorchQuantizationWrapper(layer, {"weight": quantizer})
        for layer, quantizer in zip(layers, weights, strict=True)
    )
    return nn.Sequential(first, PytorchActivationQuantizationHolder(activation), nn.ReLU(), second).train()


def torch_quantizers(network: Any) -> list[Any]:
    """The three quantizers of the network, weights first."""
    return [
        network[0].weights_quantizers["weight"],
        network[3].weights_quantizers["weight"],
        network[1].activation_holder_quantizer,
    ]


def keras_network(plan: Plan, num_bits: int = 4, **arguments: Any) -> Any:
    """The network, built and compiled with SGD.

    Args:
        plan: how it is quantized.
        num_bits: width of weights and activation.
        **arguments: `optimizer` and further arguments of `compile`.
    """
    import keras

    from mct_quantizers import KerasActivationQuantizationHolder
    from model_compression_toolkit.trainable_infrastructure import KerasTrainableQuantizationWrapper

    weights, activation = _network_quantizers("keras", plan, num_bits, 1.0)
    first, second = (
        KerasTrainableQuantizationWrapper(keras.layers.Dense(units), {"kernel": quantizer})
        for units, quantizer in zip((HIDDEN, OUTPUTS), weights, strict=True)
    )
    holder = KerasActivationQuantizationHolder(activation)
    model = keras.Sequential([keras.Input((INPUTS,)), first, holder, keras.layers.ReLU(), second])
    for wrapper, (weight, bias) in zip((first, second), initial_weights(), strict=True):
        wrapper.layer.kernel.assign(weight.T)
        wrapper.layer.bias.assign(bias)
    # XLA takes seconds for each of many models; JAX has nothing else.
    jit = keras.config.backend() == "jax"
    model.compile(**{"optimizer": keras.optimizers.SGD(0.05), "loss": "mse", "jit_compile": jit, **arguments})
    return model


def keras_quantizers(model: Any) -> list[Any]:
    """The three quantizers of the network, weights first."""
    first, holder, _, second = model.layers
    return [
        first.weights_quantizers["kernel"],
        second.weights_quantizers["kernel"],
        holder.activation_holder_quantizer,
    ]


def frozen_levels(params: QuantParams | LookupTable) -> np.ndarray:
    """All values of a frozen quantizer in rising order, float64: shape (levels, channels)."""
    if isinstance(params, LookupTable):
        return np.sort(params.lut_values)[:, None] / params.level_scale * params.threshold
    codes = np.arange(params.quant_min, params.quant_max + 1)
    return (codes[:, None] - params.zero_point) * params.scale
