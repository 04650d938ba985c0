# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`check_quantizer` in Keras, on the backend of the day: what is built in passes, planted defects are caught."""

import functools
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("keras.layers")

import keras
from backend_marks import few_on_jax
from keras import ops

from mct_quantizers import QuantizationMethod, QuantizationTarget, keras_quantizers, mark_quantizer
from mct_quantizers.keras.quantizers import BaseKerasInferableQuantizer
from model_compression_toolkit.trainable_infrastructure import (
    BaseKerasActivationTrainableQuantizer,
    BaseKerasQATWeightTrainableQuantizer,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.conformance import check_quantizer
from model_compression_toolkit.trainable_infrastructure.keras.method_quantizers import CLASSES

pytestmark = pytest.mark.keras

BACKEND = keras.config.backend()
WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
SYMMETRIC, UNIFORM = QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM
INFERABLE = [name for name in keras_quantizers.__all__ if not name.startswith("Base")]
COMPILED = {"tensorflow": "tf.function equals eager", "jax": "jax.jit equals eager"}.get(
    BACKEND, "model.predict equals a call"
)


def weights_config(num_bits=4, threshold=0.75):
    return TrainableQuantizerWeightsConfig(SYMMETRIC, num_bits, {"threshold": np.array(threshold)})


def config_of(cls):
    """One configuration for each class: weights per channel, activations on a range of both signs."""
    grid = cls.quantization_method[-1]
    if cls.quantization_target is ACTIVATION:
        ends = {"range_min": -0.7, "range_max": 1.4} if grid is UNIFORM else {"threshold": 0.75, "is_signed": True}
        return TrainableQuantizerActivationConfig(grid, 4, ends)
    low, high = np.array([[-0.7, -0.3]]), np.array([[1.4, 1.0]])
    ends = {"range_min": low, "range_max": high} if grid is UNIFORM else {"threshold": high}
    return TrainableQuantizerWeightsConfig(grid, 4, ends, True, 1, True)


# One method of a grid and one of a table go through all checks on JAX.
@pytest.mark.parametrize(
    "cls",
    few_on_jax(CLASSES.made(), ("LSQ", "LUT"), lambda cls: cls.training_method.name),
    ids=lambda cls: cls.__name__,
)
def test_built_in_trainable_quantizers_pass_every_check(cls):
    report = check_quantizer(cls, config_of(cls))
    assert report.ok, str(report)
    assert report.framework == f"Keras ({BACKEND})"
    assert report.skipped == ()
    assert COMPILED in report["compile"].detail
    # Not only within the tolerance.
    assert "largest difference 0" in report["convert2inferable"].detail
    assert "integer codes equal" in report["convert2inferable"].detail


@pytest.mark.parametrize("name", INFERABLE)
def test_built_in_inferable_quantizers_pass_every_check_that_applies(name):
    report = check_quantizer(getattr(keras_quantizers, name), num_bits=3)
    assert report.ok, str(report)
    assert report.skipped == ("finite_gradients", "gradient_flow", "freeze_quant_params", "convert2inferable")
    assert report["config_round_trip"].detail.startswith("get_config and from_config")


def test_configurations_are_made_from_the_marks():
    report = check_quantizer(CLASSES.of("STE", WEIGHTS, SYMMETRIC))
    assert report.ok, str(report)
    assert report.cases == (
        "POWER_OF_TWO, 4 bits, weights, per tensor",
        "SYMMETRIC, 4 bits, weights, per tensor",
        "SYMMETRIC, 8 bits, weights, per channel (axis 3)",
        "SYMMETRIC, 2 bits, weights, per channel (axis 3)",
    )


# A quantizer as a user writes it.


def constant(value):
    return ops.stop_gradient(ops.convert_to_tensor(value))


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="CONFORMANCE")
class Reference(BaseKerasQATWeightTrainableQuantizer):
    """Learns the threshold of a tensor."""

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)
        self.initial = np.array(quantization_config.weights_quantization_params["threshold"], np.float32).reshape(-1)
        self.num_bits = quantization_config.weights_n_bits
        self.limit = 2 ** (self.num_bits - 1)

    def initialize_quantization(self, tensor_shape, name, layer):
        self.add_quantizer_variable("threshold", self.variable(layer, f"{name}_threshold"), VariableGroup.QPARAMS)

    def variable(self, layer, name, trainable=True):
        start = keras.initializers.Constant(self.initial)
        return layer.add_weight(name=name, shape=self.initial.shape, initializer=start, trainable=trainable)

    def threshold(self):
        return ops.convert_to_tensor(self.get_quantizer_variable("threshold"))

    def clip(self, ratio):
        return ops.clip(ratio, -self.limit, self.limit - 1)

    def round(self, ratio):
        return ratio + constant(ops.round(ratio) - ratio)

    def finish(self, output, values, scale):
        return output

    def __call__(self, inputs, training=False):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        values, scale = ops.cast(inputs, "float32"), self.threshold() / self.limit
        return ops.cast(self.finish(self.round(self.clip(values / scale)) * scale, values, scale), dtype)

    def convert2inferable(self):
        threshold = ops.convert_to_numpy(self.threshold()).tolist()
        return keras_quantizers.WeightsSymmetricInferableQuantizer(self.num_bits, threshold, False)


