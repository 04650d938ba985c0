# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""A ReLU that is computed along with the quantizer behind it is a ReLU for everyone."""

import math

import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional

from mct_quantizers import (
    BaseInferableQuantizer,
    PytorchActivationQuantizationHolder,
    PytorchFLNActivationQuantizationHolder,
    PytorchPreservingActivationQuantizationHolder,
    QuantizationTarget,
    mark_quantizer,
)
from mct_quantizers.common.quant_info import QuantizationMethod
from mct_quantizers.pytorch import kernels
from mct_quantizers.pytorch.native.library import native_library
from mct_quantizers.pytorch.pending import (
    Pending,
    ReLU6BeforeQuantization,
    ReLUBeforeQuantization,
    relu_before_quantization,
)

needs_compiler = pytest.mark.skipif(native_library() is None, reason="there is no C++ compiler")
RELUS = {math.inf: functional.relu, 6.0: functional.relu6}


def samples(shape=(3, 4, 50), seed=0):
    x = 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x.view(-1)[:8] = torch.tensor([0.0, -0.0, 6.0, 7.0, -7.0, 1e-40, 0.125, -0.125])
    return x


def grid(per_channel, has_zero_point):
    scale = torch.linspace(0.3, 0.6, 4).reshape(1, 4, 1) if per_channel else torch.tensor([0.4])
    return scale.requires_grad_(), torch.full_like(scale, 3.0).detach() if has_zero_point else None


def gradients(x, scale, zero_point, relu):
    source = x.clone().requires_grad_()
    scale.grad = None
    y = kernels.fake_quantize_learned(relu(source * 1.0), scale, zero_point, 0, 15, 0.5)
    y.backward(samples(x.shape, seed=1))
    return y.detach(), source.grad, scale.grad


@pytest.mark.parametrize("has_zero_point", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("ceiling", RELUS)
@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_compiler), False])
def test_values_and_gradients_are_those_of_the_relu_and_then_the_quantizer(
    is_native, ceiling, per_channel, has_zero_point, monkeypatch
):
    if not is_native:
        monkeypatch.setattr("mct_quantizers.pytorch.native.fake_quantize.native_library", lambda: None)
    x, (scale, zero_point) = samples(), grid(per_channel, has_zero_point)
    expected = gradients(x, scale, zero_point, RELUS[ceiling])
    y, to_x, to_scale = gradients(x, scale, zero_point, lambda source: relu_before_quantization(source, ceiling))
    assert torch.equal(y, expected[0])
    assert torch.equal(to_x, expected[1])
    # float32 terms of at most 0.5 · 15 · 16, summed in another order.
    torch.testing.assert_close(to_scale, expected[2], rtol=0, atol=120 * x.numel() / scale.numel() * 2.0**-22)


@needs_compiler
def test_the_quantizer_leaves_nothing_to_compute():
    pending = relu_before_quantization(samples().requires_grad_() * 1.0)
    kernels.fake_quantize_learned(pending, torch.tensor([0.4]), None, 0, 15)
    assert pending.is_pending


@needs_compiler
def test_not_a_number_and_infinity_go_through_as_through_a_relu():
    x = torch.tensor([math.nan, math.inf, -math.inf]).requires_grad_() * 1.0
    y = kernels.fake_quantize_learned(relu_before_quantization(x), torch.tensor([0.5]), None, 0, 15)
    torch.testing.assert_close(y, torch.tensor([math.nan, 7.5, 0.0]), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    "use",
    [
        lambda x: x + 1.0,
        lambda x: x.mul(2.0),
        lambda x: 3.0 - x,
        lambda x: torch.cat([x, x]),
        lambda x: x[1:],
        lambda x: x.detach(),
        lambda x: x.double(),
        lambda x: functional.max_pool1d(x, 2),
        lambda x: torch.tensor(x.tolist()),
        lambda x: x.data,
        lambda x: x.add_(1.0),
    ],
)
def test_whoever_asks_for_values_gets_a_relu(use):
    source = samples().requires_grad_() * 1.0
    received = use(relu_before_quantization(source))
    torch.testing.assert_close(received, use(functional.relu(source)), rtol=0, atol=0)
    assert type(received) is torch.Tensor


def test_shape_and_kind_are_told_without_computing():
    source = samples().requires_grad_() * 1.0
    pending = relu_before_quantization(source)
    assert (pending.shape, pending.dtype, pending.device) == (source.shape, source.dtype, source.device)
    assert (pending.numel(), pending.dim(), pending.ndim, pending.size(1)) == (600, 3, 3, 4)
    assert pending.is_floating_point()
    assert pending.is_pending
    assert pending.requires_grad


def test_gradients_meet_at_the_source_when_others_use_it_too():
    x = samples().requires_grad_()
    pending = relu_before_quantization(x * 1.0)
    scale = torch.tensor([0.4])
    (kernels.fake_quantize_learned(pending, scale, None, 0, 15) + pending).sum().backward()
    other = samples().requires_grad_()
    relu = functional.relu(other * 1.0)
    (kernels.fake_quantize_learned(relu, scale, None, 0, 15) + relu).sum().backward()
    assert torch.equal(x.grad, other.grad)


