# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A state loads into a model of the same function, or not at all."""

import copy
import pickle
import re

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_multi_avg_fn

import model_compression_toolkit as mct
from mct_quantizers import PytorchQuantizationWrapper
from mct_quantizers.common.quant_info import QuantizationMethod
from model_compression_toolkit import QATConfig, QuantizationConfig, TensorConfig
from model_compression_toolkit.trainable_infrastructure import TrainableQuantizerWeightsConfig
from model_compression_toolkit.trainable_infrastructure.pytorch.method_quantizers import pytorch_trainable_quantizer

GRID = "quantization_grid"
torch.manual_seed(0)
NETWORK = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval()
SIGNED, UNSIGNED = torch.randn(64, 4), torch.rand(64, 4)


def config(bits=4, method=QuantizationMethod.SYMMETRIC):
    return QuantizationConfig(TensorConfig(bits, method), TensorConfig(bits, method), first_last_bits=None)


def prepared(data=SIGNED, bits=4, method=QuantizationMethod.SYMMETRIC, qat=None):
    return mct.prepare_qat(NETWORK, data, config(bits, method), qat)


OTHERS = {
    "signed": lambda: prepared(UNSIGNED),
    "num_bits": lambda: prepared(bits=8),
    "method": lambda: prepared(method=QuantizationMethod.POWER_OF_TWO),
    "training": lambda: prepared(qat=QATConfig("STE", "LSQ")),
    "freeze_quant_params": lambda: prepared(
        qat=QATConfig("LSQ", "LSQ", weight_quantizer_params_override={"freeze_quant_params": True})
    ),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("word", OTHERS)
def test_a_state_of_another_grid_is_refused(word, strict):
    trained, other = prepared(), OTHERS[word]()
    kept = copy.deepcopy(other.state_dict())
    with pytest.raises(RuntimeError, match=rf"quantizer: the state is of a quantizer with .*{word}"):
        other.load_state_dict(trained.state_dict(), strict=strict)
    refused = re.findall(r"(\S+): the state is of", str(_error(other, trained)))
    assert refused
    for name in refused:
        for key, value in other.state_dict().items():
            assert not key.startswith(f"{name}.") or torch.equal(value, kept[key]), "what is refused stays"


def _error(model, source):
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        return error
    return None


def test_other_settings_of_a_method_are_refused():
    def make(steps):
        return prepared(qat=QATConfig("SOFT_ROUNDING", "LSQ", weight_quantizer_params_override={"steps": steps}))

    make(10).load_state_dict(make(10).state_dict())
    with pytest.raises(RuntimeError, match="settings of the training method"):
        make(10).load_state_dict(make(20).state_dict())


@pytest.mark.parametrize("method", [QuantizationMethod.SYMMETRIC, QuantizationMethod.UNIFORM])
def test_a_state_of_the_same_grid_gives_the_same_function(method):
    # Other scales, and other zero points, of the same integers.
    source, other = prepared(SIGNED, method=method), prepared(SIGNED * 2 + 0.3, method=method)
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.eval()(SIGNED), source.eval()(SIGNED))
    frozen, fresh = mct.finalize(source), mct.quantize(NETWORK, SIGNED * 2 + 0.3, config(method=method))
    fresh.load_state_dict(frozen.state_dict())
    assert torch.equal(fresh(SIGNED), frozen(SIGNED))


def test_frozen_models_refuse_states_of_other_grids_and_of_training():
    frozen = mct.quantize(NETWORK, SIGNED, config())
    for other in (mct.quantize(NETWORK, UNSIGNED, config()), mct.quantize(NETWORK, SIGNED, config(8))):
        with pytest.raises(RuntimeError, match="the state is of a quantizer with"):
            other.load_state_dict(frozen.state_dict())
    with pytest.raises(RuntimeError, match="training LSQ"):
        frozen.load_state_dict(prepared().state_dict(), strict=False)


@pytest.mark.parametrize(
    "average", [get_ema_avg_fn(0.9), get_ema_multi_avg_fn(0.999), get_swa_multi_avg_fn(), None], ids=range(4)
)
def test_averages_of_models_keep_the_grid(average):
    model = prepared()
    name = "avg_fn" if average is not None and "get_ema_avg_fn" in average.__qualname__ else "multi_avg_fn"
    averaged = AveragedModel(model, use_buffers=True, **({} if average is None else {name: average}))
    for _ in range(20):
        averaged.update_parameters(model)
    fresh = prepared(SIGNED * 2)
    fresh.load_state_dict(averaged.module.state_dict())
    torch.testing.assert_close(fresh.eval()(SIGNED), model.eval()(SIGNED))


