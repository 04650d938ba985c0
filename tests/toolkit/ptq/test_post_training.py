# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Post-training quantization: what it takes, what it refuses, what it leaves alone."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from toolkit_models import built, flat, images, random
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import model_compression_toolkit as mct
from model_compression_toolkit import ptq
from model_compression_toolkit.core.pytorch.surgery import quantizer_of


def network():
    model, _ = built("sequential")
    return model


def fingerprint(model):
    """Everything of a model that a flow must leave alone."""
    tensors = {
        name: (tensor, tensor.clone(), tensor.requires_grad)
        for name, tensor in model.state_dict(keep_vars=True).items()
    }
    hooks = {
        name: (
            list(module._forward_hooks.items()),
            list(module._forward_pre_hooks.items()),
            dict(module._buffers).keys(),
        )
        for name, module in model.named_modules()
    }
    return tensors, hooks, {name: (module, module.training) for name, module in model.named_modules()}


def check_untouched(model, before):
    tensors, hooks, modules = before
    after_tensors, after_hooks, after_modules = fingerprint(model)
    assert after_hooks == hooks
    assert after_modules.keys() == modules.keys()
    for name, (module, training) in modules.items():
        assert after_modules[name][0] is module
        assert module.training == training
    assert after_tensors.keys() == tensors.keys()
    for name, (tensor, value, requires_grad) in tensors.items():
        assert after_tensors[name][0] is tensor
        assert torch.equal(tensor, value)
        assert tensor.requires_grad == requires_grad
        assert tensor.grad is None


@pytest.fixture(params=["quantize", "prepare_qat"])
def call(request):
    return getattr(mct, request.param)


def mixed_model():
    """Partly in training, partly frozen, with a hook."""
    model = network().train()
    model[1].eval()
    model[0][0].weight.requires_grad_(False)
    model[0].register_forward_hook(lambda module, args, output: None)
    return model


def test_the_callers_model_is_untouched(call):
    model = mixed_model()
    before = fingerprint(model)
    prepared = call(model, images())
    prepared(images())
    check_untouched(model, before)
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in prepared.state_dict().values()}


FAILING = {
    "shape": lambda: random(4, 2, 8, 8),
    "nan": lambda: torch.full((4, 3, 8, 8), float("nan")),
    "later": lambda: [images(), torch.full((4, 3, 8, 8), float("inf"))],
    "empty": lambda: [],
    "type": lambda: ["images"],
}


@pytest.mark.parametrize("data", FAILING)
def test_the_callers_model_is_untouched_after_a_failed_call(call, data):
    model = mixed_model()
    before = fingerprint(model)
    with pytest.raises((ValueError, TypeError)):
        call(model, FAILING[data]())
    check_untouched(model, before)


def test_the_random_state_is_untouched(call):
    torch.manual_seed(7)
    expected = torch.rand(3)
    model, data = network(), images()
    torch.manual_seed(7)
    call(model, data)
    assert torch.equal(torch.rand(3), expected)


def test_two_calls_give_the_same_model_bit_for_bit(call):
    first, second = call(network(), images()), call(network(), images())
    assert mct.plan_of(first) == mct.plan_of(second)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_quantized_model_is_refused(call):
    for model in (mct.quantize(network(), images()), mct.prepare_qat(network(), images())):
        with pytest.raises(ValueError, match="`model` is quantized already"):
            call(model, images())


def test_every_form_of_data_gives_the_same_model(call):
    array = images(64).numpy()
    expected = mct.plan_of(call(network(), torch.from_numpy(array)))
    forms = [
        array,
        array.astype(np.float64),
        [array],
        [[torch.from_numpy(array)]],
        lambda: iter([[array]]),
        DataLoader(TensorDataset(torch.from_numpy(array)), batch_size=64),
    ]
    for data in forms:
        assert mct.plan_of(call(network(), data)) == expected
    # Smaller batches tell the same extremes and nearly the same histogram.
    config = mct.QuantizationConfig(
        activations=mct.TensorConfig(method=mct.QuantizationMethod.UNIFORM, range_search="min_max")
    )
    one, many = (mct.plan_of(call(network(), data, config)) for data in ([array], [array[:10], array[10:]]))
    for a, b in zip(one.quantized(), many.quantized(), strict=True):
        # Float sums of a convolution may run in another order for another batch size.
        np.testing.assert_allclose(a.params.scale, b.params.scale, rtol=1e-5)


