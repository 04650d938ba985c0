# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Saved quantized models: they come back bit by bit, and no file, however damaged or hostile, is executed."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from quantized_networks import (
    ACTIVATIONS,
    LAYERS,
    LEVELS,
    WEIGHTS,
    Network,
    assert_round_trip,
    assert_same_model,
    edit,
    images,
    per_tensor,
    quantized_network,
    simple,
    stored,
    wrapped,
)
from torch import nn
from torch_samples import Doubling, FlaggedModule, StepQuantizer

from mct_quantizers import (
    PytorchActivationQuantizationHolder,
    PytorchFLNActivationQuantizationHolder,
    PytorchPreservingActivationQuantizationHolder,
    PytorchQuantizationWrapper,
    mark_quantizer,
)
from mct_quantizers.common.quant_info import QuantizerID
from mct_quantizers.pytorch import quantizers as q
from mct_quantizers.pytorch.load_model import pytorch_load_quantized_model as load
from mct_quantizers.pytorch.load_model import pytorch_save_quantized_model as save
from mct_quantizers.pytorch.metadata import add_metadata, get_metadata

# Round trips.


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("quantizer", WEIGHTS)
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "per_tensor"])
def test_quantized_weights_come_back(tmp_path, layer, quantizer, per_channel):
    make, axis, data = LAYERS[layer]
    arguments = (4, True, axis) if per_channel else (1, False)
    saved = nn.Sequential(wrapped(make(), weight=WEIGHTS[quantizer](*arguments)), nn.Flatten())
    inputs = data()
    assert not torch.equal(saved[0].get_quantized_weights()["weight"], saved[0].weight)
    for architecture in (
        nn.Sequential(make(), nn.Flatten()),
        # With another quantizer, which the file replaces.
        nn.Sequential(wrapped(make()), nn.Flatten()),
    ):
        loaded = assert_round_trip(tmp_path, saved, architecture, inputs)
        made, given = (model[0].weights_quantizers["weight"] for model in (loaded, saved))
        assert type(made) is type(given)
        assert made.get_config() == given.get_config()


@pytest.mark.parametrize("quantizer", ACTIVATIONS)
@pytest.mark.parametrize(
    "holder",
    [
        PytorchActivationQuantizationHolder,
        PytorchFLNActivationQuantizationHolder,
        PytorchPreservingActivationQuantizationHolder,
    ],
)
def test_quantized_activations_come_back(tmp_path, holder, quantizer):
    saved, inputs = nn.Sequential(nn.Linear(4, 4), holder(ACTIVATIONS[quantizer]()), nn.ReLU()), torch.randn(9, 4)
    for place in (nn.Identity(), holder(ACTIVATIONS["pot"]())):
        loaded = assert_round_trip(tmp_path, saved, nn.Sequential(nn.Linear(4, 4), place, nn.ReLU()), inputs)
        made = loaded[1].activation_holder_quantizer
        assert type(made) is type(saved[1].activation_holder_quantizer)
        assert made.get_config() == saved[1].activation_holder_quantizer.get_config()


@pytest.mark.parametrize(
    "holder", [PytorchFLNActivationQuantizationHolder, PytorchPreservingActivationQuantizationHolder]
)
def test_bypass_comes_back(tmp_path, holder):
    inputs = torch.randn(5)
    for bypass in (True, False):
        saved = holder(ACTIVATIONS["pot"](), quantization_bypass=bypass)
        for place in (nn.Identity(), holder(ACTIVATIONS["pot"](), quantization_bypass=not bypass)):
            loaded = assert_round_trip(tmp_path, saved, place, inputs)
            assert loaded.quantization_bypass is bypass


def test_a_whole_network_comes_back_into_its_float_architecture(tmp_path):
    saved = quantized_network()
    loaded = assert_round_trip(tmp_path, saved, Network(), images())
    assert loaded.again is loaded.first
    assert get_metadata(loaded) == get_metadata(saved)
    assert_round_trip(tmp_path, saved, quantized_network(), images())


def test_a_loaded_model_is_copied_pickled_saved_and_trained_on_like_any_other(tmp_path):
    saved, inputs = quantized_network(), images()
    loaded = load(save(saved, tmp_path / "model.safetensors"), Network())
    expected = copy.deepcopy(saved).eval()(inputs)
    for clone in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert torch.equal(clone(inputs), expected)
    fresh = quantized_network()
    fresh.load_state_dict(loaded.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(inputs), expected)
    required = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert required == {name for name, parameter in saved.named_parameters() if parameter.requires_grad}


