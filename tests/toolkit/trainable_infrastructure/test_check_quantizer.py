# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`check_quantizer` in PyTorch: what is built in passes, and planted defects are caught by the name of their check."""

import functools
import json
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from mct_quantizers import QuantizationMethod, QuantizationTarget, mark_quantizer, pytorch_quantizers
from mct_quantizers.pytorch.quantizers import BasePyTorchInferableQuantizer
from model_compression_toolkit.trainable_infrastructure import (
    BasePytorchActivationTrainableQuantizer,
    BasePytorchQATWeightTrainableQuantizer,
    BasePytorchTrainableQuantizer,
    TrainableQuantizerActivationConfig,
    TrainableQuantizerWeightsConfig,
    VariableGroup,
)
from model_compression_toolkit.trainable_infrastructure.conformance import (
    CheckResult,
    CheckStatus,
    ConformanceReport,
    check_quantizer,
)
from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizers import CLASSES

WEIGHTS, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
SYMMETRIC, UNIFORM = QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM
INFERABLE = [name for name in pytorch_quantizers.__all__ if not name.startswith("Base")]
CHECKS = [
    "construction",
    "training_flag",
    "shape",
    "deterministic",
    "levels",
    "idempotence",
    "monotonicity",
    "zero",
    "nan",
    "infinity",
    "half_precision",
    "input_unchanged",
    "eval_keeps_state",
    "fixed_shapes",
    "finite_gradients",
    "gradient_flow",
    "freeze_quant_params",
    "config_round_trip",
    "deepcopy",
    "state_dict",
    "compile",
    "convert2inferable",
]


# What is built in.


@pytest.mark.parametrize("cls", CLASSES.made(), ids=lambda cls: cls.__name__)
def test_built_in_trainable_quantizers_pass_every_check(cls):
    report = check_quantizer(cls)
    assert report.ok, str(report)
    assert report.skipped == ()
    # Not only within the tolerance.
    assert "largest difference 0" in report["convert2inferable"].detail
    assert "integer codes equal" in report["convert2inferable"].detail


@pytest.mark.parametrize("name", INFERABLE)
def test_built_in_inferable_quantizers_pass_every_check_that_applies(name):
    report = check_quantizer(getattr(pytorch_quantizers, name))
    assert report.ok, str(report)
    assert report.skipped == ("finite_gradients", "gradient_flow", "freeze_quant_params", "convert2inferable")
    assert all("inferable" in report[check].detail for check in report.skipped if check != "freeze_quant_params")


# A quantizer as a user writes it.


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="CONFORMANCE")
class Reference(BasePytorchQATWeightTrainableQuantizer):
    """Learns the threshold, with a parameter on the layer, as the interface's documents have it."""

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        super().__init__(quantization_config)
        config = quantization_config
        self.initial = np.array(config.weights_quantization_params["threshold"], np.float32).reshape(-1)
        self.axis = config.weights_channels_axis if config.weights_per_channel_threshold else None
        self.num_bits, self.limit = config.weights_n_bits, 2 ** (config.weights_n_bits - 1)

    def initialize_quantization(self, tensor_shape, name, layer):
        self.key = f"{name}_threshold"
        layer.register_parameter(self.key, nn.Parameter(torch.tensor(self.initial)))
        self.add_quantizer_variable("threshold", layer.get_parameter(self.key), VariableGroup.QPARAMS)

    def threshold(self):
        return self.get_quantizer_variable("threshold")

    def scale(self, inputs):
        shape = [-1 if index == self.axis else 1 for index in range(inputs.dim())]
        return (self.threshold() / self.limit).reshape(shape)

    def clip(self, ratio):
        return torch.clamp(ratio, -self.limit, self.limit - 1)

    def round(self, ratio):
        return ratio + (torch.round(ratio) - ratio).detach()

    def __call__(self, inputs, training=False):
        values = inputs.float()
        scale = self.scale(values)
        return self.finish(self.round(self.clip(values / scale)) * scale, values, scale).to(inputs.dtype)

    def finish(self, output, values, scale):
        return output

    def convert2inferable(self):
        return pytorch_quantizers.WeightsSymmetricInferableQuantizer(
            self.num_bits, self.threshold().tolist(), self.axis is not None, self.axis
        )