def test_the_grid_comes_through_files_copies_and_half_precision(tmp_path):
    source = prepared()
    safetensors.torch.save_file(source.state_dict(), tmp_path / "state.safetensors")
    states = [
        safetensors.torch.load_file(tmp_path / "state.safetensors"),
        copy.deepcopy(source).state_dict(),
        pickle.loads(pickle.dumps(source)).state_dict(),
        copy.deepcopy(source).half().state_dict(),
        # As converters of checkpoints do.
        {key: value.bfloat16() for key, value in source.state_dict().items()},
    ]
    for state in states:
        prepared().load_state_dict(state)
        with pytest.raises(RuntimeError, match="signed"):
            prepared(UNSIGNED).load_state_dict(state)


def test_every_quantizer_has_one_vector_of_fixed_shape_and_nothing_trains_it():
    model = prepared()
    found = {key: value for key, value in model.state_dict().items() if key.endswith(GRID)}
    assert len(found) == len(mct.plan_of(model).quantized())
    assert {(tuple(value.shape), value.dtype) for value in found.values()} == {((40,), torch.float32)}
    assert not any(name.endswith(GRID) for name, _ in model.named_parameters())


def test_a_state_without_grids_loads_when_told_that_keys_may_lack():
    source, fresh = prepared(), prepared(SIGNED * 2)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith(GRID)}
    with pytest.raises(RuntimeError, match=f"Missing key.*{GRID}"):
        fresh.load_state_dict(state)
    fresh.load_state_dict(state, strict=False)
    assert torch.equal(fresh.eval()(SIGNED), source.eval()(SIGNED))


def test_a_state_of_the_original_packages_loads_into_the_wrapper():
    # Their keys: the weight on the wrapper, the rest in the layer, thresholds of training on the wrapper.
    weight, bias = torch.randn(2, 4), torch.randn(2)
    settings = TrainableQuantizerWeightsConfig(QuantizationMethod.SYMMETRIC, 8, {"threshold": [4.0]})
    wrapper = PytorchQuantizationWrapper(nn.Linear(4, 2), {"weight": pytorch_trainable_quantizer("STE", settings)})
    state = {"weight": weight, "layer.bias": bias, "weight_ptq_threshold_tensor": torch.ones(1)}
    with pytest.raises(RuntimeError, match="weight_ptq_threshold_tensor"):
        wrapper.load_state_dict(state)
    wrapper.load_state_dict(state, strict=False)
    # 8 bits over [-4, 4): steps of 1/32.
    codes = torch.clamp(torch.round(weight * 32), -128, 127)
    torch.testing.assert_close(wrapper(SIGNED), nn.functional.linear(SIGNED, codes / 32, bias))


def normalized():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    return mct.prepare_qat(network, torch.rand(16, 3, 8, 8), QuantizationConfig.from_bits("w4a4"))


def mean_of(model):
    return next(value.clone() for key, value in model.state_dict().items() if key.endswith("running_mean"))


def test_frozen_statistics_stay_frozen_when_training_resumes():
    frozen, resumed, x = normalized(), normalized(), torch.rand(16, 3, 8, 8) * 3
    mct.freeze_batch_norm_statistics(frozen)
    resumed.load_state_dict(frozen.state_dict())
    resumed.train()(x)
    assert torch.equal(mean_of(resumed), mean_of(frozen))
    # And live ones live again.
    resumed.load_state_dict(normalized().state_dict())
    before = mean_of(resumed)
    resumed.train()(x)
    assert not torch.equal(mean_of(resumed), before)
    (flag,) = (value for key, value in frozen.state_dict().items() if key.endswith("statistics_frozen"))
    assert (flag.shape, flag.item()) == ((1,), 1.0)
    assert not any("statistics_frozen" in key for key in mct.finalize(frozen).state_dict())


def test_an_average_over_the_moment_of_freezing_is_frozen():
    model = normalized()
    averaged = AveragedModel(model, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    averaged.update_parameters(model)
    mct.freeze_batch_norm_statistics(model)
    averaged.update_parameters(model)
    resumed = normalized()
    resumed.load_state_dict(averaged.module.state_dict())
    before = mean_of(resumed)
    resumed.train()(torch.rand(4, 3, 8, 8) * 3)
    assert torch.equal(mean_of(resumed), before)


def test_loading_leaves_a_batch_norm_in_the_mode_that_the_user_gave_it():
    model = normalized()
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.eval()
    model.load_state_dict(normalized().state_dict())
    assert not norm.training
