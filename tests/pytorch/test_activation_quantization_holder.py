# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch_samples import Doubling, FlaggedModule, FlaggedQuantizer, FreezesToPlainObject, StepQuantizer

from mct_quantizers import (
    PytorchActivationQuantizationHolder,
    PytorchFLNActivationQuantizationHolder,
    PytorchPreservingActivationQuantizationHolder,
    pytorch_quantizers,
)
from mct_quantizers.pytorch.quantizers import (
    ActivationPOTInferableQuantizer,
    ActivationSymmetricInferableQuantizer,
    ActivationUniformInferableQuantizer,
    WeightsPOTInferableQuantizer,
    WeightsSymmetricInferableQuantizer,
)

QUANTIZERS = {
    "symmetric": lambda: ActivationSymmetricInferableQuantizer(4, [1.3], signed=True),
    "pot": lambda: ActivationPOTInferableQuantizer(8, [2.0], signed=False),
    "uniform": lambda: ActivationUniformInferableQuantizer(4, [-1.0], [2.5]),
}
every_quantizer = pytest.mark.parametrize("make", QUANTIZERS.values(), ids=QUANTIZERS)


def batch() -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 2


def holder(make=QUANTIZERS["uniform"]) -> PytorchActivationQuantizationHolder:
    return PytorchActivationQuantizationHolder(make())


@every_quantizer
def test_holder_quantizes_its_input(make):
    x, quantizer = batch(), make()
    held = PytorchActivationQuantizationHolder(activation_holder_quantizer=quantizer)
    assert torch.equal(held(x), quantizer(x))
    assert not torch.equal(held(x), x)
    assert held.activation_holder_quantizer is quantizer


def test_quantizer_is_initialized_once_with_the_promised_name():
    quantizer = StepQuantizer(0.25)
    held = PytorchActivationQuantizationHolder(quantizer)
    assert quantizer.tensor_shape is None
    assert quantizer.name == "activation_holder_quantizer_out"
    assert quantizer.layer_type is PytorchActivationQuantizationHolder
    assert list(dict(held.named_parameters())) == ["activation_holder_quantizer_out_step"]


def test_gradient_flows_through_a_trainable_quantizer():
    held, x = PytorchActivationQuantizationHolder(StepQuantizer(0.25)), batch().requires_grad_()
    held(x).sum().backward()
    # (1 · s) / s with s = 1/4: exact.
    assert (x.grad == 1).all()
    residue = torch.round(x.detach() / 0.25) - x.detach() / 0.25
    # Two float32 sums of 12 terms up to 32 that cancel to residues.
    assert abs(held.activation_holder_quantizer_out_step.grad.item() - residue.sum().item()) <= 12 * 32 * 2.0**-24


@pytest.mark.parametrize("make", [FlaggedQuantizer, FlaggedModule])
def test_training_flag_is_passed_to_a_quantizer_that_asks_for_it(make):
    held, x = PytorchActivationQuantizationHolder(make()), batch()
    in_training = {FlaggedQuantizer: x * 2, FlaggedModule: x * 3.0}[make]
    in_evaluation = {FlaggedQuantizer: torch.round(x / 0.25) * 0.25, FlaggedModule: x}[make]
    assert torch.equal(held(x), in_training)
    assert torch.equal(held.eval()(x), in_evaluation)
    assert torch.equal(held.train()(x), in_training)


def test_conversion_puts_the_frozen_quantizer_in_place():
    held, x = PytorchActivationQuantizationHolder(StepQuantizer(0.25)), batch()
    before = held(x)
    assert held.convert_to_inferable_quantizers() is None
    assert isinstance(held.activation_holder_quantizer, WeightsSymmetricInferableQuantizer)
    assert torch.equal(held(x), before)
    frozen = held.activation_holder_quantizer
    held.convert_to_inferable_quantizers()
    assert held.activation_holder_quantizer is frozen


def test_conversion_of_a_module_leaves_no_state_of_it_behind():
    held = PytorchActivationQuantizationHolder(FlaggedModule())
    held.convert_to_inferable_quantizers()
    assert isinstance(held.activation_holder_quantizer, WeightsPOTInferableQuantizer)
    names = ("quantization_grid", "scale", "zero_point")
    assert sorted(held.state_dict()) == [f"activation_holder_quantizer.{name}" for name in names]


def test_module_may_freeze_to_a_plain_object():
    held, x = PytorchActivationQuantizationHolder(FreezesToPlainObject()), batch()
    held.convert_to_inferable_quantizers()
    assert isinstance(held.activation_holder_quantizer, Doubling)
    assert torch.equal(held(x), x * 2)
    assert held.state_dict() == {}