class OwnInferable(BasePyTorchInferableQuantizer):
    """An inferable quantizer of a user's own, per tensor."""

    quantization_target = WEIGHTS

    def __init__(self, num_bits, threshold, offset=0.0):
        super().__init__()
        self.num_bits, self.threshold, self.offset = num_bits, float(np.squeeze(threshold)), offset

    def forward(self, inputs):
        scale = self.threshold / 2 ** (self.num_bits - 1)
        codes = torch.round(inputs.float() / scale).clamp(-(2 ** (self.num_bits - 1)), 2 ** (self.num_bits - 1) - 1)
        return (codes * scale).to(inputs.dtype) + self.offset

    def get_config(self):
        return {"num_bits": self.num_bits, "threshold": self.threshold, "offset": self.offset}


@pytest.fixture(scope="module")
def reference_report():
    return check_quantizer(Reference)


def test_a_correct_quantizer_of_the_user_passes(reference_report):
    assert reference_report.ok, str(reference_report)
    assert [result.name for result in reference_report.results] == CHECKS
    assert reference_report.skipped == ("freeze_quant_params",)
    assert reference_report.cases == (
        "SYMMETRIC, 4 bits, weights, per tensor",
        "SYMMETRIC, 8 bits, weights, per channel (axis 0)",
        "SYMMETRIC, 2 bits, weights, per channel (axis 0)",
    )
    assert reference_report["levels"].detail == "16 levels, 16 allowed; 256 levels, 256 allowed; 4 levels, 4 allowed"


def test_a_correct_inferable_quantizer_of_the_user_passes():
    report = check_quantizer(OwnInferable)
    assert report.ok, str(report)
    assert report["config_round_trip"].detail == "get_config and from_config, also with other offset"


# Forms that are correct although they look different.


class Truncating(Reference):
    """Rounds down, and freezes to what rounds down."""

    def round(self, ratio):
        return ratio + (torch.floor(ratio) - ratio).detach()

    def convert2inferable(self):
        return TruncatingInferable(self.limit, self.threshold().tolist(), self.axis)


class TruncatingInferable(BasePyTorchInferableQuantizer):
    def __init__(self, limit, threshold, axis):
        super().__init__()
        self.limit, self.axis = limit, axis
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, inputs):
        scale = (self.threshold / self.limit).reshape([-1 if i == self.axis else 1 for i in range(inputs.dim())])
        codes = torch.floor(torch.clamp(inputs.float() / scale, -self.limit, self.limit - 1))
        return (codes * scale).to(inputs.dtype)


class RefusesNaN(Reference):
    def __call__(self, inputs, training=False):
        if not torch.compiler.is_compiling() and torch.isnan(inputs).any():
            raise ValueError("The weight must be without NaN.")
        return super().__call__(inputs, training)


class NeedsTheFlag(Reference):
    """As wrappers always give it, the flag need not have a default."""

    def __call__(self, inputs, training):
        return super().__call__(inputs)


class WithoutTheFlag(Reference):
    def __call__(self, inputs):
        return super().__call__(inputs)


class OldForm(Reference):
    """Target and grids in the constructor, a plain dictionary of variables."""

    quantization_target = quantization_method = None

    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        BasePytorchTrainableQuantizer.__init__(self, quantization_config, WEIGHTS, [SYMMETRIC])
        config = quantization_config
        self.initial = np.array(config.weights_quantization_params["threshold"], np.float32).reshape(-1)
        self.axis = config.weights_channels_axis if config.weights_per_channel_threshold else None
        self.num_bits, self.limit = config.weights_n_bits, 2 ** (config.weights_n_bits - 1)

    def initialize_quantization(self, tensor_shape, name, layer):
        layer.register_parameter(f"{name}_t", nn.Parameter(torch.tensor(self.initial)))
        self.quantizer_parameters = {"threshold": layer.get_parameter(f"{name}_t")}


