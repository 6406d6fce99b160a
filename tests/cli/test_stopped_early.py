"""A process of ``--devices`` that a signal ends before the processes have found each other."""

import signal

import pytest

from mmcl_fast import distributed
from mmcl_fast.cli.common import process_count
from mmcl_fast.runs import RunStopped


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setenv(distributed.PARENT_PIPE, "99")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.world_size() == 1  # no group yet


def test_the_command_to_go_on_has_all_processes(alone):
    assert process_count(None) == 2


@pytest.mark.parametrize(("rank", "reports"), [("0", True), ("1", False)])
def test_one_process_tells_it(alone, monkeypatch, rank, reports):
    monkeypatch.setenv("RANK", rank)
    assert distributed.should_report(RunStopped(signal.SIGINT)) is reports
