# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""Module paths of the original package whose names live in another module here.

Such a path imports as a module of its own that shows the public names of the module where they live: the same objects.
Nothing is imported before somebody asks for a path.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from mct_quantizers import _lazy

__all__ = ["HOME_OF", "add", "install"]

_PACKAGE = __name__.rpartition(".")[0]
_HOLDERS = "pytorch.activation_quantization_holder"


def _quantizer_files(wing: str) -> dict[str, str]:
    """The original has one file for each quantizer; here there is one for weights and one for activations."""
    homes = {f"{wing}.quantizers.base_{wing}_inferable_quantizer": f"{wing}.quantizers.base"}
    for target, kinds in (
        ("activation", ("lut_pot", "pot", "symmetric", "uniform")),
        ("weights", ("lut_pot", "lut_symmetric", "pot", "symmetric", "uniform")),
    ):
        package, home = f"{wing}.quantizers.{target}_inferable_quantizers", f"{wing}.quantizers.{target}"
        homes[package] = home
        homes.update({f"{package}.{target}_{kind}_inferable_quantizer": home for kind in kinds})
    return homes


HOME_OF = {
    f"{_PACKAGE}.{path}": f"{_PACKAGE}.{home}"
    for path, home in {
        "common.get_all_subclasses": "common.registry",
        "common.get_quantizers": "common.registry",
        "keras.validation_functions": "common.quant_utils",
        "pytorch.fln_activation_quantization_holder": _HOLDERS,
        "pytorch.preserving_activation_quantization_holder": _HOLDERS,
        **_quantizer_files("keras"),
        **_quantizer_files("pytorch"),
    }.items()
}
"""The module that holds the names of each moved path."""


def add(homes: Mapping[str, str]) -> None:
    """Make more paths importable, each with the module that holds its names."""
    HOME_OF.update(homes)


class _MovedModules:
    """Finder and loader of the moved paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a moved path; None for every other module."""
        del path, target
        if fullname not in HOME_OF:
            return None
        is_package = any(other.startswith(f"{fullname}.") for other in HOME_OF)
        # A loader by its methods: importlib.abc takes longer to import than the rest of the package.
        loader: Any = self
        return ModuleSpec(fullname, loader, origin=HOME_OF[fullname], is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """Python makes an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Let the module show the public names of its home, each looked up when it is used."""
        home = _lazy.import_optional(HOME_OF[module.__name__], needed_by=module.__name__)
        names = [name for name in vars(home) if not name.startswith("_")]
        find, list_names = _lazy.attach(module.__name__, dict.fromkeys(names, home.__name__), names)
        shown = {"__getattr__": find, "__dir__": list_names, "__all__": getattr(home, "__all__", names)}
        vars(module).update(shown, __doc__=home.__doc__)


def install() -> None:
    """Make the moved paths importable. Once or often is the same, after a reload too."""
    own = (_MovedModules.__module__, _MovedModules.__qualname__)
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if (type(finder).__module__, type(finder).__qualname__) != own
    ]
    # Last: a file of that name would come first.
    sys.meta_path.append(_MovedModules())