class DithersInTraining(Reference):
    """Draws at random in training alone."""

    def round(self, ratio):
        dither = torch.rand(()) - 0.5 if self.training else 0.0
        return ratio + (torch.round(ratio + dither).clamp(-self.limit, self.limit - 1) - ratio).detach()


@pytest.mark.parametrize("cls", [Truncating, RefusesNaN, NeedsTheFlag, WithoutTheFlag, OldForm, DithersInTraining])
def test_other_forms_of_a_correct_quantizer_pass(cls):
    report = check_quantizer(cls)
    assert report.ok, str(report)


@mark_quantizer(quantization_target=ACTIVATION, quantization_method=[UNIFORM], identifier="CONFORMANCE")
class UniformActivation(BasePytorchActivationTrainableQuantizer):
    """Learns the ends of its range, with parameters of its own."""

    def __init__(self, quantization_config: TrainableQuantizerActivationConfig, freeze_quant_params: bool = False):
        super().__init__(quantization_config, freeze_quant_params)
        config = quantization_config
        self.levels = 2**config.activation_n_bits - 1
        ends = [config.activation_quantization_params[name] for name in ("range_min", "range_max")]
        self.ends = nn.Parameter(torch.tensor(ends), requires_grad=not freeze_quant_params)

    def initialize_quantization(self, tensor_shape, name, layer):
        self.add_quantizer_variable("ends", self.ends, VariableGroup.QPARAMS)

    def __call__(self, inputs, training=False):
        low, high = torch.clamp(self.ends[:1], max=0.0), torch.clamp(self.ends[1:], min=0.01)
        scale = (high - low) / self.levels
        zero_point = torch.round(-low / scale).detach()
        codes = torch.clamp(inputs.float() / scale, -zero_point, self.levels - zero_point)
        return ((codes + (torch.round(codes) - codes).detach()) * scale).to(inputs.dtype)

    def convert2inferable(self):
        low, high = self.ends.tolist()
        return pytorch_quantizers.ActivationUniformInferableQuantizer(self.num_bits, [min(low, 0.0)], [max(high, 0.01)])

    @property
    def num_bits(self):
        return self.quantization_config.activation_n_bits


def test_a_correct_activation_quantizer_of_the_user_passes():
    report = check_quantizer(UniformActivation)
    assert report.ok, str(report)
    assert report.skipped == ()
    assert report.cases == (
        "UNIFORM, 4 bits, activations",
        "UNIFORM, 8 bits, activations",
        "UNIFORM, 2 bits, activations",
    )


# Planted defects: each with all checks that it breaks, and no other.

DEFECTS: dict[str, tuple[type, set[str]]] = {}
report_of = functools.cache(check_quantizer)


def defect(*broken):
    """Registers a class with the names of the checks that must fail, the intended one first."""

    def register(cls):
        DEFECTS[cls.__name__] = (cls, set(broken))
        return cls

    return register


@defect("levels", "convert2inferable")
class OneLevelTooMany(Reference):
    def clip(self, ratio):
        return torch.clamp(ratio, -self.limit, self.limit)


@defect("levels", "finite_gradients", "convert2inferable")
class OneLevelAlone(Reference):
    def round(self, ratio):
        return 0.0 * torch.nan_to_num(super().round(ratio), 0.0) + torch.where(torch.isnan(ratio), ratio, 0.0)


@defect("levels")
class OverflowsForLargeNumbers(Reference):
    def finish(self, output, values, scale):
        return output + 0.0 * (torch.where(torch.isinf(values), 1.0, values) * 1e20)


@defect("idempotence", "convert2inferable")
class NotIdempotent(Reference):
    def finish(self, output, values, scale):
        return 1.25 * output


