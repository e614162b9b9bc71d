"""The console command finds the same mains as the scripts."""

import importlib
import subprocess
import sys

import pytest

from skelcore import cli


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_main_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(importlib.import_module(cli.COMMANDS[name][0]).main)
    assert cli.main([name, "--help"]) == 0
    assert capsys.readouterr().out.strip()


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["harvst"]) == 2
    assert "did you mean 'harvest'" in capsys.readouterr().err


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert all(name in capsys.readouterr().out for name in ("harvest",))


def test_the_command_starts_without_loading_torch() -> None:
    code = "import sys; from skelcore import cli; cli.main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
