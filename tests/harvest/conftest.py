"""What the tests of fetching share: the loopback host."""

import pytest

from tests.harvest import web


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with web.serve(tmp_path_factory.mktemp("web")) as site:
        yield site