@defect("monotonicity", "convert2inferable")
class SkipsALevel(Reference):
    def round(self, ratio):
        rounded = super().round(ratio)
        return torch.where(rounded == 2.0, rounded - 2.0, rounded)


@defect("zero", "convert2inferable")
class ZeroShifted(Reference):
    def finish(self, output, values, scale):
        return output + 0.25 * scale


@defect("nan")
class HidesNaN(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(torch.nan_to_num(inputs, nan=0.0))


@defect("nan")
class HidesNaNInTraining(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(torch.nan_to_num(inputs, nan=0.0) if training else inputs)


@defect("infinity")
class InfinityOverflows(Reference):
    def __call__(self, inputs, training=False):
        return torch.where(torch.isinf(inputs), inputs, super().__call__(inputs))


@defect("infinity")
class StraightThroughOnValues(Reference):
    """The usual trick, on values in the place of integers: infinity minus infinity."""

    def finish(self, output, values, scale):
        return values + (output - values).detach() + 0.0 * scale


@defect("finite_gradients")
class GradientIsNaN(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(inputs) + 0.0 * inputs.abs().clamp(max=1.0).sqrt()


@defect("finite_gradients")
class GradientIsZero(Reference):
    def round(self, ratio):
        return torch.round(ratio)


@defect("finite_gradients")
class GradientOfTheVariableIsInfinite(Reference):
    def scale(self, inputs):
        scale = super().scale(inputs)
        return scale + (scale - scale.detach()).abs().sqrt()


@defect("input_unchanged")
class ChangesTheInput(Reference):
    def __call__(self, inputs, training=False):
        with torch.no_grad():
            inputs.clamp_(-2.0, 2.0)
        return super().__call__(inputs)


@defect("eval_keeps_state")
class CountsInEvaluation(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.register_buffer("calls", torch.zeros(1))

    def __call__(self, inputs, training=False):
        self.calls.add_(1.0)
        return super().__call__(inputs)


@defect("fixed_shapes")
class ScalarState(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.register_buffer("step", torch.tensor(0.0))


@defect("fixed_shapes", "state_dict")
class StateAppearsInTraining(Reference):
    def __call__(self, inputs, training=False):
        if training and not hasattr(self, "seen"):
            self.register_buffer("seen", torch.ones(1))
        return super().__call__(inputs)


@defect("gradient_flow")
class VariableWithoutGradient(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        layer.register_parameter(f"{name}_unused", nn.Parameter(torch.ones(1)))


@defect("gradient_flow", "state_dict")
class VariableIsNotRegistered(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        self.add_quantizer_variable("threshold", torch.tensor(self.initial, requires_grad=True), VariableGroup.QPARAMS)


@defect("freeze_quant_params")
class CannotFreeze(Reference):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig, freeze_quant_params: bool = False):
        super().__init__(quantization_config)
        self.freeze_quant_params = freeze_quant_params


@defect("config_round_trip")
class DrawsItsStart(Reference):
    generator: ClassVar = np.random.default_rng(0)

    def initialize_quantization(self, tensor_shape, name, layer):
        self.initial = self.initial * self.generator.uniform(0.9, 1.1, self.initial.shape).astype(np.float32)
        super().initialize_quantization(tensor_shape, name, layer)


@defect("config_round_trip")
class ConfigLosesAnArgument(OwnInferable):
    def get_config(self):
        return {"num_bits": self.num_bits, "threshold": self.threshold}


@defect("config_round_trip")
class ConfigIsWrong(OwnInferable):
    def get_config(self):
        return {**super().get_config(), "threshold": 2.0 * self.threshold}


@defect("deepcopy")
class CopiesReadTheOriginal(Reference):
    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.read = lambda: self.get_quantizer_variable("threshold")

    def threshold(self):
        return self.read()


@defect("deepcopy")
class CopiesStartAgain(Reference):
    """Keeps what it saw in training outside of the module."""

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("cannot be pickled")


@defect("deepcopy", "state_dict")
class StateOutsideOfTheModule(Reference):
    """An observer whose maximum is kept in a table of the class."""

    seen: ClassVar[dict[int, float]] = {}

    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.place = [len(self.seen)]
        self.seen[self.place[0]] = 1.0

    def scale(self, inputs):
        return super().scale(inputs) * self.seen.get(self.place[0], 1.0)

    def __call__(self, inputs, training=False):
        if training:
            self.seen[self.place[0]] = 1.125
        return super().__call__(inputs)

    def __getstate__(self):
        return {**self.__dict__, "place": [-1]}

    def convert2inferable(self):
        factor = self.seen.get(self.place[0], 1.0)
        threshold = (self.threshold() * factor).tolist()
        return pytorch_quantizers.WeightsSymmetricInferableQuantizer(
            self.num_bits, threshold, self.axis is not None, self.axis
        )


@defect("state_dict")
class CounterIsNotSaved(Reference):
    """What training does next depends on a number that no file holds."""

    steps = 0

    def __call__(self, inputs, training=False):
        if not training:
            return super().__call__(inputs)
        self.steps += 1
        return super().__call__(inputs) * (1.0 + 0.125 * min(self.steps, 7))


@defect("compile")
class BranchesOnData(Reference):
    def __call__(self, inputs, training=False):
        if inputs.abs().max() > 1e30:
            return super().__call__(inputs.clamp(-1e30, 1e30))
        return super().__call__(inputs)


@defect("half_precision")
class PromotesToFloat32(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(inputs.float())


@defect("half_precision")
class PromotesToFloat64(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(inputs).double()


@defect("half_precision")
class ComputesInHalfPrecision(Reference):
    def __call__(self, inputs, training=False):
        scale = self.scale(inputs).to(inputs.dtype)
        return self.round(self.clip(inputs / scale)) * scale


@defect("convert2inferable")
class ConvertsWhatItStartedWith(Reference):
    def convert2inferable(self):
        return pytorch_quantizers.WeightsSymmetricInferableQuantizer(
            self.num_bits, self.initial.tolist(), self.axis is not None, self.axis
        )


@defect("convert2inferable")
class ConvertsToOtherRounding(Reference):
    def convert2inferable(self):
        return TruncatingInferable(self.limit, self.threshold().tolist(), self.axis)


@defect("convert2inferable")
class ConvertsToOtherTies(Reference):
    """Rounds half up in training; only ties tell. Not trained, so that its steps stay powers of two."""

    def initialize_quantization(self, tensor_shape, name, layer):
        super().initialize_quantization(tensor_shape, name, layer)
        self.threshold().requires_grad_(False)

    def round(self, ratio):
        return ratio + (torch.floor(ratio + 0.5) - ratio).detach()


@defect("convert2inferable")
class ConvertsToTheOtherTarget(Reference):
    def convert2inferable(self):
        return pytorch_quantizers.ActivationSymmetricInferableQuantizer(self.num_bits, [1.0], True)


@defect("convert2inferable")
class DoesNotConvert(Reference):
    def convert2inferable(self):
        raise NotImplementedError("later")


@defect("convert2inferable")
class IgnoresChannels(Reference):
    def scale(self, inputs):
        return super().scale(inputs).mean()


@defect("deterministic")
class RandomInEvaluation(Reference):
    def round(self, ratio):
        return super().round(self.clip(ratio + torch.rand(()) - 0.5))


@defect("shape")
class ChangesTheShape(Reference):
    def __call__(self, inputs, training=False):
        return super().__call__(inputs).reshape(-1)


@defect("training_flag")
class RefusesTraining(Reference):
    def __call__(self, inputs, training=False):
        return self.undefined if training else super().__call__(inputs)


@defect("training_flag")
class RefusesEvaluation(Reference):
    def __call__(self, inputs, training=True):
        return super().__call__(inputs) if training else self.undefined


@defect("construction")
class LacksItsAnnotation(Reference):
    def __init__(self, quantization_config):
        super().__init__(quantization_config)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_fails_its_checks_and_no_other(name):
    cls, broken = DEFECTS[name]
    report = report_of(cls)
    assert set(report.failed) == broken, str(report)


def test_there_are_defects_for_every_check():
    assert set().union(*(broken for _, broken in DEFECTS.values())) == set(CHECKS)


def test_what_builds_on_a_broken_promise_is_skipped_with_the_reason():
    report = report_of(RandomInEvaluation)
    assert report["idempotence"].status is CheckStatus.SKIPPED
    assert report["idempotence"].detail == "`deterministic` failed"
    assert report["fixed_shapes"].status is CheckStatus.PASSED
    report = report_of(RefusesTraining)
    assert report["finite_gradients"].detail == "`training_flag` failed in training"
    assert report["levels"].status is CheckStatus.PASSED
    report = report_of(LacksItsAnnotation)
    assert set(report.skipped) == set(CHECKS) - {"construction"}
    assert report["levels"].detail == "nothing could be constructed"
    assert "must annotate the first argument" in report["construction"].detail


class BreaksInsideOfACheck(Reference):
    def quantize(self, inputs):
        raise RuntimeError("broken on purpose")


def test_an_exception_inside_of_a_check_is_a_failure_with_its_text():
    report = check_quantizer(BreaksInsideOfACheck)
    assert report.failed == ("convert2inferable",)
    assert report["convert2inferable"].detail == "raised RuntimeError: broken on purpose"


@pytest.mark.parametrize(
    ("cls", "check", "text"),
    [
        (OneLevelTooMany, "levels", "per tensor: 17 levels, 16 allowed"),
        (ZeroShifted, "zero", "per tensor: q(0) = 0.0231221747, q(0) = 0.0231221747"),
        (HidesNaN, "nan", "q(nan) = 0, q(nan) = 0, q(nan) = 0 (6 of 1024 elements) in evaluation"),
        (InfinityOverflows, "infinity", "q(-inf) = -inf and q(inf) = inf, where finite input gives -0.739909589 to"),
        (GradientIsNaN, "finite_gradients", "the gradient to the input has nan"),
        (GradientIsZero, "finite_gradients", "zero everywhere: rounding needs a straight-through gradient"),
        (ScalarState, "fixed_shapes", "0-dim: weight_quantizer.step"),
        (PromotesToFloat32, "half_precision", "float16 became float32"),
        (VariableIsNotRegistered, "gradient_flow", "not among the variables that an optimizer gets: threshold"),
        (VariableWithoutGradient, "gradient_flow", "no gradient reaches weight_unused"),
        (ConfigLosesAnArgument, "config_round_trip", "`get_config` does not tell offset=0.5 from the default"),
        (CopiesReadTheOriginal, "deepcopy", "what copy.deepcopy gives changes with the original"),
        (ConvertsToTheOtherTarget, "convert2inferable", "it trains for QuantizationTarget.Weights and freezes to"),
        (CountsInEvaluation, "eval_keeps_state", "changed: weight_quantizer.calls"),
        (ChangesTheShape, "shape", "(16, 64) became (1024,) in evaluation"),
    ],
)
def test_the_detail_shows_the_values_of_a_failure(cls, check, text):
    assert text in report_of(cls)[check].detail


# The report.


SMALL = ConformanceReport(
    "MyQuantizer",
    "PyTorch",
    ("SYMMETRIC, 4 bits",),
    (
        CheckResult("levels", CheckStatus.PASSED, "at most 2**num_bits levels", "16 levels, 16 allowed"),
        CheckResult(
            "zero",
            CheckStatus.FAILED,
            "zero gives zero in every channel, and so does an all-zero tensor",
            "q(0) = 0.1\nq(0) = 0.2",
        ),
        CheckResult("compile", CheckStatus.SKIPPED, "compiled equals eager", "it is the second case"),
    ),
)


def test_print_shows_a_table_of_what_was_expected_and_what_came():
    assert str(SMALL).splitlines() == [
        "MyQuantizer on PyTorch: 1 of 2 checks failed, 1 skipped",
        "",
        "check    status   expected                                       what came",
        "-------  -------  ---------------------------------------------  " + 66 * "-",
        "levels   passed   at most 2**num_bits levels                     16 levels, 16 allowed",
        "zero     FAILED   zero gives zero in every channel, and so does  q(0) = 0.1",
        "                  an all-zero tensor                             q(0) = 0.2",
        "compile  skipped  compiled equals eager                          it is the second case",
        "",
        "Checked with:",
        "  SYMMETRIC, 4 bits",
    ]


def test_a_report_tells_its_checks_by_name():
    assert not SMALL.ok
    assert (SMALL.failed, SMALL.skipped) == (("zero",), ("compile",))
    assert SMALL["levels"].status is CheckStatus.PASSED
    with pytest.raises(KeyError, match=r"no check 'speed'.*'levels', 'zero', 'compile'"):
        SMALL["speed"]


def test_a_report_becomes_json(reference_report):
    plain = json.loads(json.dumps(reference_report.to_dict()))
    assert plain["quantizer"] == "Reference"
    assert plain["framework"] == "PyTorch"
    assert plain["ok"] is True
    assert plain["cases"] == list(reference_report.cases)
    assert [item["name"] for item in plain["results"]] == CHECKS
    assert plain["results"][4] == {
        "name": "levels",
        "status": "passed",
        "expected": "at most 2**num_bits levels for each channel, at least two; finite for finite input",
        "detail": reference_report["levels"].detail,
    }


def test_the_first_line_of_a_report_counts(reference_report):
    assert str(reference_report).startswith("Reference on PyTorch: 21 checks passed, 1 skipped\n")


def test_a_failure_raises_only_where_it_is_asked_to():
    with pytest.raises(
        ValueError, match=r"(?s)^ZeroShifted on PyTorch: 2 of 21 checks failed, 1 skipped\n.*zero +FAILED"
    ):
        check_quantizer(ZeroShifted, raise_on_failure=True)
    assert check_quantizer(Reference, raise_on_failure=True).ok


# What it is called with.


def weights_config(num_bits=3, threshold=0.3, axis=None):
    return TrainableQuantizerWeightsConfig(
        SYMMETRIC,
        num_bits,
        {"threshold": np.array(threshold)},
        weights_channels_axis=axis,
        weights_per_channel_threshold=axis is not None,
    )


@pytest.mark.parametrize(
    ("config", "case"),
    [
        (weights_config(), "SYMMETRIC, 3 bits, weights, per tensor"),
        (weights_config(5, [0.1, 0.7, 3.0, 9.0], 1), "SYMMETRIC, 5 bits, weights, per channel (axis 1)"),
        (weights_config(6, np.full((1, 1, 5), 0.2), 2), "SYMMETRIC, 6 bits, weights, per channel (axis 2)"),
    ],
)
@pytest.mark.parametrize("cls", [Reference, CLASSES.of("LSQ", WEIGHTS, SYMMETRIC)])
def test_the_configuration_that_is_given_is_the_only_one(cls, config, case):
    before = {name: np.array(value) for name, value in config.weights_quantization_params.items()}
    report = check_quantizer(cls, config)
    assert report.ok, str(report)
    assert report.cases == (case,)
    # It is not changed.
    assert set(config.weights_quantization_params) == set(before)
    assert all(np.array_equal(config.weights_quantization_params[name], value) for name, value in before.items())


def test_constructor_arguments_reach_the_quantizer():
    cls = CLASSES.of("PACT", WEIGHTS, SYMMETRIC)
    assert check_quantizer(cls, weights_config(), decay=0.25).ok
    report = check_quantizer(cls, weights_config(), decay=-1.0)
    assert report.failed == ("construction",)
    assert "`decay` must be from 0.0" in report["construction"].detail


def test_arguments_of_an_inferable_quantizer_that_are_given_count():
    report = check_quantizer(
        pytorch_quantizers.WeightsUniformInferableQuantizer, num_bits=5, min_range=[-1.0], max_range=[2.0]
    )
    assert report.ok, str(report)
    assert report.cases == (
        "UNIFORM, 5 bits, weights, per tensor",
        "UNIFORM, 5 bits, weights, per channel (axis 0)",
    )


def test_an_argument_that_is_given_goes_through_the_configuration():
    # 0.5 is what the check itself would try.
    for cls, offset in ((ConfigLosesAnArgument, 0.5), (OwnInferable, 0.0)):
        report = check_quantizer(cls, offset=offset)
        assert ("config_round_trip" in report.failed) == (cls is ConfigLosesAnArgument), str(report)
    assert "differs in evaluation" in check_quantizer(ConfigLosesAnArgument, offset=0.5)["config_round_trip"].detail


class Strange(OwnInferable):
    def __init__(self, num_bits, sharpness):
        super().__init__(num_bits, [sharpness])
        self.sharpness = sharpness

    def get_config(self):
        return {"num_bits": self.num_bits, "sharpness": self.sharpness}


def test_an_argument_whose_meaning_is_not_known_must_be_given():
    with pytest.raises(TypeError, match=r"Strange needs arguments.*\['sharpness'\]"):
        check_quantizer(Strange)
    report = check_quantizer(Strange, sharpness=1.0)
    assert report.ok, str(report)


@mark_quantizer(quantization_target=WEIGHTS, quantization_method=[SYMMETRIC], identifier="CONFORMANCE_WIDE")
class AtLeastFourBits(Reference):
    def __init__(self, quantization_config: TrainableQuantizerWeightsConfig):
        if quantization_config.weights_n_bits < 4:
            raise ValueError("at least 4 bits")
        super().__init__(quantization_config)


def test_a_width_that_the_class_refuses_is_left_out_and_named():
    report = check_quantizer(AtLeastFourBits)
    assert report.ok, str(report)
    assert len(report.cases) == 2
    assert "2 bits, weights, per channel (axis 0): ValueError: at least 4 bits" in report["construction"].detail


@pytest.mark.parametrize("cls", [nn.Linear, Reference.__name__, None, 3])
def test_what_is_no_quantizer_class_is_refused(cls):
    with pytest.raises(TypeError, match=r"`cls` must be a subclass of one of .*BasePytorchTrainableQuantizer"):
        check_quantizer(cls)


def test_what_is_no_configuration_is_refused():
    with pytest.raises(TypeError, match="must be a TrainableQuantizerWeightsConfig or a"):
        check_quantizer(Reference, {"num_bits": 4})
    with pytest.raises(TypeError, match="must be None for OwnInferable, which is inferable"):
        check_quantizer(OwnInferable, weights_config())


def test_a_configuration_of_the_other_target_is_a_failure():
    config = TrainableQuantizerActivationConfig(SYMMETRIC, 4, {"threshold": 1.0, "is_signed": True})
    report = check_quantizer(Reference, config)
    assert report.failed == ("construction",)


# What it leaves alone.


def test_random_numbers_and_the_mode_of_autograd_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        report = check_quantizer(Reference, weights_config())
        assert not torch.is_grad_enabled()
    assert report.ok, str(report)
    assert torch.equal(torch.rand(3), expected)


def test_a_pytorch_class_needs_no_keras():
    code = """
        import sys
        from model_compression_toolkit.trainable_infrastructure.conformance import check_quantizer
        assert "torch" not in sys.modules
        from mct_quantizers.pytorch.quantizers import WeightsSymmetricInferableQuantizer
        assert check_quantizer(WeightsSymmetricInferableQuantizer).ok
        print([name for name in ("keras", "tensorflow", "jax") if name in sys.modules])
    """
    lines = "\n".join(line.strip() for line in code.strip().splitlines())
    process = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False, timeout=120)
    assert process.stdout.strip() == "[]", process.stderr