@mark_quantizer(quantization_target=ACTIVATION, quantization_method=[SYMMETRIC], identifier="CONFORMANCE")
class ActivationReference(BaseKerasActivationTrainableQuantizer):
    """Learns the threshold of an activation."""

    def __init__(self, quantization_config: TrainableQuantizerActivationConfig):
        super().__init__(quantization_config)
        self.initial = np.array([quantization_config.activation_quantization_params["threshold"]], np.float32)
        self.num_bits = quantization_config.activation_n_bits
        self.limit = 2 ** (self.num_bits - 1)

    def convert2inferable(self):
        threshold = ops.convert_to_numpy(self.threshold()).tolist()
        return keras_quantizers.ActivationSymmetricInferableQuantizer(self.num_bits, threshold, True)

    initialize_quantization, variable, threshold = (
        Reference.initialize_quantization,
        Reference.variable,
        Reference.threshold,
    )
    clip, round, finish, __call__ = Reference.clip, Reference.round, Reference.finish, Reference.__call__


class OwnInferable(BaseKerasInferableQuantizer):
    """An inferable quantizer of a user's own, per tensor."""

    quantization_target = WEIGHTS

    def __init__(self, num_bits, threshold, offset=0.0):
        self.num_bits, self.threshold, self.offset = num_bits, float(np.squeeze(threshold)), offset

    def __call__(self, inputs):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        limit = 2 ** (self.num_bits - 1)
        scale = self.threshold / limit
        codes = ops.clip(ops.round(ops.cast(inputs, "float32") / scale), -limit, limit - 1)
        return ops.cast(codes * scale, dtype) + self.offset

    def get_config(self):
        return {"num_bits": self.num_bits, "threshold": self.threshold, "offset": self.offset}


@pytest.mark.parametrize("cls", [Reference, ActivationReference])
def test_a_correct_quantizer_of_the_user_passes(cls):
    grid = {"threshold": 0.75, "is_signed": True}
    is_weight = cls is Reference
    config = weights_config() if is_weight else TrainableQuantizerActivationConfig(SYMMETRIC, 4, grid)
    report = check_quantizer(cls, config)
    assert report.ok, str(report)
    assert report.skipped == ("freeze_quant_params",)


def test_a_correct_inferable_quantizer_of_the_user_passes():
    report = check_quantizer(OwnInferable, num_bits=4, threshold=0.75)
    assert report.ok, str(report)
    assert report["config_round_trip"].detail == "get_config and from_config, also with other offset"
    assert report["deepcopy"].detail == "copy.deepcopy, keras.models.clone_model"


# Planted defects: each with all checks that it breaks, and no other.

DEFECTS: dict[str, tuple[type, set[str]]] = {}


@functools.cache
def report_of(cls):
    if issubclass(cls, OwnInferable):
        return check_quantizer(cls, num_bits=4, threshold=0.75)
    return check_quantizer(cls, weights_config())


def defect(*broken):
    """Registers a class with the names of the checks that must fail, the intended one first."""

    def register(cls):
        DEFECTS[cls.__name__] = (cls, set(broken))
        return cls

    return register


@defect("levels", "convert2inferable")
class OneLevelTooMany(Reference):
    def clip(self, ratio):
        return ops.clip(ratio, -self.limit, self.limit)


@defect("idempotence", "convert2inferable")
class NotIdempotent(Reference):
    def finish(self, output, values, scale):
        return 1.25 * output


@defect("monotonicity", "convert2inferable")
class SkipsALevel(Reference):
    def round(self, ratio):
        rounded = super().round(ratio)
        return ops.where(ops.equal(rounded, 2.0), rounded - 2.0, rounded)


@defect("zero", "convert2inferable")
class ZeroShifted(Reference):
    def finish(self, output, values, scale):
        return output + 0.25 * scale


@defect("nan")
class HidesNaN(Reference):
    def finish(self, output, values, scale):
        return ops.where(ops.isnan(values), 0.0, output)


@defect("infinity")
class InfinityOverflows(Reference):
    def finish(self, output, values, scale):
        return ops.where(ops.isinf(values), values, output)


@defect("finite_gradients")
class GradientIsNaN(Reference):
    def finish(self, output, values, scale):
        # The root of zero has an infinite slope.
        return output + 1e-20 * ops.sqrt(ops.clip(values * values, 0.0, 1.0))


@defect("finite_gradients")
class GradientIsZero(Reference):
    def round(self, ratio):
        return constant(ops.round(ratio))


@defect("eval_keeps_state")
class CountsInEvaluation(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.calls = self.variable(layer, f"{name}_calls", trainable=False)

    def __call__(self, inputs, training=False):
        self.calls.assign(self.calls + 1.0)
        return super().__call__(inputs)


@defect("fixed_shapes")
class ScalarState(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        layer.add_weight(name=f"{name}_step", shape=(), initializer="zeros", trainable=False)


@defect("gradient_flow", "state_dict", "deepcopy")
class VariableIsNotRegistered(Reference):
    def variable(self, layer, name, trainable=True):
        return keras.Variable(self.initial, name=name)


@defect("freeze_quant_params")
class CannotFreeze(Reference):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params: bool = False):
        super().__init__(quantization_config)
        self.freeze_quant_params = freeze_quant_params


@defect("config_round_trip")
class ConfigLosesAnArgument(Reference):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, sharpness: float = 1.0):
        super().__init__(quantization_config)
        self.sharpness = sharpness


