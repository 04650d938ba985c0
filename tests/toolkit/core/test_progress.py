# SPDX-FileCopyrightText: The quantizers-infrastructure authors
# SPDX-License-Identifier: Apache-2.0
import pytest

from model_compression_toolkit.core.common import progress
from model_compression_toolkit.core.common.interface import UserInformation, refuse_unsupported
from model_compression_toolkit.core.common.progress import track, working
from model_compression_toolkit.core.common.quantization_config import CaptureMode
from model_compression_toolkit.core.common.quantization_plan import QuantizationPlan


@pytest.fixture(params=[0.0, 1e9], ids=["at once", "never"])
def delay(request, monkeypatch):
    monkeypatch.setattr(progress, "DELAY_SECONDS", request.param)


@pytest.mark.parametrize("make", [list, iter, tuple])
def test_items_pass_in_order(delay, make):
    assert list(track(make([3, 1, 2]), "Working")) == [3, 1, 2]
    assert list(track(make([]), "Working", total=5)) == []


def test_nothing_is_printed_where_there_is_no_terminal(delay, capfd):
    list(track(range(5), "Working"))
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_shown_on_the_error_stream_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY_SECONDS", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    list(track(range(3), "Working hard"))
    captured = capsys.readouterr()
    assert "Working hard" in captured.err
    assert captured.out == ""


def test_items_are_taken_only_as_they_are_used(delay):
    taken = []
    stream = track((taken.append(i) or i for i in range(9)), "Working")
    next(stream)
    assert taken == [0]
    stream.close()
    assert taken == [0]


def test_an_error_of_the_work_comes_through(delay):
    def work():
        for item in track([1, 2], "Working"):
            if item == 2:
                raise KeyError("the work")
            yield item

    with pytest.raises(KeyError, match="the work"):
        list(work())


def test_an_error_of_the_items_comes_through(delay):
    with pytest.raises(ZeroDivisionError):
        list(track((1 / n for n in (1, 0)), "Working"))


def test_work_without_steps_is_silent_where_there_is_no_terminal_and_lets_errors_through(capfd):
    with working("Thinking"):
        pass
    with pytest.raises(KeyError, match="the work"), working("Thinking"):
        raise KeyError("the work")
    assert capfd.readouterr() == ("", "")


def test_unsupported_arguments_are_named():
    refuse_unsupported(first=None, second=None)
    for value in (0, "", False, [], "x"):
        with pytest.raises(NotImplementedError, match=r"`second` is not supported yet and must be None\. Received: "):
            refuse_unsupported(first=None, second=value)


def test_information_of_an_empty_plan():
    assert UserInformation(QuantizationPlan((), CaptureMode.GRAPH)).mixed_precision_cfg == []