@pytest.mark.parametrize(
    "module, relu", [(ReLUBeforeQuantization(), functional.relu), (ReLU6BeforeQuantization(), functional.relu6)]
)
def test_modules_are_plain_where_nothing_is_trained(module, relu):
    x = samples()
    assert torch.equal(module(x), relu(x))
    assert type(module(x)) is torch.Tensor
    with torch.no_grad():
        assert type(module(x.requires_grad_())) is torch.Tensor
    assert isinstance(module(x * 1.0), Pending)


def test_half_precision_is_computed_first():
    x = samples().bfloat16().requires_grad_() * 1.0
    y = kernels.fake_quantize_learned(relu_before_quantization(x), torch.tensor([0.4]), None, 0, 15)
    expected = kernels.fake_quantize_learned(functional.relu(x), torch.tensor([0.4]), None, 0, 15)
    assert torch.equal(y, expected)


def test_compiled_code_sees_a_relu():
    compiled = torch.compile(lambda x: relu_before_quantization(x * 1.0) + 1.0, fullgraph=True, backend="aot_eager")
    x = samples().requires_grad_()
    torch.testing.assert_close(compiled(x), functional.relu(x) + 1.0, rtol=0, atol=0)


class Doubled(torch.autograd.Function):
    """A function of autograd that sees nothing of `__torch_function__`."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


@mark_quantizer(
    quantization_target=QuantizationTarget.Activation,
    quantization_method=[QuantizationMethod.POWER_OF_TWO],
    identifier="doubled",
)
class OwnQuantizer(BaseInferableQuantizer):
    """A user's quantizer that computes by a function of autograd."""

    def initialize_quantization(self, tensor_shape, name, layer):
        return {}

    def __call__(self, x):
        return Doubled.apply(x)


def test_quantizers_of_others_get_values_and_pass_gradients():
    x = samples().requires_grad_()
    holder = PytorchActivationQuantizationHolder(OwnQuantizer())
    result = holder(relu_before_quantization(x * 1.0))
    assert torch.equal(result, 2 * functional.relu(x))
    result.sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))


@pytest.mark.parametrize(
    "holder_type", [PytorchFLNActivationQuantizationHolder, PytorchPreservingActivationQuantizationHolder]
)
def test_holders_that_let_their_input_through_give_values(holder_type):
    holder = holder_type(OwnQuantizer(), quantization_bypass=True)
    x = samples().requires_grad_() * 1.0
    result = holder(relu_before_quantization(x))
    assert type(result) is torch.Tensor
    assert torch.equal(result, functional.relu(x))


def test_the_straight_through_gradient_of_errors_reaches_the_source():
    x = samples().requires_grad_()
    kernels.scale_gradient_by_error(relu_before_quantization(x * 1.0), torch.zeros_like(x), 0.5).sum().backward()
    assert torch.equal(x.grad, (x > 0).float())


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_see_gradients(register):
    seen = []
    relu, holder = ReLUBeforeQuantization(), PytorchActivationQuantizationHolder(OwnQuantizer())
    for module in (relu, holder):
        getattr(module, register)(lambda module, *gradients: seen.append(gradients[-1][0]))
    x = samples().requires_grad_()
    holder(relu(x * 1.0)).sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))
    assert [float(gradient.max()) for gradient in seen] == [1.0, 2.0]


def test_backward_hooks_of_all_modules_see_gradients():
    seen, x = [], samples().requires_grad_()
    handle = torch.nn.modules.module.register_module_full_backward_hook(lambda *_: seen.append(1))
    try:
        result = ReLUBeforeQuantization()(x * 1.0)
        assert type(result) is torch.Tensor
        result.sum().backward()
    finally:
        handle.remove()
    assert seen == [1]
    assert torch.equal(x.grad, (x > 0).float())


def test_a_hook_on_the_tensor_is_called():
    seen, x = [], samples().requires_grad_()
    pending = relu_before_quantization(x * 1.0)
    pending.register_hook(lambda gradient: seen.append(gradient.shape))
    kernels.fake_quantize_learned(pending, torch.tensor([0.4]), None, 0, 15).sum().backward()
    assert seen == [x.shape]


@pytest.mark.parametrize(
    "use", [lambda x: kernels.fake_quantize_learned(x, torch.tensor([0.4]), None, 0, 15), torch.exp]
)
def test_a_source_that_is_changed_in_place_is_an_error(use):
    source = samples().requires_grad_() * 1.0
    pending = relu_before_quantization(source)
    source.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place before the quantizer ran"):
        use(pending)


def test_a_function_of_autograd_that_does_not_ask_for_values_is_an_error():
    x = samples().requires_grad_()
    result = Doubled.apply(relu_before_quantization(x * 1.0))
    with pytest.raises(RuntimeError, match=r"result.clone\(\)"):
        result.sum().backward()
    Doubled.apply(relu_before_quantization(x * 1.0).clone()).sum().backward()
    assert torch.equal(x.grad, 2.0 * (x > 0))