def test_labels_in_the_data_are_refused_by_name(call):
    data = DataLoader(TensorDataset(images(), torch.zeros(16, dtype=torch.int64)), batch_size=8)
    with pytest.raises(
        ValueError, match=r"`data` must yield the inputs.*no labels.*\(8, 3, 8, 8\).*\(8,\) torch.int64"
    ):
        call(network(), data)


class Bad(nn.Module):
    """Makes NaN or infinity in the middle."""

    def __init__(self, value):
        super().__init__()
        self.first, self.second, self.value = nn.Linear(4, 4), nn.Linear(4, 2), value

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.second(torch.where(x > 0, x, self.value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_in_calibration_name_the_tensor(call, bad):
    data = images()
    data[3, 1, 2, 2] = bad
    with pytest.raises(ValueError, match=r"^Calibration met NaN or infinite values in input_1\.output\. [^\n]*$"):
        call(network(), [images(), data])
    with pytest.raises(ValueError, match=r"^Calibration met NaN or infinite values in where\.output\. [^\n]*$"):
        call(Bad(bad), random(16, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(call, bad):
    model = network()
    with torch.no_grad():
        model[4].weight[0, 0] = bad
    with pytest.raises(ValueError, match=r"4\.weight.*finite"):
        call(model, images())


def test_nan_in_later_inputs_is_not_hidden_and_infinity_saturates():
    quantized = mct.quantize(network(), images())
    data = images()
    data[0, 0, 0, 0] = float("nan")
    output = quantized(data)
    assert torch.isnan(output[0]).all()
    assert torch.isfinite(output[1:]).all()
    data[0, 0, 0, 0] = float("inf")
    assert torch.isfinite(quantized(data)).all()


def test_constant_and_dead_data_give_finite_grids(call):
    for value in (0.0, 1.0, -3.0, 1e-44):
        model = network()
        with torch.no_grad():
            model[0][0].weight[0] = 0.0
            model[4].weight.zero_()
        quantized = call(model, torch.full((4, 3, 8, 8), value))
        for tensor in mct.plan_of(quantized).quantized():
            assert np.isfinite(tensor.params.scale).all()
            zeros = torch.zeros(tensor.site.shape)
            assert not quantizer_of(quantized, tensor)(zeros).any()
        assert torch.isfinite(quantized(images())).all()


def test_a_range_that_grows_beyond_float32_is_calibrated():
    batches = [random(4, 4), torch.full((4, 4), 3e38), torch.full((4, 4), -3e38)]
    plan = mct.plan_of(mct.quantize(nn.Sequential(nn.Hardtanh(), nn.Linear(4, 2)), batches))
    params = plan["input_1.output"].params
    # MSE may clip; the grid still spans most of the range.
    assert params.max_range[0] > 1e38
    assert params.min_range[0] < -1e38


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_dtypes_keep_theirs(call, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).to(dtype).eval()
    x = random(32, 4).to(dtype)
    quantized = call(model, x).eval()
    output = quantized(x)
    assert output.dtype == dtype
    assert (output - model(x)).float().norm() < 0.03 * model(x).float().norm()
    scales = [tensor.dtype for name, tensor in quantized.state_dict().items() if name.endswith(".scale")]
    assert set(scales) == {torch.float32}
    assert {p.dtype for name, p in quantized.named_parameters() if not name.endswith("scale")} == {dtype}


def twins(model):
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    loaded = copy.deepcopy(model)
    for tensor in loaded.state_dict().values():
        tensor.zero_()
    loaded.load_state_dict(torch.load(saved, weights_only=True), strict=True)
    return {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "state": loaded,
        "average": torch.optim.swa_utils.AveragedModel(model).module,
        "average with buffers": torch.optim.swa_utils.AveragedModel(model, use_buffers=True).module,
    }


@pytest.mark.parametrize("name", ["projection", "words", "recurrent", "two_inputs"])
@pytest.mark.parametrize("step", ["quantized", "prepared", "final"])
@pytest.mark.parametrize("ran", [False, True], ids=["before", "after"])
def test_models_survive_copies_pickles_and_averages_before_and_after_a_run(name, step, ran):
    model, inputs = built(name)
    made = mct.quantize(model, [inputs]) if step == "quantized" else mct.prepare_qat(model, [inputs])
    made = mct.finalize(made) if step == "final" else made
    if ran:
        flat(made(*inputs))
    copies = twins(made)
    expected = flat(made.eval()(*inputs))
    for twin in copies.values():
        assert torch.equal(flat(twin.eval()(*inputs)), expected)
        assert mct.plan_of(twin) == mct.plan_of(made)
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in made.parameters()}


@pytest.mark.parametrize("name", ["sequential", "projection", "attention", "words", "chunk", "two_inputs"])
def test_a_quantized_model_exports_and_compiles(name):
    model, inputs = built(name)
    quantized = mct.quantize(model, [inputs])
    with torch.no_grad():
        expected = flat(quantized(*inputs))
        assert torch.equal(flat(torch.export.export(quantized, inputs).module()(*inputs)), expected)
        torch._dynamo.reset()
        compiled = torch.compile(quantized, fullgraph=True, backend="aot_eager")
        assert torch.equal(flat(compiled(*inputs)), expected)


def test_the_plan_holds_the_grids_that_run():
    model, inputs = built("projection")
    quantized = mct.quantize(model, [inputs])
    for tensor in mct.plan_of(quantized).quantized():
        assert quantizer_of(quantized, tensor).params == tensor.params
    assert mct.QuantizationPlan.from_dict(mct.plan_of(quantized).to_dict()) == mct.plan_of(quantized)


def test_a_float_model_has_no_plan():
    with pytest.raises(ValueError, match="`model` must be a model that `quantize` or `prepare_qat` returned"):
        mct.plan_of(network())


def test_the_result_is_in_evaluation_mode_and_needs_no_gradient_through_quantizers():
    quantized = mct.quantize(network().train(), images())
    assert not any(module.training for module in quantized.modules())


@pytest.mark.parametrize("config", [None, {"weights": 4}, "w8a8", 8])
def test_a_configuration_of_another_type_is_refused(call, config):
    if config is None:
        assert mct.plan_of(call(network(), images(), None)).quantized()
        return
    with pytest.raises(TypeError, match="`config` must be a QuantizationConfig"):
        call(network(), images(), config)


@pytest.mark.parametrize("name", ["sequential", "projection", "attention"])
def test_the_three_methods_work_on_every_granularity(name):
    model, inputs = built(name)
    expected = flat(model(*inputs))
    for method in (
        mct.QuantizationMethod.POWER_OF_TWO,
        mct.QuantizationMethod.SYMMETRIC,
        mct.QuantizationMethod.UNIFORM,
    ):
        for granularity in mct.Granularity:
            weights = mct.TensorConfig(method=method, granularity=granularity)
            config = mct.QuantizationConfig(weights=weights, activations=mct.TensorConfig(method=method))
            error = (flat(mct.quantize(model, [inputs], config)(*inputs)) - expected).norm() / expected.norm()
            # Powers of two waste up to a bit of each tensor.
            assert error < 0.08, (method, granularity)


def test_the_facade_of_the_interface_returns_model_and_information():
    model = network()
    quantized, information = ptq.pytorch_post_training_quantization(model, lambda: iter([[images()]]))
    assert torch.equal(quantized(images()), mct.quantize(model, [images()])(images()))
    assert information.quantization_plan == mct.plan_of(quantized)
    assert information.mixed_precision_cfg == [8, 8, 8]
    low = mct.QuantizationConfig.from_bits("w4a8", first_last_bits=8)
    _, information = mct.pytorch_post_training_quantization(model, lambda: iter([[images()]]), core_config=low)
    assert information.mixed_precision_cfg == [8, 4, 8]


@pytest.mark.parametrize("name", ["target_resource_utilization", "target_platform_capabilities"])
def test_the_facade_refuses_what_is_not_supported(name):
    with pytest.raises(NotImplementedError, match=f"`{name}` is not supported yet"):
        ptq.pytorch_post_training_quantization(network(), lambda: iter([[images()]]), **{name: "x"})
