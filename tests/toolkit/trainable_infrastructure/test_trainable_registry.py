# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which trainable quantizer class is found for a target, a training method and a grid."""

import importlib
import importlib.util
import warnings
from enum import Enum

import pytest

from mct_quantizers import BaseInferableQuantizer, mark_quantizer
from mct_quantizers.common.quant_info import QuantizationMethod, QuantizationTarget
from model_compression_toolkit.trainable_infrastructure.common.get_quantizers import get_trainable_quantizer_class
from model_compression_toolkit.trainable_infrastructure.common.training_method import TrainingMethod
from model_compression_toolkit.trainable_infrastructure.methods.method import method_class, registered_names

PACKAGE = "model_compression_toolkit.trainable_infrastructure"
HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_KERAS = getattr(importlib.util.find_spec("keras"), "origin", None) is not None
WEIGHT, ACTIVATION = QuantizationTarget.Weights, QuantizationTarget.Activation
POT, SYMMETRIC, UNIFORM = GRIDS = (
    QuantizationMethod.POWER_OF_TWO,
    QuantizationMethod.SYMMETRIC,
    QuantizationMethod.UNIFORM,
)
TABLE = {
    (WEIGHT, "STE"): ("STEWeightQATQuantizer", "STEWeightQATQuantizer", "STEUniformWeightQATQuantizer"),
    (ACTIVATION, "STE"): (
        "STESymmetricActivationTrainableQuantizer",
        "STESymmetricActivationTrainableQuantizer",
        "STEUniformActivationTrainableQuantizer",
    ),
    (WEIGHT, "LSQ"): ("LSQWeightQATQuantizer", "LSQWeightQATQuantizer", "LSQUniformWeightQATQuantizer"),
    (ACTIVATION, "LSQ"): (
        "LSQSymmetricActivationTrainableQuantizer",
        "LSQSymmetricActivationTrainableQuantizer",
        "LSQUniformActivationTrainableQuantizer",
    ),
}
ROWS = [
    pytest.param(target, name, grid, expected, id=f"{target.name}-{name}-{grid.name}")
    for (target, name), classes in TABLE.items()
    for grid, expected in zip(GRIDS, classes, strict=True)
]


@pytest.fixture(
    params=[
        pytest.param("pytorch", marks=pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")),
        pytest.param("keras", marks=[pytest.mark.keras, pytest.mark.skipif(not HAS_KERAS, reason="no Keras")]),
    ]
)
def wing(request):
    return request.param


def bases_of(wing):
    """What all quantizers of the wing derive from, then those of weights and of activations."""
    module = importlib.import_module(f"{PACKAGE}.{wing}.base_{wing}_quantizer")
    names = (f"Base{wing.title()}{kind}TrainableQuantizer" for kind in ("", "QATWeight", "Activation"))
    return [getattr(module, name) for name in names]


def classes_of(wing):
    return importlib.import_module(f"{PACKAGE}.{wing}.method_quantizers").CLASSES


@pytest.mark.parametrize(("target", "name", "grid", "expected"), ROWS)
def test_the_classes_of_the_interface_are_found(wing, target, name, grid, expected):
    classes = classes_of(wing)
    every, weight, activation = bases_of(wing)
    for base in (every, weight if target is WEIGHT else activation):
        for identifier in (TrainingMethod(name), name):
            found = get_trainable_quantizer_class(target, identifier, grid, base)
            assert found.__name__ == expected
            assert found is classes.find(expected)
    with pytest.raises(ValueError, match=r"Received: \[\]"):
        get_trainable_quantizer_class(target, name, grid, activation if target is WEIGHT else weight)


def test_every_method_is_found_for_all_that_it_trains_and_nothing_else(wing):
    classes, (base, *_) = classes_of(wing), bases_of(wing)
    classes.make_all()
    for name in registered_names():
        method = method_class(name)
        for target in QuantizationTarget:
            for grid in GRIDS:
                if grid in method.supports and target in method.targets:
                    found = get_trainable_quantizer_class(target, name, grid, base)
                    assert found is classes.of(name, target, grid)
                else:
                    with pytest.raises(ValueError, match=rf"'{name}' and {grid.name}.*Received: \[\]"):
                        get_trainable_quantizer_class(target, name, grid, base)


# With bases of the tests' own, so that no other class of the process counts.


def new_base():
    return type("OwnBase", (BaseInferableQuantizer,), {})


def define(base, name, target=WEIGHT, methods=(SYMMETRIC,), identifier="mine", module=__name__, **marks):
    cls = type(name, (base,), {"__module__": module})
    return mark_quantizer(target, None if methods is None else list(methods), identifier, **marks)(cls)


def test_target_method_and_identifier_must_all_agree():
    base = new_base()
    wanted = define(base, "Wanted")
    define(base, "OtherTarget", target=ACTIVATION)
    define(base, "OtherMethod", methods=[UNIFORM])
    define(base, "OtherIdentifier", identifier="yours")
    assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is wanted


def test_one_class_may_serve_several_grids():
    base = new_base()
    wanted = define(base, "Wanted", methods=GRIDS)
    assert all(get_trainable_quantizer_class(WEIGHT, "mine", grid, base) is wanted for grid in GRIDS)


def test_identifiers_are_any_values():
    class Own(Enum):
        MINE = "mine"
        YOURS = "yours"

    base = new_base()
    expected = {
        identifier: define(base, f"Class{number}", identifier=identifier)
        for number, identifier in enumerate((Own.MINE, Own.YOURS, 5, ("a", 1), TrainingMethod.LSQ))
    }
    for identifier, cls in expected.items():
        assert get_trainable_quantizer_class(WEIGHT, identifier, SYMMETRIC, base) is cls
    # A text is no member of an enumeration, however it is spelled.
    with pytest.raises(ValueError, match=r"Received: \[\]"):
        get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base)


