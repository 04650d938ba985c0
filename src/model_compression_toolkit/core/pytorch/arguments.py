# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Which arguments of a model a batch gives, by position and by name."""

import inspect
from typing import Any

from torch import Tensor, nn

from model_compression_toolkit.core.pytorch.argument_forms import SIMPLE, shown, structure_of
from model_compression_toolkit.core.pytorch.data import Batch, keywords_of

_SEVERAL = 2
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def given_arguments(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The arguments of forward that a batch gives, by name; `torch.Tensor` stands for each tensor."""
    bound = inspect.signature(model.forward).bind(*batch, **keywords_of(batch))
    return {name: structure_of(value) for name, value in bound.arguments.items()}


def required_arguments(model: nn.Module) -> dict[str, Any]:
    """The arguments of forward that have no default, each a tensor."""
    return {parameter.name: Tensor for parameter in _named(model) if parameter.default is parameter.empty}


def optional_arguments(model: nn.Module) -> list[str]:
    """The arguments of forward that have a default."""
    return [parameter.name for parameter in _named(model) if parameter.default is not parameter.empty]


def check_names(model: nn.Module, batch: Batch) -> None:
    """Refuse a dictionary with a name that the model's forward does not take, or without one that it needs.

    Raises:
        ValueError: there is such a name; the text gives it.
    """
    given, parameters = keywords_of(batch), list(inspect.signature(model.forward).parameters.values())
    if not given:
        return
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    taken = [p.name for p in by_name]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_all else [name for name in given if name not in taken]
    missing = [p.name for p in by_name if p.default is p.empty and p.name not in given]
    if unknown or missing:
        problem = f"it takes no {unknown}" if unknown else f"it needs {missing}"
        raise ValueError(
            "`data` must yield the inputs of the model and nothing else (no labels). A dictionary is passed by the "
            f"names of forward's arguments, and {problem}. It takes {taken}. Received: {sorted(given)}"
        )


def positions_note(model: nn.Module, batch: Batch) -> list[str]:
    """A note where a tuple fills optional arguments: whether they are meant is not seen in a tuple."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())[: len(batch)]
    except ValueError:  # a forward without a signature
        return []
    optional = [p for p in parameters if p.kind in _BY_POSITION and p.default is not p.empty]
    if len(batch) < _SEVERAL or not optional:
        return []
    names = ", ".join(p.name for p in parameters)
    return [f"each batch of `data` is passed by position, as {names}; a dictionary is passed by name"]


def positional_batch(model: nn.Module, batch: Batch) -> Batch:
    """The same batch with every argument by position, those at the end that have their defaults left out.

    Raises:
        ValueError: an argument can only be passed by name, or is no tensor.
    """
    if not keywords_of(batch) and all(isinstance(item, Tensor) for item in batch):
        return batch
    try:
        bound = inspect.signature(model.forward).bind(*batch, **keywords_of(batch))
    except TypeError as error:
        raise ValueError(f"The inputs do not fit the model: {error}") from error
    bound.apply_defaults()
    values, parameters = dict(bound.arguments), bound.signature.parameters
    for name in reversed(list(values)):
        if isinstance(values[name], Tensor) or not is_default(values[name], parameters[name]):
            break
        del values[name]
    for name, value in values.items():
        if not isinstance(value, Tensor) or parameters[name].kind not in _BY_POSITION:
            raise ValueError(
                f"Expected inputs that are tensors and can be passed by position. Received: {shown(name, value)}"
            )
    return tuple(values.values())


def _named(model: nn.Module) -> list[inspect.Parameter]:
    parameters = inspect.signature(model.forward).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def is_default(value: Any, parameter: inspect.Parameter) -> bool:
    """Whether an argument has the value that it has when it is left out."""
    return value is parameter.default or (
        isinstance(value, SIMPLE) and type(value) is type(parameter.default) and value == parameter.default
    )
