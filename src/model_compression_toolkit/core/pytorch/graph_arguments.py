# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""The arguments of a graph: placeholders for those that are given, and a check of the others."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from model_compression_toolkit.core.pytorch.argument_forms import SIMPLE, fits, opened, shown, structure_of
from model_compression_toolkit.core.pytorch.arguments import is_default
from model_compression_toolkit.core.pytorch.data import Batch, clone_batch, keywords_of


class ArgumentCheck(nn.Module):
    """Refuses a value of an argument for which a graph was not made. It has no state and returns nothing.

    Args:
        argument: name of the argument.
        expected: the value that the graph was made for; `torch.Tensor` stands for any tensor.
    """

    # Nothing takes its result; torch.fx would drop it as dead code.
    _is_impure = True

    def __init__(self, argument: str, expected: Any) -> None:
        super().__init__()
        self.argument = argument
        self.expected = expected

    def forward(self, value: Any) -> None:
        """Do nothing for a value that fits.

        Raises:
            ValueError: the value does not fit.
        """
        if not fits(value, self.expected):
            raise ValueError(
                f"The model was captured as a graph with {shown(self.argument, self.expected)}. "
                f"Received: {shown(self.argument, value)}. Give {self.argument!r} in `data` as it will be used, or "
                "use QuantizationConfig(capture='modules'), which keeps the code of the model."
            )


class GraphRunner(fx.Interpreter):
    """Runs a graph node by node on a batch whose arguments are passed by position or by name."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._values: dict[str, Any] = {}

    def run_batch(self, batch: Batch) -> Any:
        """What the graph returns for a copy of a batch."""
        copied = clone_batch(batch)
        bound = inspect.signature(self.module.forward).bind(*copied, **keywords_of(copied))
        bound.apply_defaults()
        self._values = bound.arguments
        return self.run()

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The value of an argument."""
        return self._values[target.lstrip("*")]


class ArgumentPlaceholders:
    """Makes the placeholders of a graph for the arguments that are given; the other arguments are fixed.

    Args:
        tracer: the tracer that makes the nodes.
        model: the model that is traced; it gets the modules that check arguments.
        given: the arguments that are given, by name; `torch.Tensor` may stand for a tensor.
    """

    def __init__(self, tracer: fx.Tracer, model: nn.Module, given: Mapping[str, Any]) -> None:
        self._tracer, self._model, self._values = tracer, model, given
        self.signature = inspect.signature(model.forward)
        self._has_default = False

    def make(self) -> inspect.BoundArguments:
        """The arguments with which to call the model's forward: proxies, and the values that are fixed."""
        parameters = self.signature.parameters.items()
        proxies = {name: self._placeholder(parameter) for name, parameter in parameters}
        # Before anything takes the arguments.
        for name, parameter in parameters:
            self._check_argument(parameter, proxies[name])
        bound = self.signature.bind_partial()
        for name, parameter in parameters:
            bound.arguments[name] = self._argument(parameter, proxies[name])
        return bound

    def _placeholder(self, parameter: inspect.Parameter) -> Any:
        name = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            return {key: self._proxy(key, None) for key in self._values.get(name, {})}
        if parameter.kind is parameter.VAR_POSITIONAL:
            return self._tracer.create_proxy("placeholder", f"*{name}", (), {}) if self._values.get(name) else None
        return self._proxy(name, parameter.default)

    def _proxy(self, name: str, default: Any) -> fx.Proxy:
        # Python wants a default of every argument behind one that has a default.
        self._has_default = self._has_default or default is not inspect.Parameter.empty
        simple = default if isinstance(default, SIMPLE) else None
        return self._tracer.create_proxy("placeholder", name, (simple,) if self._has_default else (), {})

    def _is_given(self, parameter: inspect.Parameter) -> bool:
        return parameter.name in self._values and not is_default(self._values[parameter.name], parameter)

    def _check_argument(self, parameter: inspect.Parameter, proxy: Any) -> None:
        name = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            for key, item in proxy.items():
                self._check(key, item, structure_of(self._values[name][key]))
        elif parameter.kind is parameter.VAR_POSITIONAL:
            if proxy is not None:
                self._check(name, proxy, structure_of(tuple(self._values[name])))
        elif self._is_given(parameter):
            expected = structure_of(self._values[name])
            if expected is not Tensor or proxy.node.args:
                self._check(name, proxy, expected)
        else:
            self._check(name, proxy, parameter.default if isinstance(parameter.default, SIMPLE) else None)

    def _argument(self, parameter: inspect.Parameter, proxy: Any) -> Any:
        value = self._values.get(parameter.name)
        if parameter.kind is parameter.VAR_KEYWORD:
            return {key: opened(item, structure_of((value or {})[key])) for key, item in proxy.items()}
        if parameter.kind is parameter.VAR_POSITIONAL:
            return () if proxy is None else opened(proxy, structure_of(tuple(value or ())))
        return opened(proxy, structure_of(value)) if self._is_given(parameter) else parameter.default

    def _check(self, name: str, proxy: fx.Proxy, expected: Any) -> None:
        target = free_name(self._model, f"{name}_argument")
        self._model.add_module(target, ArgumentCheck(name, expected))
        self._tracer.create_proxy("call_module", target, (proxy,), {})


def free_name(model: nn.Module, name: str) -> str:
    """`name`, with a number where the model has an attribute of that name already."""
    free, count = name, 1
    while hasattr(model, free):
        free, count = f"{name}_{count}", count + 1
    return free
