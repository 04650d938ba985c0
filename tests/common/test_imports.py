# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
"""What an import loads, each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

import mct_quantizers

FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "onnx", "onnxruntime", "onnxscript", "sklearn")


def run(code: str) -> str:
    """Standard output of `code` in a fresh interpreter."""
    process = subprocess.run(  # our own code
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize(
    "module", ["mct_quantizers", "mct_quantizers.common.arithmetic, mct_quantizers.common.quantizers.uniform"]
)
def test_import_loads_no_framework(module):
    assert run(f"import sys, {module}; print([name for name in {FRAMEWORKS} if name in sys.modules])") == "[]"


def test_first_use_of_a_framework_name_loads_that_framework_alone():
    pytest.importorskip("torch")
    output = run(
        """
        import sys, mct_quantizers
        mct_quantizers.PytorchQuantizationWrapper
        print([name in sys.modules for name in ("torch", "keras", "tensorflow", "onnxruntime")])
        """
    )
    assert output == "[True, False, False, False]"


@pytest.mark.parametrize(
    "name", ["PytorchQuantizationWrapper", "PytorchActivationQuantizationHolder", "pytorch_quantizers"]
)
def test_missing_framework_raises_import_error_with_the_remedy(name):
    output = run(
        f"""
        import sys
        sys.modules["torch"] = None
        import mct_quantizers
        try:
            mct_quantizers.{name}
        except ImportError as error:
            print(error)
        """
    )
    assert f"`mct_quantizers.{name}` needs torch" in output
    assert "quantizers-infrastructure[torch]" in output


def test_missing_framework_does_not_hinder_the_neutral_names():
    output = run(
        """
        import sys
        sys.modules["torch"] = None
        import mct_quantizers
        names = [name for name in mct_quantizers.__all__ if "ytorch" not in name and "eras" not in name]
        print(len([getattr(mct_quantizers, name) for name in names]) == len(names) >= 6)
        """
    )
    assert output == "True"


def test_unknown_attribute_raises_attribute_error():
    with pytest.raises(AttributeError, match="'mct_quantizers' has no attribute 'NoSuchName'"):
        mct_quantizers.NoSuchName  # noqa: B018


def test_error_inside_the_package_is_not_taken_for_a_missing_framework():
    from mct_quantizers import _lazy

    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        _lazy.import_optional("no_such_module_anywhere", needed_by="test")


def test_every_public_name_resolves():
    pytest.importorskip("torch")
    assert sorted(dir(mct_quantizers)) == sorted(mct_quantizers.__all__)
    for name in mct_quantizers.__all__:
        assert getattr(mct_quantizers, name) is not None
