"""The display that a Python call shows where nothing was asked for."""

import builtins
import importlib.util
import io
import sys

import pytest

from mmcl_fast import Learner, progress
from mmcl_fast.errors import ConfigError
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ZMQInteractiveShell:
    """Has the name of a notebook's kernel."""


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)


def test_bars_in_a_terminal(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)  # not in the fixture: pytest sets it again before a test
    assert isinstance(progress.choose_display("auto"), progress.Bars)


def test_nothing_in_a_log(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress.choose_display("auto") is None


@pytest.mark.parametrize(("has_widgets", "kind"), [(True, progress.Bars), (False, progress.Lines)])
def test_notebooks_show_bars_or_lines(notebook, monkeypatch, has_widgets, kind):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: has_widgets or None if name == "ipywidgets" else found(name)
    )
    assert isinstance(progress.choose_display("auto"), kind)


def test_what_was_asked_for_is_kept(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    own = progress.Silent()
    assert progress.choose_display(own) is own
    assert progress.choose_display(None) is None


def test_other_texts_are_errors():
    with pytest.raises(ConfigError, match="progress = 'bars': give \"auto\", None"):
        progress.choose_display("bars")


def test_learners_show_bars_unless_told_otherwise(terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", terminal)
    write_folder(tmp_path)
    task = Stream.from_folder(tmp_path).tasks[0]
    Learner(ToyEncoder(), "ncm", progress=None).learn(task)
    assert terminal.getvalue() == ""
    learner = Learner(ToyEncoder(), "ncm")
    learner.learn(task)
    assert "decode and trunk" in terminal.getvalue()
    learner.save(tmp_path / "model")
    assert isinstance(Learner.load(tmp_path / "model", encoder=ToyEncoder()).progress, progress.Bars)
