# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Learned scales move by their own size under every optimizer, however a batch is cut, and keep their names."""

import copy

import numpy as np
import pytest
from method_cases import (
    ACTIVATION,
    CHANNELS,
    GRIDS,
    NAMES,
    SCHEDULES,
    SYMMETRIC,
    UNIFORM,
    WEIGHT,
    Case,
    class_of,
    config_of,
    few_of,
    gradients,
    needs_torch,
    quantizer_of,
    run,
    sample,
    state_of,
    trainable_names,
    variables_of,
    wings,
)

from mct_quantizers.common.lookup_table import LookupTable
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class

RATE = 1e-2
# Schedules start with no gradient, and learn what LSQ does.
LEARNED = [case for case in few_of(*NAMES) if case.name not in ("DOREFA", "DQA", *SCHEDULES)]
LEARNED = [case for case in LEARNED if (case.name, case.target) != ("STE", WEIGHT)]
SIZES = (1e-6, 300.0)


def sized(wing, case, size):
    """The quantizer of a case whose ranges are `size` times as wide, and a sample to match."""
    config = config_of(case)
    values = (config.weights_quantization_params if case.target is WEIGHT else
              config.activation_quantization_params)  # fmt: skip
    for name, value in values.items():
        if name != "is_signed":
            values[name] = value * 2.0 ** np.round(np.log2(size))
    config.min_threshold = 0.0
    quantizer = class_of(wing, case)(config)
    quantizer.initialize_quantization(case.shape if case.target is WEIGHT else None, "x", None)
    return quantizer, sample(case) * np.float32(2.0 ** np.round(np.log2(size)))


def step_of(wing, quantizer, x, adam, rate=RATE):
    """One step down the sum of the outputs."""
    if wing == "pytorch":
        import torch

        make = torch.optim.AdamW if adam else torch.optim.SGD
        optimizer = make(quantizer.parameters(), lr=rate)
        quantizer(torch.from_numpy(x), training=True).sum().backward()
        optimizer.step()
        return
    import keras

    found = gradients(quantizer, x)
    optimizer = (keras.optimizers.AdamW if adam else keras.optimizers.SGD)(rate)
    names, variables = trainable_names(quantizer), variables_of(quantizer)
    units = {name: quantizer._units.get(name) for name in names}
    optimizer.build([variables[name] for name in names])
    scaled = [
        found[name] if units[name] is None else found[name] / keras.ops.convert_to_numpy(units[name]) for name in names
    ]
    optimizer.apply([keras.ops.convert_to_tensor(each) for each in scaled], [variables[name] for name in names])


@pytest.mark.parametrize("size", SIZES)
@wings(LEARNED, [case for case in LEARNED if case.name in ("LSQ", "LSQ_PLUS", "LUT")])
def test_adam_moves_a_scale_by_its_own_size(wing, case, size):
    quantizer, x = sized(wing, case, size)
    before = state_of(quantizer)
    step_of(wing, quantizer, x, adam=True)
    after = state_of(quantizer)
    ratio = after["scale"] / before["scale"]
    # A unit is a power of two, at most a factor of √2 away; weight decay adds little.
    assert np.abs(ratio - 1).max() <= RATE * 1.5
    assert np.abs(ratio - 1).max() >= RATE / 1.5
    if "offset" in before:
        width = before["scale"] * quantizer.initial_params.quant_max
        assert (np.abs(after["offset"] - before["offset"]) <= 1.5 * RATE * width).all()


@pytest.mark.parametrize("size", SIZES)
@wings([case for case in LEARNED if case.grid is not GRIDS[0]], [case for case in LEARNED if case.name == "LSQ"])
def test_gradient_descent_moves_a_scale_as_if_it_were_learned_as_it_is(wing, case, size):
    quantizer, x = sized(wing, case, size)
    before, gradient = state_of(quantizer)["scale"], gradients(quantizer, x)["scale"]
    rate = 1e-3 * float(np.abs(before).max() / np.abs(gradient).max())
    step_of(wing, quantizer, x, adam=False, rate=rate)
    # Rounded to float32.
    np.testing.assert_allclose(state_of(quantizer)["scale"], before - rate * gradient, rtol=2e-6)


MICRO = [case for case in few_of(*NAMES) if case.target is ACTIVATION]


@wings(MICRO, [case for case in MICRO if case.name in ("LSQ", "LSQ_PLUS")])
def test_gradients_of_a_mean_do_not_depend_on_how_a_batch_is_cut(wing, case):
    x = np.random.default_rng(3).normal(scale=1.5, size=(64, 5, 2)).astype(np.float32)
    weight = np.random.default_rng(4).normal(size=(64, 5, 2)).astype(np.float32)
    whole, parts = quantizer_of(wing, case), quantizer_of(wing, case)

    def mean_loss(quantizer, part):
        import method_cases

        tensor = method_cases.tensor_for(quantizer, weight[part])
        return gradients(quantizer, x[part], lambda output: output * tensor / (part.stop - part.start))

    expected = mean_loss(whole, slice(0, 64))
    found = [mean_loss(parts, slice(start, start + 16)) for start in range(0, 64, 16)]
    for name in trainable_names(whole):
        added = sum(each[name] for each in found) / 4
        # Sums of 640 terms in float32.
        np.testing.assert_allclose(added, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max())


# Names, in PyTorch: those of the numbers themselves.


def network_and_data():
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, torch.randn(64, 8)


