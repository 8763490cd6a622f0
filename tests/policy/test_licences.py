from __future__ import annotations

import pytest

from tests.policy import licences


def test_all_that_is_installed_goes_with_our_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert licences.main() == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert all(name in told for name in ("torch", "gradio", "peft", "opencv-python"))
