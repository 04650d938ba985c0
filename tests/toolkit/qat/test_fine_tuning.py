# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
import torch
from toolkit_models import built, random
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import model_compression_toolkit as mct
from model_compression_toolkit import FineTuning, fine_tune
from model_compression_toolkit.core.pytorch.batch_norm import LiveBatchNorm

SHORT = FineTuning(epochs=6, batch_size=16, learning_rate=5e-3)


def ready(bits="w3a3"):
    teacher, _ = built("sequential")
    inputs = random(64, 3, 8, 8, seed=8)
    with torch.no_grad():
        labels = teacher(inputs).argmax(dim=1)
    return mct.prepare_qat(teacher, inputs, mct.QuantizationConfig.from_bits(bits)), teacher, inputs, labels


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize("label_weight", [0.0, 0.5, 1.0])
def test_the_loss_falls_and_the_model_ends_in_evaluation(with_labels, label_weight):
    model, teacher, inputs, labels = ready()
    settings = FineTuning(epochs=6, batch_size=16, learning_rate=5e-3, label_weight=label_weight)
    losses = fine_tune(model, teacher, inputs, labels if with_labels else None, settings)
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    assert not any(module.training for module in model.modules())


def test_the_first_loss_is_that_of_the_documents():
    model, teacher, inputs, labels = ready()
    model.eval()
    # One batch of everything, with a step so small that it changes nothing.
    settings = FineTuning(epochs=1, batch_size=64, learning_rate=1e-30, label_weight=0.25, temperature=3.0)
    with torch.no_grad():
        # In training batch norms use the batch: compare in a twin that is in training too.
        target = teacher(inputs).double()
        output = model.train()(inputs).double()
    p, q = torch.softmax(target / 3, dim=1), torch.softmax(output / 3, dim=1)
    distillation = 9 * (p * (p.log() - q.log())).sum(dim=1).mean()
    cross_entropy = -torch.log_softmax(output, dim=1)[torch.arange(64), labels].mean()
    (loss,) = fine_tune(model, teacher, inputs, labels, settings)
    # Another order of the samples: float32 sums of batch norm, and codes that move by a step on a tie.
    assert loss == pytest.approx(float(0.25 * cross_entropy + 0.75 * distillation), rel=1e-2)
    model, teacher, inputs, _ = ready()
    with torch.no_grad():
        expected = (model(inputs) - teacher(inputs)).double().square().mean()
    (loss,) = fine_tune(model, teacher, inputs, None, FineTuning(epochs=1, batch_size=64, learning_rate=1e-30))
    assert loss == pytest.approx(float(expected), rel=1e-2)


def jitter(batch, generator):
    return batch + 0.01 * torch.randn(batch.shape, generator=generator)


@pytest.mark.parametrize("augment", [None, jitter])
def test_runs_of_one_seed_repeat_bit_for_bit_and_other_seeds_differ(augment):
    states = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        model, teacher, inputs, labels = ready()
        torch.manual_seed(disturbance)
        settings = FineTuning(epochs=2, batch_size=16, seed=seed)
        losses = fine_tune(model, teacher, inputs, labels, settings, augment)
        states.append((losses, [tensor.clone() for tensor in model.state_dict().values()]))
    assert states[0][0] == states[1][0]
    assert all(torch.equal(a, b) for a, b in zip(states[0][1], states[1][1], strict=True))
    assert states[0][0] != states[2][0]


def test_augmentation_replaces_the_batch_of_model_and_teacher():
    model, teacher, inputs, labels = ready()
    seen = []
    teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fine_tune(model, teacher, inputs, labels, FineTuning(epochs=1, batch_size=32), lambda batch, _: batch * 0 + 7)
    assert len(seen) == 2
    assert all((batch == 7).all() for batch in seen)


