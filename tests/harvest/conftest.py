"""What tests share: the loopback host of those that fetch, and a harvest with copies."""

import shutil

import pytest

from tests.harvest import twins, web


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with web.serve(tmp_path_factory.mktemp("web")) as site:
        yield site


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A harvested folder among whose tracks there are copies (twins.py)."""
    return twins.settle(tmp_path_factory.mktemp("made") / "out", twins.SOURCES)


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(made, tmp_path / "out")