def test_the_older_word_for_the_identifier_counts():
    base = new_base()
    cls = define(base, "Wanted", identifier=None, quantizer_type="old")
    assert get_trainable_quantizer_class(WEIGHT, "old", SYMMETRIC, base) is cls


def test_classes_are_found_at_any_depth():
    base = new_base()
    deep = define(type("Middle", (type("Upper", (base,), {}),), {}), "Deep")
    assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is deep


def test_a_marked_child_of_a_marked_class_is_another_class():
    base = new_base()
    parent = define(base, "Parent")
    child = define(parent, "Child", methods=[UNIFORM])
    assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is parent
    assert get_trainable_quantizer_class(WEIGHT, "mine", UNIFORM, base) is child


def test_a_child_that_is_not_marked_is_no_second_match():
    base = new_base()
    parent = define(base, "Parent")
    child = type("Detail", (parent,), {})
    assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is parent
    with pytest.raises(ValueError, match=r"Received: \[\]"):
        get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, child)


def test_missing_marks_are_no_match_and_do_no_harm():
    base = new_base()
    type("Unmarked", (base,), {})
    define(base, "NoMethods", methods=None)
    define(base, "NoTarget", target=None)
    define(base, "NoIdentifier", identifier=None)
    wanted = define(base, "Wanted")
    assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is wanted


def test_no_match_is_an_error_that_lists_what_exists():
    base = new_base()
    define(base, "Second")
    define(base, "First", identifier="yours")
    with pytest.raises(ValueError, match=r"Expected one .*'other' and SYMMETRIC under OwnBase") as caught:
        get_trainable_quantizer_class(WEIGHT, "other", SYMMETRIC, base)
    assert str(caught.value).endswith("Received: [] of ['First', 'Second']")


@pytest.mark.parametrize("identifier", ["mine", None, 5, TrainingMethod.STE])
def test_a_base_without_subclasses_has_no_match(identifier):
    with pytest.raises(ValueError, match=r"Received: \[\] of \[\]"):
        get_trainable_quantizer_class(WEIGHT, identifier, SYMMETRIC, new_base())


def test_several_matches_are_an_error_that_names_them():
    base = new_base()
    define(base, "Second")
    define(base, "First", methods=[SYMMETRIC, UNIFORM])
    define(base, "Third", identifier="yours")
    with pytest.raises(ValueError, match=r"Received: \['First', 'Second'\] of \['First', 'Second', 'Third'\]"):
        get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base)


def test_classes_of_one_name_in_two_modules_are_two():
    base = new_base()
    define(base, "Same")
    define(base, "Same", module="another.module")
    with pytest.raises(ValueError, match=r"Received: \['Same', 'Same'\]"):
        get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base)


def test_a_class_that_is_defined_twice_warns_and_the_last_counts():
    base = new_base()
    first = define(base, "Notebook")
    assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is first
    second = define(base, "Notebook")
    with pytest.warns(UserWarning, match="Notebook is defined more than once; the last definition counts") as caught:
        assert get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base) is second
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_only_the_class_that_is_found_warns():
    base = new_base()
    former, latter = define(base, "Notebook"), define(base, "Notebook")
    other = define(base, "Other", methods=[UNIFORM])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_trainable_quantizer_class(WEIGHT, "mine", UNIFORM, base) is other
    assert former is not latter


def test_a_class_defined_again_for_something_else_is_gone_as_it_was():
    base = new_base()
    former = define(base, "Notebook")
    latter = define(base, "Notebook", methods=[UNIFORM])
    with pytest.raises(ValueError, match=r"Received: \[\] of \['Notebook'\]"):
        get_trainable_quantizer_class(WEIGHT, "mine", SYMMETRIC, base)
    with pytest.warns(UserWarning, match="Notebook"):
        assert get_trainable_quantizer_class(WEIGHT, "mine", UNIFORM, base) is latter
    assert former is not latter