@every_quantizer
def test_conversion_leaves_inferable_quantizers_as_they_are(make):
    held = holder(make)
    quantizer = held.activation_holder_quantizer
    held.convert_to_inferable_quantizers()
    assert held.activation_holder_quantizer is quantizer


def test_quantizer_may_be_replaced():
    held, x = holder(), batch()
    held.set_quantizer(QUANTIZERS["pot"]())
    assert torch.equal(held(x), QUANTIZERS["pot"]()(x))
    assert held.state_dict()["activation_holder_quantizer.scale"].tolist() == [2.0 / 256]


@every_quantizer
def test_state_loads_strictly_into_a_fresh_holder(make):
    source, x = holder(make), batch()
    source.activation_holder_quantizer.scale.mul_(1.7)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    fresh = holder(make)
    assert not torch.equal(fresh(x), source(x))
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(x), source(x))


@every_quantizer
@pytest.mark.parametrize("after_forward", [False, True])
def test_copies_compute_alike_and_share_nothing(make, after_forward):
    held, x = holder(make), batch()
    if after_forward:
        held(x)
    expected = held(x)
    for clone in (copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert torch.equal(clone(x), expected)
        clone.activation_holder_quantizer.scale.mul_(2)
        assert torch.equal(held(x), expected)


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_scale_stays_float32_to_the_bit(change):
    held = holder()
    scale = held.activation_holder_quantizer.scale.clone()
    getattr(held, change)()
    assert held.activation_holder_quantizer.scale.dtype == torch.float32
    assert torch.equal(held.activation_holder_quantizer.scale, scale)


@every_quantizer
def test_symbolic_trace_computes_alike_and_survives_pickle(make):
    model, x = nn.Sequential(nn.Linear(4, 4), holder(make)), batch()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), model(x))
    # The parameters are looked up, not frozen into the graph.
    traced.get_submodule("1.activation_holder_quantizer").scale.mul_(2)
    assert torch.equal(traced(x), model(x))


def test_symbolic_trace_of_the_holder_alone():
    held, x = holder(), batch()
    assert torch.equal(torch.fx.symbolic_trace(held)(x), held(x))


def test_compiled_holder_equals_eager():
    torch._dynamo.reset()
    held, x = holder(), batch()
    compiled = torch.compile(held, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), held(x))


def test_exported_holder_equals_eager():
    held, x = holder().eval(), batch()
    assert torch.equal(torch.export.export(held, (x,)).module()(x), held(x))


@pytest.mark.parametrize("quantizer", [None, 8, "8 bits", torch.relu], ids=["none", "number", "text", "function"])
def test_wrong_quantizer_is_refused(quantizer):
    with pytest.raises(TypeError, match=r"`activation_holder_quantizer` must be a quantizer\. Received: .+"):
        PytorchActivationQuantizationHolder(quantizer)


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="name"):
        PytorchActivationQuantizationHolder(QUANTIZERS["pot"](), name="out")


BYPASSABLE = [PytorchFLNActivationQuantizationHolder, PytorchPreservingActivationQuantizationHolder]


@pytest.mark.parametrize("holder_class", BYPASSABLE)
def test_a_bypassed_holder_returns_its_input_itself(holder_class):
    quantizer = pytorch_quantizers.ActivationSymmetricInferableQuantizer(2, [1.0], True)
    x = torch.tensor([-3.0, 0.3, 0.9])
    assert holder_class(quantizer, quantization_bypass=True)(x) is x
    # Two bits and a threshold of one: steps of a half, from -1 to 0.5.
    assert holder_class(quantizer)(x).tolist() == [-1.0, 0.5, 0.5]


@pytest.mark.parametrize("holder_class", BYPASSABLE)
def test_bypassable_holders_are_traced_copied_and_checked(holder_class):
    quantizer = pytorch_quantizers.ActivationUniformInferableQuantizer(3, [-1.0], [1.0])
    x = torch.randn(16)
    for bypass in (False, True):
        holder = holder_class(quantizer, bypass)
        traced = torch.fx.symbolic_trace(holder)
        for copied in (traced, copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
            assert torch.equal(copied(x), holder(x))
    with pytest.raises(TypeError, match=r"`quantization_bypass` must be True or False. Received: .*=2"):
        holder_class(quantizer, 2)
    assert not issubclass(PytorchPreservingActivationQuantizationHolder, PytorchFLNActivationQuantizationHolder)
