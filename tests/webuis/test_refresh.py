"""A running webui is asked to read its list again; whoever does not answer well is not waited for."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from lora_core.webuis.detect import WebUI, recognise
from lora_core.webuis.refresh import REFRESH, refresh
from tests.support import webui_trees as trees
from tests.support.webui_server import running


@pytest.fixture
def webui(tmp_path: Path) -> WebUI:
    found = recognise(trees.a1111(tmp_path))
    assert found is not None
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_webui_that_answers_is_named(webui: WebUI) -> None:
    with running() as (port, requests):
        assert refresh(webui, (_free_port(), port)) == f"http://127.0.0.1:{port}"
        assert requests == [f"POST {REFRESH}"]


def test_the_port_of_its_start_script_is_asked_alone(webui: WebUI) -> None:
    with running() as (port, requests), running() as (other, others):
        assert refresh(dataclasses.replace(webui, port=port), (other,)) == f"http://127.0.0.1:{port}"
        assert (len(requests), others) == (1, [])


@pytest.mark.parametrize("status", [404, 401, 405, 500, 302])
def test_without_its_api_nothing_is_claimed(status: int, webui: WebUI) -> None:
    with running(status) as (port, requests):
        assert refresh(webui, (port,)) == ""
        assert len(requests) == 1


def test_nobody_there(webui: WebUI) -> None:
    assert refresh(webui, (_free_port(),)) == ""


def test_a_slow_one_is_not_waited_for(webui: WebUI) -> None:
    with running(delay_s=1.0) as (port, requests):
        assert refresh(webui, (port,), timeout_s=0.1) == ""
        assert len(requests) == 1


def test_something_that_speaks_no_http(webui: WebUI) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert refresh(webui, (server.getsockname()[1],), timeout_s=0.1) == ""


def test_webuis_without_such_an_api_are_not_asked(tmp_path: Path) -> None:
    comfy = recognise(trees.comfy(tmp_path))
    assert comfy is not None
    with running() as (port, requests):
        assert refresh(comfy, (port,)) == ""
        assert requests == []
