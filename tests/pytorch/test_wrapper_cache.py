# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""In inference a wrapper quantizes its weight once, and again as soon as anything has changed."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mct_quantizers import PytorchQuantizationWrapper, pytorch_quantizers


class Counted(pytorch_quantizers.WeightsSymmetricInferableQuantizer):
    """A quantizer that counts its calls. Its class carries no mark of its own, so no registry finds it."""

    calls = 0

    def forward(self, inputs):
        self.calls += 1
        return super().forward(inputs)


def wrapped(num_bits: int = 4, mode: bool = False) -> tuple[PytorchQuantizationWrapper, Counted]:
    torch.manual_seed(0)
    quantizer = Counted(num_bits, [1.0, 0.5, 2.0], per_channel=True, channel_axis=0)
    return PytorchQuantizationWrapper(nn.Linear(5, 3), {"weight": quantizer}).train(mode), quantizer


X = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


def expected(wrapper: PytorchQuantizationWrapper) -> torch.Tensor:
    """The layer's formula with the weight quantized anew."""
    quantizer = wrapper.weights_quantizers["weight"]
    fresh = pytorch_quantizers.WeightsSymmetricInferableQuantizer.from_params(quantizer.params)
    return nn.functional.linear(X, fresh(wrapper.weight), wrapper.layer.bias)


def test_weight_is_quantized_once_in_inference():
    wrapper, quantizer = wrapped()
    first, second = wrapper(X), wrapper(X)
    assert quantizer.calls == 1
    assert torch.equal(first, second)
    assert torch.equal(first, expected(wrapper))


def test_weight_is_quantized_at_every_step_of_training():
    wrapper, quantizer = wrapped(mode=True)
    wrapper(X)
    wrapper(X)
    assert quantizer.calls == 2


def in_place(wrapper):
    with torch.no_grad():
        wrapper.weight.mul_(0.3)


def through_data(wrapper):
    wrapper.weight.data.mul_(0.3)


def through_numpy(wrapper):
    wrapper.weight.detach().numpy()[0, 0] += 0.7


def one_element_through_data(wrapper):
    wrapper.weight.data[2, 4] = 0.9


def new_data(wrapper):
    wrapper.weight.data = wrapper.weight.data * 0.3


def new_parameter(wrapper):
    wrapper.weight = nn.Parameter(wrapper.weight.detach() * 0.3)


def loaded(wrapper):
    state = {key: value.clone() for key, value in wrapper.state_dict().items()}
    state["weight"] *= 0.3
    wrapper.load_state_dict(state)


def loaded_scale(wrapper):
    state = {key: value.clone() for key, value in wrapper.state_dict().items()}
    state["weight_quantizer.scale"] *= 2
    wrapper.load_state_dict(state)


def optimizer_step(wrapper):
    wrapper.weight.grad = torch.ones_like(wrapper.weight)
    torch.optim.SGD([wrapper.weight], lr=0.3).step()


def other_quantizer_with_the_same_scale(wrapper):
    former = wrapper.weights_quantizers["weight"]
    wrapper.set_quantizer("weight", Counted(3, (former.scale * 4).tolist(), per_channel=True, channel_axis=0))


CHANGES = [
    in_place,
    through_data,
    through_numpy,
    one_element_through_data,
    new_data,
    new_parameter,
    loaded,
    loaded_scale,
    optimizer_step,
    other_quantizer_with_the_same_scale,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_any_change_is_seen(change):
    wrapper, _ = wrapped()
    before = wrapper(X)
    change(wrapper)
    after = wrapper(X)
    assert not torch.equal(before, after)
    assert torch.equal(after, expected(wrapper))


def test_the_mode_drops_what_was_kept():
    wrapper, quantizer = wrapped()
    wrapper(X)
    wrapper.train().eval()
    wrapper(X)
    assert quantizer.calls == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_is_another_weight(dtype):
    wrapper, _ = wrapped()
    wrapper(X)
    wrapper.to(dtype)
    assert wrapper(X.to(dtype)).dtype == dtype


def test_weight_with_nan_is_quantized_every_time():
    wrapper, quantizer = wrapped()
    wrapper.weight.data[0, 0] = torch.nan
    wrapper(X)
    assert wrapper(X).isnan().any()
    assert quantizer.calls == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_start_without_what_was_kept(copied):
    wrapper, _ = wrapped()
    outputs = wrapper(X)
    again = copied(wrapper)
    in_place(again)
    assert torch.equal(again(X), expected(again))
    assert torch.equal(wrapper(X), outputs)
    size = len(pickle.dumps(wrapper))
    assert len(pickle.dumps(wrapper.train().eval())) == size, "what was kept is no part of the pickle"


def test_what_was_kept_is_no_state():
    wrapper, _ = wrapped()
    keys = set(wrapper.state_dict())
    wrapper(X)
    assert set(wrapper.state_dict()) == keys
    buffer = io.BytesIO()
    torch.save(wrapper.state_dict(), buffer)


def test_average_of_the_weights_follows():
    wrapper, _ = wrapped()
    averaged = AveragedModel(wrapper)
    averaged.eval()(X)
    in_place(wrapper)
    averaged.update_parameters(wrapper)
    in_place(wrapper)
    averaged.update_parameters(wrapper)
    assert torch.equal(averaged(X), expected(averaged.module))


def test_quantized_weights_are_the_callers_own():
    wrapper, _ = wrapped()
    outputs = wrapper(X)
    wrapper.get_quantized_weights()["weight"].zero_()
    assert torch.equal(wrapper(X), outputs)


def test_inference_mode_and_gradients_to_the_input_go_together():
    wrapper, _ = wrapped()
    with torch.inference_mode():
        outputs = wrapper(X)
    x = X.clone().requires_grad_()
    again = wrapper(x)
    again.sum().backward()
    assert torch.equal(outputs, again.detach())
    assert torch.equal(x.grad, wrapper.get_quantized_weights()["weight"].sum(0).expand(4, 5))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for clamp in place
def test_compiled_exported_and_transformed_calls_see_changes_too():
    wrapper, _ = wrapped()
    compiled = torch.compile(wrapper, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(wrapper, (X,)).module()
    before = wrapper(X)
    assert torch.equal(compiled(X), before)
    assert torch.equal(exported(X), before)
    in_place(wrapper)
    assert torch.equal(compiled(X), expected(wrapper))
    weights = torch.stack([wrapper.weight.detach(), wrapper.weight.detach() * 2])
    outputs = torch.func.vmap(lambda weight: torch.func.functional_call(wrapper, {"weight": weight}, (X,)))(weights)
    assert torch.equal(outputs[0], expected(wrapper))
    assert not torch.equal(outputs[1], outputs[0])
    assert torch.equal(wrapper(X), expected(wrapper))


def test_trainable_quantizers_are_never_kept():
    class Halving(nn.Module):
        calls = 0

        def initialize_quantization(self, tensor_shape, name, layer):
            return {}

        def forward(self, inputs):
            self.calls += 1
            return inputs / 2

    quantizer = Halving()
    wrapper = PytorchQuantizationWrapper(nn.Linear(5, 3), {"weight": quantizer}).eval()
    wrapper(X)
    wrapper(X)
    assert quantizer.calls == 2
