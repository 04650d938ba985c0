# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from corner_samples import corners, grid
from torch_samples import assert_same_bits

from mct_quantizers.common import arithmetic, numpy_ops
from mct_quantizers.common.ops import Ops
from mct_quantizers.pytorch import ops as torch_ops

KINDS = ("symmetric", "unsigned", "power_of_two", "uniform")


@pytest.mark.parametrize("name", sorted(name for name in vars(Ops) if not name.startswith("_")))
def test_both_namespaces_supply_every_name_of_the_protocol(name):
    assert callable(getattr(numpy_ops, name))
    assert callable(getattr(torch_ops, name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_bits", [1, 4, 8, 16])
def test_formula_on_torch_equals_numpy_bit_for_bit(kind, num_bits):
    params = grid(kind, num_bits, axis=0)
    x = corners(params)
    tensor = torch.from_numpy(x)
    assert_same_bits(
        arithmetic.fake_quantize(tensor, params, torch_ops), arithmetic.fake_quantize(x, params, numpy_ops)
    )
    finite = np.where(np.isnan(x), np.float32(0), x)
    codes = arithmetic.quantize(torch.from_numpy(finite), params, torch_ops)
    assert codes.dtype == torch.int32
    np.testing.assert_array_equal(codes.numpy(), arithmetic.quantize(finite, params, numpy_ops))
    assert_same_bits(
        arithmetic.dequantize(codes, params, torch_ops, like=tensor),
        arithmetic.dequantize(codes.numpy(), params, numpy_ops, like=x),
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_equal_numpy_bit_for_bit(dtype):
    params = grid("uniform", 5, axis=0)
    x = np.nan_to_num(corners(params), nan=np.nan, posinf=3e4, neginf=-3e4).clip(-6e4, 6e4).astype(dtype)
    outputs = arithmetic.fake_quantize(torch.from_numpy(x), params, torch_ops)
    assert_same_bits(outputs, arithmetic.fake_quantize(x, params, numpy_ops))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_tensor_that_is_not_floating_point_is_refused(dtype):
    with pytest.raises(TypeError, match=f"floating-point.*{dtype}"):
        torch_ops.to_compute_dtype(torch.zeros(2, dtype=dtype))


def test_nan_has_no_integer():
    with pytest.raises(ValueError, match="NaN"):
        torch_ops.to_integer(torch.tensor([1.0, float("nan")]))


def test_power_of_two_equals_numpy():
    x = np.random.default_rng(0).lognormal(0, 20, 10_000).astype(np.float32).clip(1e-30, 1e30)
    assert_same_bits(arithmetic.power_of_two(torch.from_numpy(x), torch_ops), arithmetic.power_of_two(x, numpy_ops))


def test_straight_through_rounding_has_gradient_one():
    x = torch.linspace(-2, 2, 17, requires_grad=True)
    arithmetic.round_ste(x, torch_ops).sum().backward()
    assert (x.grad == 1).all()


def test_scale_gradient_multiplies_the_gradient_alone():
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    outputs = arithmetic.scale_gradient(x, 0.125, torch_ops)
    outputs.sum().backward()
    assert outputs.tolist() == [0.5, 2.0]
    assert x.grad.tolist() == [0.125, 0.125]


def test_absolute_and_maximum_equal_numpy():
    x = np.array([-1.5, -0.0, 0.0, 2.0, np.inf], np.float32)
    assert_same_bits(torch_ops.absolute(torch.from_numpy(x)), numpy_ops.absolute(x))
    np.testing.assert_array_equal(torch_ops.maximum(torch.from_numpy(x), 0.5).numpy(), numpy_ops.maximum(x, 0.5))