@defect("config_round_trip", "state_dict", "deepcopy")
class CannotBeMadeFromItsConfig(Reference):
    def get_config(self):
        return {**super().get_config(), "unknown": 1}


@defect("state_dict", "deepcopy")
class CounterIsNotSaved(Reference):
    """What training does next depends on a number that no file holds."""

    steps = 0

    def __call__(self, inputs, training=False):
        if not training:
            return super().__call__(inputs)
        self.steps += 1
        return super().__call__(inputs) * (1.0 + 0.125 * min(self.steps, 7))


@defect("half_precision")
class PromotesToFloat32(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(ops.cast(inputs, "float32"))


@defect("half_precision")
class ComputesInHalfPrecision(Reference):
    def __call__(self, inputs, training=False):
        scale = ops.cast(self.threshold() / self.limit, keras.backend.standardize_dtype(inputs.dtype))
        return self.round(self.clip(inputs / scale)) * scale


@defect("convert2inferable")
class ConvertsWhatItStartedWith(Reference):
    def convert2inferable(self):
        return keras_quantizers.WeightsSymmetricInferableQuantizer(self.num_bits, self.initial.tolist(), False)


@defect("convert2inferable")
class ConvertsToOtherRounding(Reference):
    """Rounds to the nearest in training, and to the next lower one afterwards."""

    def convert2inferable(self):
        threshold = ops.convert_to_numpy(self.threshold()).tolist()
        low, high = -threshold[0], threshold[0] * (1 - 1 / self.limit)
        return keras_quantizers.WeightsUniformInferableQuantizer(self.num_bits - 1, low, high, False)


@defect("convert2inferable")
class DoesNotConvert(Reference):
    def convert2inferable(self):
        raise NotImplementedError("later")


@defect("deterministic")
class RandomInEvaluation(Reference):
    def round(self, ratio):
        return super().round(self.clip(ratio + keras.random.uniform((1,), -0.5, 0.5)))


@defect("shape")
class ChangesTheShape(Reference):
    def __call__(self, inputs, training=False):
        return ops.reshape(super().__call__(inputs), (-1,))


@defect("training_flag")
class RefusesTraining(Reference):
    def __call__(self, inputs, training=False):
        return self.undefined if training else super().__call__(inputs)


@defect("construction")
class LacksItsAnnotation(Reference):
    def __init__(self, quantization_config):
        super().__init__(quantization_config)


@defect("config_round_trip")
class InferableLosesAnArgument(OwnInferable):
    def get_config(self):
        return {"num_bits": self.num_bits, "threshold": self.threshold}


if BACKEND != "torch":  # where every call is eager
    # Models are made by calling layers with tensors that have no values yet.
    @defect("compile", "deepcopy", "state_dict")
    class BranchesOnData(Reference):
        def __call__(self, inputs, training=False):
            if float(constant(ops.max(ops.abs(inputs)))) > 1e30:
                return super().__call__(ops.clip(inputs, -1e30, 1e30))
            return super().__call__(inputs)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_fails_its_checks_and_no_other(name):
    cls, broken = DEFECTS[name]
    report = report_of(cls)
    assert set(report.failed) == broken, str(report)


@pytest.mark.parametrize(
    ("cls", "check", "text"),
    [
        (OneLevelTooMany, "levels", "17 levels, 16 allowed"),
        (HidesNaN, "nan", "q(nan) = 0, q(nan) = 0, q(nan) = 0 (6 of 1024 elements) in evaluation"),
        (GradientIsZero, "finite_gradients", "rounding needs a straight-through gradient"),
        (ScalarState, "fixed_shapes", "0-dim: kernel_step"),
        (ConfigLosesAnArgument, "config_round_trip", "`get_config` does not tell sharpness=1.5 from the default"),
        (VariableIsNotRegistered, "gradient_flow", "not among the variables that an optimizer gets: threshold"),
        (CountsInEvaluation, "eval_keeps_state", "changed: kernel_calls"),
    ],
)
def test_the_detail_shows_the_values_of_a_failure(cls, check, text):
    assert text in report_of(cls)[check].detail


def test_a_keras_class_needs_nothing_of_the_other_wing():
    code = """
        import sys
        from mct_quantizers.keras.quantizers import ActivationPOTInferableQuantizer
        from model_compression_toolkit.trainable_infrastructure.conformance import check_quantizer
        assert check_quantizer(ActivationPOTInferableQuantizer, num_bits=4).ok
        print([name for name in sys.modules if "quantiz" in name and "pytorch" in name])
    """
    lines = "\n".join(line.strip() for line in code.strip().splitlines())
    process = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False, timeout=300)
    assert process.stdout.strip() == "[]", process.stderr
