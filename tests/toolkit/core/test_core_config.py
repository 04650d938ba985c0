# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""`mct.core.CoreConfig`: what it asks for is done, refused, or listed as not done."""

import dataclasses
import math

import pytest
import torch

import model_compression_toolkit as mct
from model_compression_toolkit import core
from model_compression_toolkit.core.common.core_config import not_done, read_core_config

ERRORS = core.QuantizationErrorMethod
FACADE = "pytorch_post_training_quantization"


def asked(**fields):
    return core.CoreConfig(core.QuantizationConfig(**fields))


def test_error_methods_become_range_searches():
    read = read_core_config(asked(activation_error_method=ERRORS.NOCLIPPING))
    assert read.activations.range_search is mct.RangeSearch.MIN_MAX
    assert read.weights.range_search is mct.RangeSearch.MSE
    assert dataclasses.replace(read, activations=mct.QuantizationConfig().activations) == mct.QuantizationConfig()


def test_a_modern_configuration_and_none_come_as_they_are():
    modern = mct.QuantizationConfig.from_bits("w4a4")
    assert read_core_config(modern) is modern
    assert read_core_config(None) == mct.QuantizationConfig()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (asked(activation_error_method=ERRORS.KL), r"`activation_error_method` must be one of .*NOCLIPPING.*: KL"),
        (asked(weights_error_method=ERRORS.HMSE), "`weights_error_method`"),
        (asked(z_threshold=16.0), r"`z_threshold` .* must be inf. Received: z_threshold=16.0"),
        (asked(softmax_shift=True), "`softmax_shift`"),
        (core.CoreConfig(bit_width_config=core.BitWidthConfig([1])), "manual_activation_bit_width_selection_list"),
        (core.CoreConfig(debug_config=core.DebugConfig(network_editor=["rule"])), "`network_editor`"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config, text):
    with pytest.raises(NotImplementedError, match=text):
        read_core_config(config)


@pytest.mark.parametrize("wrong", ["w4a4", object(), {"quantization_config": None}])
def test_another_type_is_refused(wrong):
    with pytest.raises(TypeError, match="`core_config` must be a `CoreConfig` or a `QuantizationConfig`"):
        read_core_config(wrong)


def test_defaults_of_the_interface():
    config = core.CoreConfig()
    values = dataclasses.asdict(config.quantization_config)
    assert (values["z_threshold"], values["min_threshold"], values["l_p_value"]) == (math.inf, 2**-16, 2)
    assert values["weights_bias_correction"]
    assert values["shift_negative_activation_correction"]
    assert config == core.CoreConfig(core.QuantizationConfig())
    assert not config.is_mixed_precision_enabled


def test_the_facade_takes_it_and_tells_what_a_default_does_not_do():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(4, 2).eval(), torch.randn(32, 4)
    config = asked(activation_error_method=ERRORS.NOCLIPPING, linear_collapsing=False)
    quantized, information = getattr(mct.ptq, FACADE)(model, lambda: [[x]], core_config=config)
    notes = " ".join(information.quantization_plan.notes)
    assert "weights_bias_correction=True is not done" in notes
    assert "linear_collapsing" not in notes
    assert len(not_done(config)) == 3
    # The extremes that were seen are the ends of the grid.
    params = information.quantization_plan["input_1.output"].params
    low, high = ((end - params.zero_point) * params.scale for end in (params.quant_min, params.quant_max))
    step = params.scale.item()
    assert abs(low.item() - x.min().item()) <= step
    assert abs(high.item() - x.max().item()) <= step
    assert torch.isfinite(quantized(x)).all()


def test_bypass_gives_the_model_itself():
    model = torch.nn.Linear(4, 2)
    config = core.CoreConfig(debug_config=core.DebugConfig(bypass=True))
    assert getattr(mct.ptq, FACADE)(model, lambda: [[torch.rand(2, 4)]], core_config=config) == (model, None)


@pytest.mark.parametrize(
    "call",
    [
        lambda: mct.get_target_platform_capabilities("pytorch", "default"),
        lambda: mct.gptq.get_pytorch_gptq_config(n_epochs=5),
    ],
)
def test_what_does_not_exist_yet_says_so(call):
    with pytest.raises(NotImplementedError, match=r"is not supported yet\. Use `mct"):
        call()
