# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules over the steps of training, and the number of these steps."""

import importlib
import importlib.util
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mct_quantizers.common import numpy_ops
from model_compression_toolkit.trainable_infrastructure.common.annealing_schedulers import (
    BaseLinearAnnealingScheduler,
    annealing_factor,
)
from model_compression_toolkit.trainable_infrastructure.common.util import get_total_grad_steps

PACKAGE = "model_compression_toolkit.trainable_infrastructure"
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_KERAS = getattr(importlib.util.find_spec("keras"), "origin", None) is not None


class NumpyScheduler(BaseLinearAnnealingScheduler):
    def _compute_factor(self, t):
        return annealing_factor(np.float64(t), self.t_start, self.t_end, numpy_ops)


@pytest.fixture(
    params=[
        pytest.param("Pytorch", marks=pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")),
        pytest.param("Keras", marks=[pytest.mark.keras, pytest.mark.skipif(not HAS_KERAS, reason="no Keras")]),
    ]
)
def wing(request):
    return request.param


def scheduler_class(wing):
    return getattr(
        importlib.import_module(f"{PACKAGE}.{wing.lower()}.annealing_schedulers"), f"{wing}LinearAnnealingScheduler"
    )


def as_array(wing, value):
    """A scalar tensor as an array, once its type is what the interface says."""
    if wing == "Pytorch":
        import torch

        from mct_quantizers.pytorch.quantizer_utils import get_working_device

        assert isinstance(value, torch.Tensor)
        assert value.device.type == get_working_device().type
        return value.cpu().numpy()
    import keras

    assert keras.ops.is_tensor(value)
    return keras.ops.convert_to_numpy(value)


def test_value_moves_in_a_straight_line_between_the_steps(wing):
    schedule = scheduler_class(wing)(2, 6, 10.0, 2.0)
    for step, expected in ((0, 10), (2, 10), (3, 8), (4, 6), (5, 4), (6, 2), (7, 2), (1_000_000, 2)):
        value = as_array(wing, schedule(step))
        assert (value.dtype, value.shape) == (np.float32, ())
        assert value == expected


def test_steps_may_be_tensors_of_integers(wing):
    schedule = scheduler_class(wing)(2, 6, 10.0, 2.0)
    if wing == "Pytorch":
        import torch

        steps = [torch.tensor(3), torch.tensor([3]), np.int64(3), 3.0]
    else:
        import keras

        steps = [keras.ops.convert_to_tensor(3), keras.Variable(3, dtype="int32", trainable=False), np.int64(3), 3.0]
    for step in steps:
        value = as_array(wing, schedule(step))
        assert (value.dtype, value.shape) == (np.float32, ())
        assert value == 8


def test_attributes_are_what_was_given(wing):
    schedule = scheduler_class(wing)(t_start=0, t_end=3, initial_val=-1.5, target_val=4.0)
    assert isinstance(schedule, BaseLinearAnnealingScheduler)
    assert (schedule.t_start, schedule.t_end, schedule.initial_val, schedule.target_val) == (0, 3, -1.5, 4.0)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 3), (4, 3), (-2, -1), (0, 0)])
def test_steps_out_of_order_are_refused(wing, start, end):
    for cls in (BaseLinearAnnealingScheduler, scheduler_class(wing)):
        with pytest.raises(ValueError, match=rf"`t_start`.*Received: t_start={start}, t_end={end}"):
            cls(start, end, 1.0, 0.0)


def test_the_base_computes_nothing():
    with pytest.raises(NotImplementedError, match="BaseLinearAnnealingScheduler"):
        BaseLinearAnnealingScheduler(0, 1, 1.0, 0.0)(0)


finite = st.floats(-1e6, 1e6)


@given(st.integers(0, 1000), st.integers(1, 1000), finite, finite)
def test_schedule_starts_ends_and_never_turns_back(start, length, initial, target):
    schedule = NumpyScheduler(start, start + length, initial, target)
    values = [schedule(step) for step in range(0, start + length + 5, max(1, length // 7))]
    assert schedule(0) == schedule(start) == initial
    assert schedule(start + length) == schedule(10 * (start + length)) == pytest.approx(target, rel=1e-12, abs=1e-9)
    direction = np.sign(target - initial)
    assert all(direction * (after - before) >= 0 for before, after in itertools.pairwise(values))
    assert schedule(start + length / 2) == pytest.approx((initial + target) / 2, rel=1e-9, abs=1e-9)


# The number of steps.


def test_batches_are_counted_once_for_each_function():
    calls = []

    def seven():
        calls.append("seven")
        yield from range(7)

    def three():
        calls.append("three")
        return [[1], [2], [3]]

    assert [get_total_grad_steps(seven), get_total_grad_steps(three), get_total_grad_steps(seven)] == [7, 3, 7]
    assert calls == ["seven", "three"]
    assert get_total_grad_steps(lambda: iter(())) == 0


def test_batches_are_shown_as_they_are_counted(monkeypatch):
    seen = []

    def track(items, description):
        seen.append(description)
        return items

    # The module by its name: the function is shown under the same one.
    module = importlib.import_module(get_total_grad_steps.__module__)
    monkeypatch.setattr(module, "track", track)
    assert get_total_grad_steps(lambda: range(4)) == 4
    assert seen == ["Counting the batches"]


@pytest.mark.parametrize("data", [5, "text", None, (1, 2)])
def test_data_that_is_no_function_is_refused(data):
    with pytest.raises(TypeError, match=r"`representative_data_gen` must be a function.*Received: "):
        get_total_grad_steps(data)
