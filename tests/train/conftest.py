"""A small run that went to its end, for the tests that look at it or damage a copy of it."""

import shutil
from pathlib import Path

import pytest

from jaxlm import config
from jaxlm.train.loop import train
from tests import tiny
from tests.train.runs import a_run, put_on_one_device


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory):
    """Prepared data of these tests is kept away from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXLM_CACHE", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def one_device(monkeypatch):
    """Runs with `mesh.data=1` are on the first of the eight devices; other meshes are as ever."""
    put_on_one_device(monkeypatch)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, text) -> Path:
    """Eight steps on one device, with dropout and a moving average. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        put_on_one_device(patch)
        train(a_run(text), folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def run(finished):
    """The config of the finished run."""
    return config.load(finished)
