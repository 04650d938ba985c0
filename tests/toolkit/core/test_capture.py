# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
from torch.nn import functional

import model_compression_toolkit as mct
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.pytorch.capture import capture, is_quantized

GRAPH, MODULES = CaptureMode.GRAPH, CaptureMode.MODULES


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)


class Plain(Base):
    def forward(self, x):
        return self.second(functional.gelu(self.first(x)))


class Branches(Base):
    """Cannot be traced."""

    def forward(self, x):
        x = self.first(x)
        return self.second(x if x.mean() > 0 else -x)


class LooksAtTheType(Base):
    """Can be traced, to another function: a tracer's stand-in is no tensor."""

    def forward(self, x):
        x = self.first(x) if isinstance(x, torch.Tensor) else -self.first(x)
        return self.second(x)


class Evaluates(Base):
    """Can be traced, with a number of the moment in place of the data."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return self.second(self.first(x)) * float(self.seen)


class BranchesOnTraining(Base):
    def forward(self, x):
        x = self.first(x)
        if self.training:
            x = 3 * x
        return self.second(x)


def data(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_a_traced_model_computes_bitwise_the_same():
    model, x = Plain(), data(8, 4)
    captured = capture(model, sample=(x,))
    assert captured.mode is GRAPH
    assert captured.notes == []
    assert torch.equal(captured.model(x), model.eval()(x))
    assert captured.model is not model


def test_a_copy_shares_no_memory_with_the_users_model():
    model = Plain()
    captured = capture(model, sample=(data(8, 4),))
    theirs = {parameter.data_ptr() for parameter in model.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in captured.model.parameters()}


def test_the_training_flags_are_left_alone():
    model = Plain().train()
    model.second.eval()
    captured = capture(model, sample=(data(8, 4),))
    assert [module.training for module in model.modules()] == [True, True, False]
    assert not any(module.training for module in captured.model.modules())


@pytest.mark.parametrize("model", [Branches, LooksAtTheType, Evaluates])
def test_what_cannot_be_seen_as_a_graph_is_seen_module_by_module_with_a_note(model):
    captured = capture(model(), sample=(data(8, 4),))
    assert captured.mode is MODULES
    (note,) = captured.notes
    assert "module by module, because" in note
    assert "functional operations stay in float" in note


@pytest.mark.parametrize(
    ("model", "text"),
    [(Branches, "cannot be traced.*control flow"), (LooksAtTheType, "computes something else")],
)
def test_graph_mode_refuses_what_cannot_be_seen_as_a_graph(model, text):
    with pytest.raises(ValueError, match=f"`capture` is 'graph', but .*{text}.*Use 'auto' or 'modules'"):
        capture(model(), GRAPH, (data(8, 4),))


@pytest.mark.parametrize("model", [Branches, LooksAtTheType])
def test_the_fallback_quantizes_what_the_model_computes(model):
    net, x = model().eval(), data(64, 4)
    quantized = mct.quantize(net, x)
    assert mct.plan_of(quantized).capture is MODULES
    with torch.no_grad():
        error = (quantized(x) - net(x)).norm() / net(x).norm()
    assert error < 0.02


def test_modules_mode_is_used_when_configured():
    captured = capture(Plain(), MODULES, (data(8, 4),))
    assert captured.mode is MODULES
    assert captured.notes == ["captured module by module, as configured"]
    with pytest.raises(TypeError, match="module by module"):
        _ = captured.graph


class ScalesInTraining(Base):
    def forward(self, x):
        return self.second(self.first(x) * (3.0 if self.training else 1.0))


class AttentionWithDropout(Base):
    def forward(self, x):
        x = self.first(x).unsqueeze(1)
        share = 0.5 if self.training else 0.0
        return self.second(functional.scaled_dot_product_attention(x, x, x, dropout_p=share).squeeze(1))


class FailsInTraining(Base):
    def forward(self, x):
        if self.training:
            raise NotImplementedError
        return self.second(self.first(x))


def test_what_a_graph_cannot_do_in_training_is_seen_module_by_module():
    model, x = BranchesOnTraining(), data(64, 4)
    plan = mct.plan_of(mct.prepare_qat(model, x))
    assert plan.capture is MODULES
    assert "fixed as in evaluation" in plan.notes[0]
    (note,) = mct.plan_of(mct.prepare_qat(model, x, mct.QuantizationConfig(capture="graph"))).notes
    assert note == "what depends on the training flag, dropout apart, is fixed as in evaluation"


def test_a_model_that_fails_in_training_is_a_graph_with_a_note():
    plan = mct.plan_of(mct.prepare_qat(FailsInTraining(), data(64, 4)))
    assert plan.capture is GRAPH
    (note,) = plan.notes
    assert "traced in evaluation only: tracing in training fails (NotImplementedError" in note


@pytest.mark.parametrize("model", [ScalesInTraining, AttentionWithDropout])
def test_numbers_that_depend_on_the_training_flag_follow_it(model):
    net, x = model(), data(64, 4)
    captured = capture(net, sample=(x,), train=True)
    assert captured.mode is GRAPH
    assert captured.notes == []
    for mode in (True, False):
        outputs = []
        for either in (net.train(mode), captured.model.train(mode)):
            torch.manual_seed(0)
            outputs.append(either(x))
        assert torch.equal(*outputs)


def test_post_training_quantization_needs_no_branch_on_the_training_flag():
    quantized = mct.quantize(BranchesOnTraining().train(), data(64, 4))
    assert mct.plan_of(quantized).quantized()


def test_functional_dropout_stays_active_in_training():
    class Dropout(Base):
        def forward(self, x):
            return self.second(functional.dropout(self.first(x), 0.5, training=self.training))

    prepared, x = mct.prepare_qat(Dropout(), data(64, 4)), data(16, 4)
    assert mct.plan_of(prepared).capture is GRAPH
    assert mct.plan_of(prepared).notes == ()
    assert not torch.equal(prepared.train()(x), prepared(x))
    assert torch.equal(prepared.eval()(x), prepared(x))


def test_random_layers_stay_active_in_training():
    model = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 2))
    prepared, x = mct.prepare_qat(model, data(64, 4)), data(16, 4)
    assert not torch.equal(prepared(x), prepared(x))
    assert torch.equal(prepared.eval()(x), prepared(x))


@pytest.mark.parametrize("model", [None, 5, "model", lambda x: x, nn.Linear, {"a": 1}])
@pytest.mark.parametrize("call", [mct.quantize, mct.prepare_qat, lambda model, _: capture(model)])
def test_what_is_no_module_is_a_type_error(model, call):
    with pytest.raises(
        TypeError, match=r"`model` must be a torch\.nn\.Module( or a keras\.Model of Keras 3)?\. Received: "
    ):
        call(model, data(8, 4))


def test_a_quantized_model_is_refused():
    quantized = mct.quantize(Plain(), data(8, 4))
    assert is_quantized(quantized)
    assert is_quantized(nn.Sequential(quantized))
    assert not is_quantized(Plain())
    for model in (quantized, nn.Sequential(quantized)):
        with pytest.raises(ValueError, match="quantized already"):
            capture(model)


@pytest.mark.parametrize(
    ("sample", "shown"),
    [
        ((torch.zeros(8, 5),), r"\(8, 5\) torch.float32"),
        ((torch.zeros(8, 4, dtype=torch.int64),), r"\(8, 4\) torch.int64"),
        ((torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64)), r"\(8, 4\) torch.float32, \(8,\) torch.int64"),
    ],
    ids=["shape", "dtype", "labels"],
)
def test_data_that_the_model_does_not_take_is_shown(sample, shown):
    for call in (lambda: capture(Plain(), sample=sample), lambda: mct.quantize(Plain(), [sample])):
        with pytest.raises(ValueError, match=rf"`data` must yield the inputs.*no labels.*{shown}"):
            call()


def test_each_call_of_a_module_has_a_name_of_its_own():
    class Reuse(Base):
        def forward(self, x):
            x = torch.tanh(self.first(x))
            x = torch.tanh(self.first(x[:, :4]))
            return self.second(self.second(x).repeat(1, 3))

    captured = capture(Reuse(), sample=(data(8, 4),))
    for name in ("first", "first:2", "second", "second:2", "tanh", "tanh_1", "x"):
        assert captured.node(name).name in {node.name for node in captured.graph.nodes}
    assert captured.node("first") is not captured.node("first:2")
    with pytest.raises(ValueError, match=r"no layer or operation 'third'.*'first'"):
        captured.node("third")


class FunctionBeforeModule(Base):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.second(functional.relu(self.relu(self.first(functional.relu(x)))))


class ArgumentNamedLikeAModule(Base):
    def forward(self, first):
        return self.second(torch.tanh(self.first(first)))


class ModuleNamedLikeTheOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.input, self.output = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.output(torch.tanh(self.input(x)))


class ModulesNamedLikeOperations(Base):
    def __init__(self):
        super().__init__()
        self.add, self.add_1 = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first((x + 1) + self.add(x + 2) + self.add_1(x)))


@pytest.mark.parametrize(
    "model",
    [FunctionBeforeModule, ArgumentNamedLikeAModule, ModuleNamedLikeTheOutput, ModulesNamedLikeOperations],
)
def test_names_of_modules_and_operations_never_collide(model):
    net, x = model().eval(), data(64, 4)
    captured = capture(net, sample=(x,))
    assert captured.mode is GRAPH
    assert len(captured.node_names) == len(captured.graph.nodes)
    assert len(set(captured.node_names.values())) == len(captured.graph.nodes)
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            assert captured.node(name).target == name
    quantized = mct.quantize(net, x)
    names = [tensor.name for tensor in mct.plan_of(quantized).tensors]
    assert len(set(names)) == len(names)
    with torch.no_grad():
        assert (quantized(x) - net(x)).norm() < 0.02 * net(x).norm()


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Conv1d(4, 3, 1)])
def test_a_model_of_one_layer_has_its_weight_quantized(layer):
    x = data(16, 4, 5) if isinstance(layer, nn.Conv1d) else data(16, 4)
    plan = mct.plan_of(mct.quantize(layer, x))
    assert [tensor.site.shape for tensor in plan.quantized() if tensor.is_weight] == [tuple(layer.weight.shape)]


def test_data_that_a_model_changes_in_place_is_the_callers_own():
    class InPlace(Base):
        def forward(self, x):
            return self.second(self.first(x.mul_(2)))

    for model in (InPlace(), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))):
        for call in (mct.quantize, mct.prepare_qat):
            x = data(8, 4)
            prepared = call(model, [x])
            assert torch.equal(x, data(8, 4))
            assert mct.plan_of(prepared).capture is GRAPH


class CountsItsCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.calls.add_(1)
        return self.layer(x)


def test_a_buffer_that_the_model_changes_in_training_is_changed_in_training():
    model, x = CountsItsCalls(), data(16, 4)
    prepared = mct.prepare_qat(model, x)
    assert "keeps state on itself (calls)" in mct.plan_of(prepared).notes[0]
    assert prepared.calls.item() == model.calls.item() == 0
    prepared(x)
    assert prepared.calls.item() == 1
    # After training nothing changes it.
    assert mct.plan_of(mct.quantize(model, x)).capture is GRAPH
    with pytest.raises(ValueError, match=r"`capture` is 'graph', but the model keeps state on itself \(calls\)"):
        mct.prepare_qat(model, x, mct.QuantizationConfig(capture="graph"))


class ChangesABufferAndCannotBeTraced(CountsItsCalls):
    def forward(self, x):
        self.calls.add_(0 if isinstance(x, torch.Tensor) else 1)
        return self.layer(x if x.sum() > 0 else -x)


def test_falling_back_to_modules_leaves_no_trace_of_tracing():
    captured = capture(ChangesABufferAndCannotBeTraced())
    assert captured.mode is CaptureMode.MODULES
    assert captured.model.calls.item() == 0