def prepared_and_trained(steps=60, weights="LSQ", activations="LSQ", bits="w8a8"):
    import torch

    import model_compression_toolkit as mct

    model, x = network_and_data()
    config = mct.QATConfig(weights, activations)
    prepared = mct.prepare_qat(model, x, mct.QuantizationConfig.from_bits(bits), config)
    before = {name: value.clone() for name, value in prepared.state_dict().items()}
    optimizer = torch.optim.AdamW(prepared.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (prepared(x) - model(x).detach()).square().mean().backward()
        optimizer.step()
    return prepared, before, x


def torch_quantizers(model):
    return {name: module for name, module in model.named_modules() if hasattr(module, "initial_params")}


@needs_torch
@pytest.mark.parametrize("activations", ["STE", "LSQ", "PACT", "EWGS", "DSQ"])
def test_scales_stay_near_calibration_when_a_network_that_fits_is_trained_on(activations):
    prepared, before, _ = prepared_and_trained(activations=activations)
    after = prepared.state_dict()
    ratios = np.concatenate([(after[name] / before[name]).numpy() for name in after if name.endswith("scale")])
    assert np.median(ratios) == pytest.approx(1.0, abs=0.05)
    # Sixty steps of 1e-3, each in units of at most √2 times the scale.
    assert np.abs(np.log(ratios)).max() < 0.1


@needs_torch
def test_a_state_names_the_scale_itself():
    import torch

    prepared, before, x = prepared_and_trained(steps=5)
    state = prepared.state_dict()
    assert state.keys() == before.keys()
    assert not [name for name in state if "relative" in name or "unit" in name]
    for name, quantizer in torch_quantizers(prepared).items():
        assert torch.equal(quantizer.scale, state[f"{name}.scale"])
        np.testing.assert_array_equal(quantizer.scale.numpy(), quantizer.params.scale)
        assert not torch.equal(state[f"{name}.scale"], before[f"{name}.scale"])
    output = prepared.eval()(x)
    import model_compression_toolkit as mct

    model, _ = network_and_data()
    other = mct.prepare_qat(model, 100 * x, qat_config=mct.QATConfig("LSQ", "LSQ"))
    other.load_state_dict({name: value.clone() for name, value in state.items()}, strict=True)
    assert torch.equal(other.eval()(x), output)
    # A calibration of quite another size brought units that would be wrong for these scales.
    for quantizer in torch_quantizers(other).values():
        ratio = quantizer.scale / quantizer.scale_unit
        assert ((ratio > 1 / 17) & (ratio < 17)).all()


@needs_torch
@pytest.mark.parametrize("observe", ["output", "state", "copy", "params"])
def test_what_is_written_into_a_state_counts(observe):
    """As averages of states do it: every tensor of `state_dict()`, in place."""
    import torch

    prepared, _, x = prepared_and_trained(steps=2)
    average = copy.deepcopy(prepared)
    expected = {}
    for name, value in average.state_dict().items():
        if name.endswith("scale"):
            value.mul_(0.5).add_(0.25 * value)
        expected[name] = value.clone()
    if observe == "output":
        assert not torch.equal(average.eval()(x), prepared.eval()(x))
    found = copy.deepcopy(average) if observe == "copy" else average
    for name, quantizer in torch_quantizers(found).items():
        scale = quantizer.params.scale if observe == "params" else quantizer.scale
        np.testing.assert_array_equal(np.asarray(scale, np.float32), expected[f"{name}.scale"].numpy())
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name])


@needs_torch
def test_errors_of_loading_name_the_scale():
    quantizer = quantizer_of("pytorch", Case("LSQ", SYMMETRIC, WEIGHT, 0))
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "scale"'):
        quantizer.load_state_dict({})
    import torch

    with pytest.raises(RuntimeError, match="size mismatch for scale: "):
        quantizer.load_state_dict({"scale": torch.ones(CHANNELS + 1)})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "relative_scale"'):
        quantizer.load_state_dict({"scale": torch.ones(CHANNELS), "relative_scale": torch.ones(CHANNELS)})


@needs_torch
def test_frozen_parameters_are_kept_as_they_are():
    case = Case("LSQ", UNIFORM, ACTIVATION)
    quantizer = class_of("pytorch", case)(config_of(case), True)
    quantizer.initialize_quantization(None, "x", None)
    assert {"scale", "zero_point"} <= set(quantizer.state_dict())
    assert "scale_unit" not in dict(quantizer.named_buffers())
    assert not list(quantizer.parameters())


@wings(*[[case for case in few_of(*NAMES) if method_class(case.name).name not in ("SOFT_ROUNDING", "DOREFA")]] * 2)
def test_tiny_scales_count_as_they_are(wing, case):
    """Also those whose square is no float32 number: training uses the scale that calibration found."""
    config = config_of(case)
    values = config.weights_quantization_params if case.target is WEIGHT else config.activation_quantization_params
    for name, value in values.items():
        if name != "is_signed":
            values[name] = value * 2.0**-75
    config.min_threshold = 0.0
    quantizer = class_of(wing, case)(config)
    quantizer.initialize_quantization(case.shape if case.target is WEIGHT else None, "x", None)
    x = sample(case) * np.float32(2.0**-75)
    params, start = quantizer.params, quantizer.initial_params
    if isinstance(params, LookupTable):
        assert (params.threshold < 2.0**-60).all()
    else:
        np.testing.assert_array_equal(params.scale, start.scale)
        ordinary = quantizer_of(wing, case)
        np.testing.assert_array_equal(run(quantizer, x), run(ordinary, sample(case)) * np.float32(2.0**-75))
    found = gradients(quantizer, x)
    assert all(np.isfinite(each).all() for each in found.values())
