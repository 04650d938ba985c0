# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import pickle
from enum import Enum

import pytest

from mct_quantizers.common.quant_info import QuantizationTarget
from model_compression_toolkit.core.common.quantization_config import CaptureMode, QuantizationConfig
from model_compression_toolkit.core.common.quantization_plan import TensorSite, build_plan
from model_compression_toolkit.qat.common.qat_config import (
    DEFAULT_METHOD,
    INTERFACE_METHOD,
    QATConfig,
    TrainingMethod,
    completed,
    with_methods,
)


def test_methods_that_are_left_out_are_those_of_the_entrance():
    config = QATConfig()
    assert config.weight_training_method is config.activation_training_method is None
    assert config.weight_quantizer_params_override == config.activation_quantizer_params_override == {}
    assert completed(None, "STE") == completed(config, "STE") == QATConfig("STE", "STE")
    assert completed(QATConfig("LSQ"), "STE") == QATConfig("LSQ", "STE")
    override = {"decay": 1e-3}
    config = QATConfig(activation_training_method="PACT", activation_quantizer_params_override=override)
    assert completed(config, "LSQ") == QATConfig("LSQ", "PACT", None, override)
    assert (DEFAULT_METHOD, INTERFACE_METHOD) == ("LSQ", "STE")


@pytest.mark.parametrize("value", [{}, "LSQ", 0, False])
def test_only_a_configuration_is_completed(value):
    with pytest.raises(TypeError, match=f"`qat_config` must be a QATConfig. Received: {type(value).__name__}"):
        completed(value, "LSQ")


def test_names_and_members_mean_the_same():
    assert QATConfig("LSQ", TrainingMethod.STE) == QATConfig(TrainingMethod.LSQ, "STE")
    assert isinstance(QATConfig("LSQ").weight_training_method, TrainingMethod)


@pytest.mark.parametrize("name", ["weight_training_method", "activation_training_method"])
@pytest.mark.parametrize("value", ["NOPE", "lsq", 3, ("STE",)])
def test_an_unknown_method_lists_what_exists(name, value):
    with pytest.raises(ValueError, match=r"must be one of \[.*'LSQ'.* 'STE'.*\]. Received: "):
        QATConfig(**{name: value})


class OwnMethod(Enum):
    MINE = "mine"


def test_a_member_of_an_enumeration_of_ones_own_is_a_training_method():
    assert QATConfig(OwnMethod.MINE, OwnMethod.MINE).weight_training_method is OwnMethod.MINE


@pytest.mark.parametrize("name", ["weight_quantizer_params_override", "activation_quantizer_params_override"])
def test_overrides_are_keyword_arguments_of_the_quantizers(name):
    given = {"freeze_quant_params": True}
    config = QATConfig(**{name: given})
    given["later"] = 1
    assert getattr(config, name) == {"freeze_quant_params": True}
    for wrong in ([("a", 1)], {1: 2}, "steps"):
        with pytest.raises(TypeError, match=f"`{name}` must be a dictionary with names as keys. Received: "):
            QATConfig(**{name: wrong})


def test_it_is_a_frozen_value():
    config = QATConfig("LSQ")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.weight_training_method = "STE"
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert twin == config


def test_the_plan_names_the_method_of_each_quantized_tensor():
    sites = (
        TensorSite("fc", "weight", QuantizationTarget.Weights, "Linear", (2, 2), 0),
        TensorSite("fc", "output", QuantizationTarget.Activation, "Linear", (1, 2)),
        TensorSite("gru", "weight", QuantizationTarget.Weights, "GRU", (2, 2), reason="no rule"),
    )
    plan = build_plan(sites, QuantizationConfig(), CaptureMode.GRAPH)
    trained = with_methods(plan, QATConfig(OwnMethod.MINE, "LSQ"))
    assert [tensor.training_method for tensor in trained.tensors] == ["MINE", "LSQ", ""]
    assert all(type(tensor.training_method) is str for tensor in trained.tensors)
    assert [tensor.training_method for tensor in plan.tensors] == ["", "", ""]