NEW_PROCESS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from mct_quantizers.pytorch.load_model import pytorch_load_quantized_model as load
from quantized_networks import Network
inputs, outputs = torch.load(sys.argv[3], weights_only=True)
torch.set_num_threads(1)
with torch.no_grad():
    assert torch.equal(load(sys.argv[2], Network())(inputs), outputs)
print("equal")
"""


def test_outputs_are_equal_in_a_new_process(tmp_path):
    saved, inputs = quantized_network(), images()
    path = save(saved, tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.save((inputs, saved.eval()(inputs)), tmp_path / "expected.pt")
    arguments = [str(Path(__file__).parent), str(path), str(tmp_path / "expected.pt")]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", NEW_PROCESS, *arguments], check=True, capture_output=True, text=True
    )
    assert result.stdout == "equal\n"


@pytest.mark.parametrize("make", [lambda: wrapped(nn.Linear(4, 4)), lambda: nn.Linear(4, 4)], ids=["wrapper", "float"])
def test_the_model_itself_may_be_the_wrapper_and_a_model_may_hold_none(tmp_path, make):
    assert_round_trip(tmp_path, make(), nn.Linear(4, 4), torch.randn(3, 4))


def test_wrappers_inside_of_wrappers_come_back(tmp_path):
    def make():
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    saved = make()
    saved.self_attn.out_proj = wrapped(saved.self_attn.out_proj)
    saved.self_attn = wrapped(saved.self_attn, in_proj_weight=WEIGHTS["uniform"](1, False))
    path = save(saved, tmp_path / "model.safetensors")
    loaded, inputs = load(path, make()), torch.randn(2, 3, 8)
    assert [name for name, module in loaded.named_modules() if isinstance(module, PytorchQuantizationWrapper)] == [
        *("self_attn", "self_attn.layer.out_proj")
    ]
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    # In training mode: the fast path of evaluation reads the layers' weights around their call.
    assert torch.equal(loaded.train()(inputs), saved(inputs))


def tied(tie=True):
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    if tie:
        model[1].weight = model[0].weight
    return model


def quantize_both(model):
    return nn.Sequential(wrapped(model[0], weight=per_tensor(1.0)), wrapped(model[1], weight=per_tensor(2.0)))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    saved, inputs = quantize_both(tied()), torch.randint(0, 6, (3, 2))
    loaded = assert_round_trip(tmp_path, saved, tied(), inputs)
    assert loaded[1].weight is loaded[0].weight
    path = save(saved, tmp_path / "model.safetensors")
    assert {key for key in stored(path)[0] if key.endswith("weight")} == {"0.weight"}
    assert_same_model(load(path, tied(tie=False)), saved, inputs)


def test_weights_that_differ_do_not_load_into_tied_ones(tmp_path):
    path = save(quantize_both(tied(tie=False)), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"'0.weight' shares memory with a tensor that differs in the file"):
        load(path, tied())


def test_views_of_one_memory_come_back(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.randn(6)
            for name, view in {"a": base, "b": base[2:], "c": base[::2], "d": base.view(2, 3), "e": base[:0]}.items():
                self.register_buffer(name, view)
            self.register_buffer("f", base[:0])

    class Apart(Views):
        def __init__(self):
            super().__init__()
            for name, view in list(self.named_buffers()):
                self.register_buffer(name, view.clone())

    saved = Views()
    path = save(saved, tmp_path / "model.safetensors")
    for architecture in (Apart(), Views()):
        loaded = load(path, architecture)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in saved.state_dict().items())


def test_values_that_are_no_numbers_come_back(tmp_path):
    saved = wrapped(nn.Linear(2, 2))
    with torch.no_grad():
        saved.weight.copy_(torch.tensor([[float("nan"), -0.0], [float("inf"), 1e-45]]))
    loaded = load(save(saved, tmp_path / "model.safetensors"), nn.Linear(2, 2))
    assert loaded.weight.detach().numpy().tobytes() == saved.weight.detach().numpy().tobytes()


class Multiply(nn.Module):
    """A product with a constant, one call with a list, one layer with an argument."""

    def __init__(self, seed):
        super().__init__()
        values = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        quantizer = WEIGHTS["uniform"](1, False)
        self.matmul = PytorchQuantizationWrapper(torch.matmul, {1: quantizer}, weight_values={1: values})
        self.cat = PytorchQuantizationWrapper(
            torch.cat, {0: per_tensor(seed)}, {0: values[:, :2]}, op_call_kwargs={"dim": 1}, is_inputs_as_list=True
        )
        self.scaled = PytorchQuantizationWrapper(Scaled(4, 4), {"weight": per_tensor()}, op_call_args=[3.0])

    def forward(self, x):
        return self.scaled(self.cat(self.matmul(x)[:, :2]))


class Scaled(nn.Linear):
    def forward(self, x, scale):
        return super().forward(x) * scale


def test_weights_of_functions_come_back_into_the_wrappers_of_the_architecture(tmp_path):
    assert_round_trip(tmp_path, Multiply(1), Multiply(2), torch.randn(3, 3))


@pytest.mark.parametrize("name", ["matmul", "cat", "scaled"])
def test_a_function_and_call_arguments_must_be_in_the_architecture(tmp_path, name):
    path, architecture = save(Multiply(1), tmp_path / "model.safetensors"), Multiply(2)
    setattr(architecture, name, Scaled(4, 4))
    with pytest.raises(ValueError, match=f"a PytorchQuantizationWrapper of .* at '{name}'. Received: Scaled"):
        load(path, architecture)


@pytest.mark.parametrize(
    "arguments", [{"op_call_args": [1]}, {"op_call_kwargs": {"a": 1}}, {"is_inputs_as_list": True}]
)
@pytest.mark.parametrize("swap", [True, False])
def test_call_arguments_that_only_one_side_has_are_refused(tmp_path, arguments, swap):
    with_arguments = PytorchQuantizationWrapper(nn.Linear(3, 3), {"weight": per_tensor()}, **arguments)
    saved, architecture = (with_arguments, wrapped(nn.Linear(3, 3)))[:: -1 if swap else 1]
    path = save(saved, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"a PytorchQuantizationWrapper of .*at ''. Received: one that calls something"
    ):
        load(path, architecture)


class Product(nn.Module):
    def forward(self, x, factor):
        return x * factor


def test_constants_of_a_module_must_be_in_the_architecture(tmp_path):
    def make(value):
        return PytorchQuantizationWrapper(Product(), {1: per_tensor()}, {1: torch.full((3,), value)})

    assert_round_trip(tmp_path, make(0.3), make(0.1), torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"of the weights \[1\] with all that it calls at ''. Received: Product"):
        load(tmp_path / "model.safetensors", Product())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_come_back_and_must_match(tmp_path, dtype):
    def make():
        return nn.Sequential(nn.Linear(4, 4), nn.Identity())

    saved = make()
    saved = nn.Sequential(wrapped(saved[0]), PytorchActivationQuantizationHolder(ACTIVATIONS["uniform"]())).to(dtype)
    loaded = assert_round_trip(tmp_path, saved, make().to(dtype), torch.randn(3, 4, dtype=dtype))
    assert loaded[0].weight_quantizer.scale.dtype == torch.float32
    with pytest.raises(ValueError, match=rf"'0.weight' must be of torch.float32.*`model.to\({dtype}\)`"):
        load(tmp_path / "model.safetensors", make())


def test_what_is_derived_is_not_stored_and_comes_from_the_architecture(tmp_path):
    class Derived(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("cache", torch.zeros(1), persistent=False)

    saved = wrapped(Derived())
    saved.register_buffer("own_cache", torch.zeros(1), persistent=False)
    path = save(saved, tmp_path / "model.safetensors")
    assert {key for key in stored(path)[0] if "cache" in key} == set()
    assert torch.equal(load(path, Derived()).layer.cache, torch.zeros(1))


# Quantizers of the user's own, and trainable ones.


@mark_quantizer(identifier=QuantizerID.INFERABLE)
class Cubing(q.BasePyTorchInferableQuantizer):
    """With state of its own, and a variable on its layer. It has no target, so that no other test finds it."""

    def __init__(self, factors, note=None):
        super().__init__()
        self.note = note
        self.register_buffer("factors", torch.tensor(factors))

    def initialize_quantization(self, tensor_shape, name, layer):
        layer.register_buffer(f"{name}_calls", torch.zeros(1))
        return {}

    def forward(self, inputs):
        return inputs**3 * self.factors

    def get_config(self):
        return {"factors": self.factors.tolist(), "note": self.note}


def test_a_quantizer_of_the_users_own_is_found_by_its_name(tmp_path):
    saved = wrapped(nn.Linear(3, 2), weight=Cubing([1.5, 2.0, 0.1], note={"a": [None, True]}))
    saved.weight_calls += 3
    loaded = assert_round_trip(tmp_path, saved, nn.Linear(3, 2), torch.randn(4, 3))
    assert type(loaded.weight_quantizer) is Cubing
    assert loaded.weight_quantizer.note == {"a": [None, True]}


def test_a_class_that_is_not_imported_is_refused_with_a_list_of_those_that_are(tmp_path):
    saved = wrapped(nn.Linear(3, 2), weight=Cubing([1.0, 1.0, 1.0]))
    path = save(saved, tmp_path / "model.safetensors")
    edit(path, lambda parts: parts["quantizers"]["layers"][0]["quantizers"][0].update(class_name="os.system"))
    with pytest.raises(ValueError, match=rf"{path}.*'os.system', the name of 0; .*'Cubing', .*'WeightsPOTInferable"):
        load(path, nn.Linear(3, 2))


def define(name, module, base=Cubing, mark=True):
    """A class as if it were defined in another module."""
    cls = type(name, (base,), {"__module__": module})
    return mark_quantizer(identifier=QuantizerID.INFERABLE)(cls) if mark else cls


TWINS = [define("Twin", module) for module in ("one", "two")]
NOTEBOOK = [define("Notebook", "notebook") for _ in range(2)]


def test_two_classes_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'Twin', the name of 2"):
        save(wrapped(nn.Linear(1, 1), weight=TWINS[0]([1.0])), tmp_path / "model.safetensors")


def test_a_class_that_was_defined_again_is_the_former(tmp_path):
    saved = wrapped(nn.Linear(1, 1), weight=NOTEBOOK[0]([1.0]))
    loaded = load(save(saved, tmp_path / "model.safetensors"), nn.Linear(1, 1))
    assert type(loaded.weight_quantizer) is NOTEBOOK[1]


def test_a_class_that_hides_another_of_its_name_is_refused(tmp_path):
    unmarked = define("Cubing", "elsewhere", mark=False)
    with pytest.raises(ValueError, match=r"must be of .*Received: .*elsewhere.Cubing.*the same name"):
        save(wrapped(nn.Linear(1, 1), weight=unmarked([1.0])), tmp_path / "model.safetensors")


UNMARKED = define("Unmarked", "here", mark=False)


@mark_quantizer(identifier=QuantizerID.INFERABLE)
class WithoutConfig(Cubing):
    get_config = None


@mark_quantizer(identifier=QuantizerID.INFERABLE)
class WithTensorInConfig(Cubing):
    def get_config(self):
        return {"factors": self.factors}


@mark_quantizer(identifier=QuantizerID.INFERABLE)
class WithWrongConfig(Cubing):
    def get_config(self):
        return {"other": 1}


UNSAVABLE = {
    "trainable": (StepQuantizer, r"must be inferable\. .*StepQuantizer; call `convert_to_inferable"),
    "trainable module": (FlaggedModule, r"must be inferable\. .*FlaggedModule"),
    "plain object": (Doubling, "must be a BasePyTorchInferableQuantizer with `get_config`"),
    "without a mark": (lambda: UNMARKED([1.0]), "'Unmarked', the name of 0"),
    "without get_config": (lambda: WithoutConfig([1.0]), "with `get_config`"),
    "tensors in its configuration": (lambda: WithTensorInConfig([1.0]), r"\['factors'\]` must be None.*tensor"),
    "configuration of another": (lambda: WithWrongConfig([1.0]), "cannot be made from its configuration"),
}


@pytest.mark.parametrize("name", UNSAVABLE)
@pytest.mark.parametrize("in_holder", [True, False], ids=["holder", "wrapper"])
def test_a_quantizer_that_would_not_come_back_is_refused(tmp_path, name, in_holder):
    make, message = UNSAVABLE[name]
    quantizer = make()
    layer = PytorchActivationQuantizationHolder(quantizer) if in_holder else wrapped(nn.Linear(1, 1), weight=quantizer)
    with pytest.raises(ValueError, match=message):
        save(nn.Sequential(layer), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_scale_that_the_class_cannot_represent_is_refused(tmp_path):
    saved = wrapped(nn.Linear(1, 1), weight=WEIGHTS["pot"](1, False))
    saved.weight_quantizer.scale.mul_(1.5)
    with pytest.raises(ValueError, match=r"WeightsPOTInferableQuantizer cannot be made .* power of two"):
        save(saved, tmp_path / "model.safetensors")


def trained():
    model = nn.Sequential(
        wrapped(nn.Linear(3, 3), weight=StepQuantizer(0.1)), PytorchActivationQuantizationHolder(StepQuantizer())
    )
    return model


def test_a_converted_model_comes_back_without_what_trained_it(tmp_path):
    saved = trained()
    with torch.no_grad():
        saved[0].weight_step.fill_(0.3)
    for layer in saved:
        layer.convert_to_inferable_quantizers()
    architecture = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    loaded = assert_round_trip(tmp_path, saved, architecture, torch.randn(4, 3))
    assert dict(saved[0].named_parameters(recurse=False)).keys() == {"weight"}
    assert dict(loaded[0].named_parameters(recurse=False)).keys() == {"weight"}
    # As it was before the training.
    assert_round_trip(tmp_path, saved, trained(), torch.randn(4, 3))


def test_a_warning_about_a_quantizer_is_not_repeated(tmp_path):
    with pytest.warns(UserWarning, match="faster"):
        saved = wrapped(nn.Linear(1, 1), weight=q.WeightsLUTSymmetricInferableQuantizer(8, LEVELS, 1.0, False))
    path = save(saved, tmp_path / "model.safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(path, nn.Linear(1, 1))
    assert caught == []


# Architectures that do not fit.


MISFITS = {
    "no such layer": (
        lambda: nn.Sequential(nn.Linear(3, 3)),
        r"must have an nn.Identity or a PytorchFLNActivationQuantizationHolder at '1'\. Received: no layer",
    ),
    "another layer for a holder": (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()), "at '1'. Received: ReLU"),
    "another holder": (
        lambda: nn.Sequential(nn.Linear(3, 3), PytorchActivationQuantizationHolder(ACTIVATIONS["pot"]())),
        "nn.Identity or a PytorchFLN.* at '1'. Received: PytorchActivationQuantizationHolder",
    ),
    "a layer without the weight": (
        lambda: nn.Sequential(nn.ReLU(), nn.Identity()),
        r"a layer with the weights \['weight'\], .* at '0'. Received: ReLU",
    ),
    "a holder for a wrapper": (
        lambda: nn.Sequential(PytorchActivationQuantizationHolder(ACTIVATIONS["pot"]()), nn.Identity()),
        "at '0'. Received: PytorchActivationQuantizationHolder",
    ),
    "a wrapper of other weights": (
        lambda: nn.Sequential(wrapped(nn.Linear(3, 3), bias=per_tensor()), nn.Identity()),
        r"at '0'. Received: a PytorchQuantizationWrapper of \['bias'\]",
    ),
    "more wrappers": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Identity(), wrapped(nn.Linear(3, 3, bias=False))),
        r"no others. Received: '2', where the file has none there",
    ),
    "a quantizer without state": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Identity(), PytorchActivationQuantizationHolder(Doubling())),
        "no others. Received: '2'",
    ),
    "another shape": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Identity()),
        r"'0.weight' must have shape \(4, 3\). Received: \(3, 3\)",
    ),
    "more tensors": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 3)),
        r"lacks the tensors \['2.bias', '2.weight'\]",
    ),
    "fewer tensors": (
        lambda: nn.Sequential(nn.Linear(3, 3, bias=False), nn.Identity()),
        r"has no tensors \['0.layer.bias'\]",
    ),
    "values that are not there": (
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Identity()).to("meta"),
        "tensors with values. Received: '0.",
    ),
    "lazy layers": (lambda: nn.Sequential(nn.LazyLinear(3), nn.Identity()), "'0"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_an_architecture_that_does_not_fit_is_refused_and_stays_as_it_was(tmp_path, name):
    make, message = MISFITS[name]
    path, architecture = save(simple(), tmp_path / "model.safetensors"), make()
    before = [(key, id(module)) for key, module in architecture.named_modules(remove_duplicate=False)]
    keys = list(architecture.state_dict())
    with pytest.raises(ValueError, match=f"The file {path} cannot be loaded: .*{message}"):
        load(path, architecture)
    assert [(key, id(module)) for key, module in architecture.named_modules(remove_duplicate=False)] == before
    assert list(architecture.state_dict()) == keys


def shared_layers(number):
    layers = [nn.Linear(3, 3) for _ in range(number)]
    return nn.Sequential(layers[0], layers[-1])


@pytest.mark.parametrize(("in_file", "in_architecture"), [(1, 2), (2, 1)])
def test_what_is_shared_must_be_shared_alike(tmp_path, in_file, in_architecture):
    saved = shared_layers(in_file)
    wrappers = [wrapped(layer) for layer in (saved if in_file == 2 else saved[:1])]
    path = save(nn.Sequential(wrappers[0], wrappers[-1]), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"the same layer at all of \['0', '1'\]|at '1'. Received: Linear"):
        load(path, shared_layers(in_architecture))
    holder = PytorchActivationQuantizationHolder(ACTIVATIONS["pot"]())
    holders = [holder, holder if in_file == 1 else copy.deepcopy(holder)]
    path = save(nn.Sequential(*holders), tmp_path / "model.safetensors")
    others = [copy.deepcopy(holder) for _ in range(in_architecture)]
    with pytest.raises(
        ValueError, match=r"the same layer at all of \['0', '1'\]|'0' = '1', where the file has '0', '1'"
    ):
        load(path, nn.Sequential(others[0], others[-1]))


def test_a_model_that_cannot_be_copied_is_refused(tmp_path):
    architecture = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    architecture.lock = threading.Lock()
    with pytest.raises(ValueError, match="`model` cannot be copied"):
        load(save(simple(), tmp_path / "model.safetensors"), architecture)


# Metadata.


def test_metadata_of_the_architecture_stay_where_the_file_has_none(tmp_path):
    path = save(wrapped(nn.Linear(2, 2)), tmp_path / "model.safetensors")
    assert get_metadata(load(path, nn.Linear(2, 2))) == {}
    assert get_metadata(load(path, add_metadata(nn.Linear(2, 2), {"a": 1})))["a"] == 1


def test_metadata_of_the_file_replace_those_of_the_architecture(tmp_path):
    path = save(add_metadata(nn.Linear(2, 2), {"a": "ü"}), tmp_path / "model.safetensors")
    architecture = add_metadata(nn.Linear(2, 2), {"a": 1, "b": 2})
    loaded = load(path, architecture)
    assert (get_metadata(loaded)["a"], "b" in get_metadata(loaded)) == ("ü", False)
    assert get_metadata(architecture)["b"] == 2
    architecture = nn.Linear(2, 2)
    architecture.register_buffer("metadata", torch.zeros(1), persistent=False)
    with pytest.raises(ValueError, match="`model` cannot hold `metadata`"):
        load(path, architecture)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": [{3: 4}]}, [object()], np.zeros(2)])
def test_metadata_that_would_not_come_back_are_refused(tmp_path, value):
    model = nn.Linear(1, 1)
    model.metadata = {"key": value}
    with pytest.raises(ValueError, match=r"`metadata\['key'\].* must .*to be saved. Received"):
        save(model, tmp_path / "model.safetensors")


def test_an_attribute_called_metadata_that_is_none_is_left_alone(tmp_path):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.metadata = nn.Linear(2, 2)

    saved = Other()
    loaded = load(save(saved, tmp_path / "model.safetensors"), Other())
    assert torch.equal(loaded.metadata.weight, saved.metadata.weight)


# Saving.


def test_saving_does_not_change_the_model_and_twice_gives_the_same_file(tmp_path):
    model = quantized_network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    contents = {save(model, tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}
    assert len(contents) == 1
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("interruption", ["replace", "fsync"])
def test_an_interrupted_save_leaves_the_old_file_whole(tmp_path, monkeypatch, exists, interruption):
    path = tmp_path / "model.safetensors"
    if exists:
        save(simple(), path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def refused(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, interruption, refused)
    with pytest.raises(KeyboardInterrupt):
        save(quantized_network(), path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


class Subclass(torch.Tensor):
    pass


def with_buffer(value):
    model = nn.Linear(1, 1)
    model.register_buffer("odd", value)
    return model


UNSTORABLE = {
    "no tensor": (lambda: WithExtraState(1, 1), "tensors only. Received: dict for '_extra_state'"),
    "meta": (lambda: nn.Linear(1, 1, device="meta"), "must have values. Received: 'weight'"),
    "lazy": (lambda: nn.LazyLinear(1), "must have values. Received: 'weight'"),
    "sparse": (lambda: with_buffer(torch.eye(2).to_sparse()), "plain, dense.*sparse_coo for 'odd'"),
    "subclass": (lambda: with_buffer(torch.ones(2).as_subclass(Subclass)), "plain, dense.*Subclass .*'odd'"),
    "complex128": (lambda: with_buffer(torch.ones(2, dtype=torch.complex128)), "can hold. Received: torch.complex128"),
}


@pytest.mark.parametrize("name", UNSTORABLE)
def test_a_state_that_is_not_plain_tensors_is_refused(tmp_path, name):
    make, message = UNSTORABLE[name]
    with pytest.raises(ValueError, match=message):
        save(make(), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end with '\.safetensors'. Received: 'model.pt'"):
        save(simple(), "model.pt")
    with pytest.raises(FileNotFoundError, match="folder"):
        save(simple(), tmp_path / "none" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        save(simple(), tmp_path / "folder.safetensors")


@pytest.mark.parametrize("model", [None, {}, nn.Linear, "model"], ids=str)
def test_what_is_no_module_is_refused(tmp_path, model):
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module. Received"):
        save(model, tmp_path / "model.safetensors")
    path = save(simple(), tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module. Received"):
        load(path, model)


# Arguments of loading.


@pytest.mark.parametrize("location", ["cpu", torch.device("cpu"), None], ids=str)
def test_the_device_of_the_result_can_be_told(tmp_path, location):
    path = save(simple(), tmp_path / "model.safetensors")
    loaded = load(path, nn.Sequential(nn.Linear(3, 3), nn.Identity()), map_location=location)
    assert {value.device.type for value in loaded.state_dict().values()} == {"cpu"}


BAD_ARGUMENTS = {
    "unknown argument": ({"mmap": True, "a": 1}, TypeError, r"but `map_location`. Received: \['a', 'mmap'\]"),
    "function": ({"map_location": lambda storage, _: storage}, TypeError, "must be a device.*Received: <function"),
    "dictionary": ({"map_location": {"cuda": "cpu"}}, TypeError, "must be a device.*Received: {'cuda'"),
    "bool": ({"map_location": True}, TypeError, "must be a device.*Received: True"),
    "unknown device": ({"map_location": "abacus"}, ValueError, "of this machine. Received: 'abacus'"),
    "device without values": ({"map_location": "meta"}, ValueError, "holds values. Received: 'meta'"),
    "weights_only": ({"weights_only": None}, TypeError, "`weights_only` must be True or False. Received: .*None"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_wrong_arguments_are_refused(tmp_path, name):
    arguments, error, message = BAD_ARGUMENTS[name]
    path = save(simple(), tmp_path / "model.safetensors")
    with pytest.raises(error, match=message):
        load(path, nn.Sequential(nn.Linear(3, 3), nn.Identity()), **arguments)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"`filepath` .* exists. Received: {tmp_path}"):
        load(tmp_path / "model.safetensors", simple())
    with pytest.raises(IsADirectoryError, match="folder"):
        load(str(tmp_path), simple())
    for filepath in (None, 3, open):
        with pytest.raises(TypeError, match="`filepath` must be a path"):
            load(filepath, simple())
        with pytest.raises(TypeError, match="`filepath` must be a path"):
            save(simple(), filepath)


def test_a_pickle_of_other_packages_is_refused_with_the_way_out(tmp_path):
    """The names of wrapper and holder are older than this package: others pickle something else under them."""
    wrapper = PytorchQuantizationWrapper.__new__(PytorchQuantizationWrapper)
    nn.Module.__init__(wrapper)
    wrapper.layer, wrapper._weights_vars = nn.Linear(2, 2), []
    torch.save(nn.Sequential(wrapper), tmp_path / "model.pt")
    gone = types.ModuleType("mct_quantizers_of_others")
    gone.Quantizer = type("Quantizer", (nn.Module,), {"__module__": gone.__name__})
    sys.modules[gone.__name__] = gone
    try:
        torch.save(gone.Quantizer(), tmp_path / "class.pt")
    finally:
        del sys.modules[gone.__name__]
    for name in ("model.pt", "class.pt"):
        with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"load_state_dict\(state, strict=False\)"):
            load(tmp_path / name, weights_only=False)
