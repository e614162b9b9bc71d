"""The doctor tells what works and how to mend what does not."""

import pytest

from harvest import doctor
from harvest.estimators import weights


def test_a_sound_installation_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("torch", "video codecs", "pose model blazepose", "Ray", "yt-dlp", "faiss"))


def test_a_package_that_does_not_import_is_a_finding_with_a_remedy(monkeypatch: pytest.MonkeyPatch,
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(doctor.sys.modules, "av", None)
    assert doctor.main([]) == 1
    assert "pip install av" in capsys.readouterr().out


def test_a_model_that_is_not_cached_names_the_offline_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: object,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SKELSHOT_CACHE", str(tmp_path))
    assert doctor.main([]) == 0
    assert weights.WHEEL_VARIABLE in capsys.readouterr().out
