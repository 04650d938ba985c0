# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import pickle
from enum import Enum

import pytest

from model_compression_toolkit.qat.common.qat_config import QATConfig, TrainingMethod


def test_defaults_are_those_of_the_interface():
    config = QATConfig()
    assert config.weight_training_method == config.activation_training_method == TrainingMethod.STE
    assert config.weight_quantizer_params_override == config.activation_quantizer_params_override == {}


def test_names_and_members_mean_the_same():
    assert QATConfig("LSQ", TrainingMethod.STE) == QATConfig(TrainingMethod.LSQ, "STE")
    assert isinstance(QATConfig("LSQ").weight_training_method, TrainingMethod)


@pytest.mark.parametrize("name", ["weight_training_method", "activation_training_method"])
@pytest.mark.parametrize("value", ["NOPE", "lsq", None, 3, ("STE",)])
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
