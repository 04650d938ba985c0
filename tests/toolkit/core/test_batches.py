# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from model_compression_toolkit.core.common.batches import BATCH_SIZE, num_batches
from model_compression_toolkit.core.pytorch.data import batches_of


def listed(data):
    return [tuple(item.numpy() for item in batch) for batch in batches_of(data)]


def array(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("size", [1, BATCH_SIZE, BATCH_SIZE + 1, 3 * BATCH_SIZE])
@pytest.mark.parametrize("make", [lambda a: a, torch.from_numpy], ids=["numpy", "torch"])
def test_one_tensor_is_split_along_its_first_axis_without_loss(size, make):
    values = array(size, 2)
    batches = listed(make(values))
    assert all(len(batch) == 1 and len(batch[0]) <= BATCH_SIZE for batch in batches)
    assert np.array_equal(np.concatenate([batch[0] for batch in batches]), values)
    assert num_batches(make(values)) == len(batches)


ONE, TWO = array(3, 2), 10 + array(2, 2)


@pytest.mark.parametrize(
    "data",
    [
        [ONE, TWO],
        [torch.from_numpy(ONE), TWO],
        [[ONE], (TWO,)],
        (ONE, TWO),
        iter([[ONE], [TWO]]),
        lambda: [ONE, TWO],
        lambda: iter([[ONE], [TWO]]),
        DataLoader([ONE, TWO], batch_size=None),
        DataLoader(TensorDataset(torch.from_numpy(np.concatenate([ONE, TWO]))), batch_size=3),
    ],
    ids=["list", "mixed", "lists", "tuple", "iterator", "function", "generator", "loader", "loader of lists"],
)
def test_every_form_of_data_gives_the_same_batches(data):
    (first,), (second,) = listed(data)
    assert np.array_equal(first, ONE)
    assert np.array_equal(second, TWO)


def test_a_representative_data_generator_is_called_and_gives_lists_of_inputs():
    def generator():
        for _ in range(2):
            yield [ONE, TWO]

    batches = listed(generator)
    assert len(batches) == 2
    assert all(np.array_equal(a, ONE) and np.array_equal(b, TWO) for a, b in batches)
    assert num_batches(generator) is None
    assert num_batches([ONE, TWO]) == 2


def test_float64_arrays_become_float32_and_everything_else_keeps_its_dtype():
    dtypes = {
        np.dtype("float64"): torch.float32,
        np.dtype("float32"): torch.float32,
        np.dtype("float16"): torch.float16,
        np.dtype("int64"): torch.int64,
        np.dtype("uint8"): torch.uint8,
    }
    for given, expected in dtypes.items():
        ((batch,),) = batches_of([ONE.astype(given)])
        assert batch.dtype == expected
    ((batch,),) = batches_of([torch.zeros(2, dtype=torch.float64)])
    assert batch.dtype == torch.float64


def test_read_only_arrays_are_taken_and_not_shared():
    values = ONE.copy()
    values.setflags(write=False)
    ((batch,),) = batches_of([values])
    batch.zero_()
    assert values.any()


@pytest.mark.parametrize("data", [[], (), iter([]), lambda: [], array(0, 3), torch.zeros(0, 3)])
def test_empty_data_is_refused(data):
    with pytest.raises(ValueError, match=r"`data` must hold at least one batch\. Received: none"):
        batches_of(data)


@pytest.mark.parametrize("data", [[array(0, 3)], [ONE, array(0, 3)], [[ONE, array(0, 3)]]])
def test_a_batch_without_samples_is_refused_with_its_shape(data):
    with pytest.raises(ValueError, match=r"`data` must yield batches with samples.*\(0, 3\)"):
        list(batches_of(data))


@pytest.mark.parametrize("data", [array(), torch.tensor(1.0)], ids=["numpy", "torch"])
def test_a_number_is_refused(data):
    with pytest.raises(ValueError, match=r"`data` must have a first axis"):
        batches_of(data)


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (None, "NoneType"),
        (5, "int"),
        ("images", "str"),
        (b"images", "bytes"),
        ({"x": ONE}, "dict"),
        (lambda: None, "NoneType"),
        (lambda: {"x": ONE}, "dict"),
        ([5], "int"),
        (["a"], "str"),
        ([[ONE, "a"]], "str"),
        ([None], "NoneType"),
        ([np.array([None, 1], dtype=object)], "objects"),
    ],
)
def test_other_types_are_refused_by_name(data, received):
    with pytest.raises(TypeError, match=rf"`data`.*Received: .*{received}"):
        batches_of(data)