def test_every_sample_is_seen_once_in_an_epoch():
    model, teacher, _, _ = ready()
    inputs = torch.arange(50.0).reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    seen = []
    teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 0, 0, 0]))
    fine_tune(model, teacher, inputs, None, FineTuning(epochs=2, batch_size=16))
    # 48 of 50: a part of a batch is left out.
    for epoch in (seen[:3], seen[3:]):
        values = torch.cat(epoch)
        assert len(values) == 48
        assert len(values.unique()) == 48
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_is_unchanged(training):
    model, teacher, inputs, labels = ready()
    teacher.train(training)
    teacher[1].train(not training)
    modes = [module.training for module in teacher.modules()]
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    fine_tune(model, teacher, inputs, labels, SHORT)
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_is_unchanged_when_training_fails():
    model, teacher, inputs, labels = ready()
    teacher.train()
    teacher[1].eval()
    modes = [module.training for module in teacher.modules()]
    with pytest.raises(RuntimeError, match="no more"):
        fine_tune(model, teacher, inputs, labels, SHORT, fail)
    assert [module.training for module in teacher.modules()] == modes


def fail(batch, generator):
    raise RuntimeError("no more")


@pytest.mark.parametrize(("share", "frozen_epochs"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_statistics_are_frozen_in_the_last_steps(share, frozen_epochs):
    model, teacher, inputs, _ = ready()
    norm = next(module for module in model.modules() if isinstance(module, LiveBatchNorm))
    means = [norm.norm.running_mean.clone()]
    model.register_forward_hook(lambda *_: means.append(norm.norm.running_mean.clone()))
    fine_tune(model, teacher, inputs, None, FineTuning(epochs=4, batch_size=64, frozen_share=share))
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(means)]
    assert moved == [True] * (4 - frozen_epochs) + [False] * frozen_epochs


BAD = [
    ({"epochs": 0}, "`epochs`.*epochs=0"),
    ({"epochs": 1.5}, "`epochs`.*epochs=1.5"),
    ({"epochs": True}, "`epochs`.*epochs=True"),
    ({"epochs": None}, "`epochs`.*epochs=None"),
    ({"batch_size": -1}, "`batch_size`.*batch_size=-1"),
    ({"learning_rate": 0}, "`learning_rate`.*learning_rate=0"),
    ({"learning_rate": float("nan")}, "`learning_rate`.*nan"),
    ({"learning_rate": float("inf")}, "`learning_rate`.*inf"),
    ({"learning_rate": "fast"}, "`learning_rate`.*'fast'"),
    ({"temperature": -1.0}, "`temperature`.*-1.0"),
    ({"label_weight": 1.1}, "`label_weight`.*1.1"),
    ({"label_weight": float("nan")}, "`label_weight`.*nan"),
    ({"frozen_share": -0.1}, "`frozen_share`.*-0.1"),
    ({"frozen_share": None}, "`frozen_share`.*None"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_settings_are_refused_by_name_and_value(arguments, text):
    with pytest.raises(ValueError, match=text):
        FineTuning(**arguments)


CLASSES = torch.arange(64) % 5


def parts(*tensors):
    return list(zip(*(tensor.split(20) for tensor in tensors), strict=True))


FORMS = {
    "array": lambda x, y: (x.numpy().astype(np.float64), y.numpy()),
    "labels in a list": lambda x, y: (x.numpy(), y.tolist()),
    "labels of 32 bits": lambda x, y: (x, y.int()),
    "batches": lambda x, y: (parts(x), y),
    "batches with classes": lambda x, y: (parts(x, y), None),
    "arrays with classes": lambda x, y: ([(a.numpy(), b.numpy()) for a, b in parts(x, y)], None),
    "a generator": lambda x, y: ((batch for batch in parts(x, y)), None),
    "a function": lambda x, y: (lambda: iter(parts(x, y)), None),
    "a loader": lambda x, y: (DataLoader(TensorDataset(x, y), 10), None),
    "a loader of inputs": lambda x, y: (DataLoader(TensorDataset(x), 10), y),
}
UNLABELLED = {
    "array": lambda x: x.numpy(),
    "batches": parts,
    "a function": lambda x: lambda: iter(parts(x)),
    "a loader": lambda x: DataLoader(TensorDataset(x), 10),
}


def small():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    return mct.prepare_qat(teacher, random(64, 4), mct.QuantizationConfig.from_bits("w3a4")), teacher


def trained(data, labels):
    model, teacher = small()
    losses = fine_tune(model, teacher, data, labels, FineTuning(epochs=2, batch_size=16))
    return [torch.tensor(losses), *model.state_dict().values()]


@pytest.mark.parametrize("form", [*FORMS, *(f"{name}, no labels" for name in UNLABELLED)])
def test_every_form_of_data_trains_as_one_tensor_does(form):
    inputs = random(64, 4, seed=8)
    data, labels = FORMS[form](inputs, CLASSES) if form in FORMS else (UNLABELLED[form.split(",")[0]](inputs), None)
    expected = trained(inputs, CLASSES if form in FORMS else None)
    assert all(torch.equal(one, other) for one, other in zip(trained(data, labels), expected, strict=True))


X = torch.zeros(64, 4)
REFUSED = [
    (DataLoader(TensorDataset(X), 16, shuffle=True), CLASSES, ValueError, "`labels` must be in the order of `inputs`"),
    ([(X, X)], None, ValueError, "`inputs` must yield batches of one array, or of one array and its classes"),
    ([(X, CLASSES.float())], None, ValueError, r"Received: a batch of .*\(64,\), 'torch.float32'"),
    ([(X, CLASSES[:9])], None, ValueError, "integers of shape"),
    ([(X, CLASSES)], CLASSES, ValueError, "`labels` must not be given where the batches"),
    ([(X, CLASSES), X], None, ValueError, "classes with all batches or with none. Received: 2 batches, 1 with"),
    ([X, X[:, :3]], None, ValueError, "samples of one shape. Received: samples of the shapes"),
    ([], None, ValueError, "`inputs` must hold at least one batch"),
    ([{"x": X}], None, TypeError, "`inputs` must yield tensors or arrays.*dict"),
    ("data", None, TypeError, "`inputs` must be a tensor, an array, an iterable of batches.*str"),
    (None, None, TypeError, "`inputs` must be a tensor.*NoneType"),
    (X, CLASSES.float(), ValueError, r"`labels` must be classes, integers.*shape \(64,\), torch.float32"),
    (X, CLASSES[:, None], ValueError, r"`labels` must be classes, integers.*shape \(64, 1\)"),
]


@pytest.mark.parametrize(("inputs", "labels", "error", "text"), REFUSED)
def test_data_of_other_forms_are_refused_before_the_model_changes(inputs, labels, error, text):
    model, teacher = small()
    model.eval()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    with pytest.raises(error, match=text):
        fine_tune(model, teacher, inputs, labels)
    assert not model.training
    assert all(torch.equal(old, new) for old, new in zip(before, model.state_dict().values(), strict=True))


def test_too_few_samples_are_refused():
    model, teacher, inputs, _ = ready()
    with pytest.raises(ValueError, match=r"`inputs` must hold at least one batch of 64 samples\. Received: 63"):
        fine_tune(model, teacher, inputs[:63])


@pytest.mark.parametrize("count", [63, 65, 0])
def test_another_number_of_labels_is_refused(count):
    model, teacher, inputs, _ = ready()
    with pytest.raises(ValueError, match=f"`labels` must have one class for each of 64 inputs. Received: {count}"):
        fine_tune(model, teacher, inputs, torch.zeros(count, dtype=torch.int64))


def test_a_regression_model_learns_to_reproduce_its_teacher():
    torch.manual_seed(0)
    teacher, inputs = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).eval(), random(256, 4)
    config = mct.QuantizationConfig.from_bits("w2a3", first_last_bits=None)
    model = mct.prepare_qat(teacher, inputs, config)

    def error(candidate):
        with torch.no_grad():
            return float((candidate(inputs) - teacher(inputs)).square().mean())

    before = error(model.eval())
    fine_tune(model, teacher, inputs, None, FineTuning(epochs=10, batch_size=32, learning_rate=1e-2))
    assert error(mct.finalize(model)) < 0.6 * before
