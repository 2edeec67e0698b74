import numpy as np
import pytest

from jaxlm.data import audio
from jaxlm.data.audio import read_audio, stream_audio
from jaxlm.errors import UserError

soundfile = pytest.importorskip("soundfile")
TONE = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050).astype(np.float32) / 2


def test_samples_stay_what_they_are():
    np.testing.assert_array_equal(read_audio(TONE), TONE)
    np.testing.assert_array_equal(read_audio((TONE, 16_000)), TONE)
    np.testing.assert_allclose(read_audio(np.array([16384, -32768], np.int16)), [0.5, -1])
    np.testing.assert_allclose(read_audio(np.stack([TONE, 3 * TONE], 1)), 2 * TONE, atol=1e-7)


def test_another_rate_is_resampled():
    found, at = read_audio((TONE, 22_050)), np.arange(16_000) / 16_000
    assert abs(len(found) - 16_000) <= 2
    inner = slice(200, 15_800)
    np.testing.assert_allclose(found[inner], np.sin(2 * np.pi * 440 * at[inner]) / 2, atol=2e-3)


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_a_file_is_streamed(tmp_path, monkeypatch, form):
    path = tmp_path / f"tone.{form}"
    soundfile.write(path, np.stack([TONE, TONE], 1), 22_050)
    whole = read_audio(str(path))
    np.testing.assert_allclose(whole, read_audio((TONE, 22_050)), atol=1e-4)
    monkeypatch.setattr(audio, "BLOCK", 1)
    soundfile.write(path, np.tile(TONE, 3), 22_050)
    blocks = list(stream_audio(path))
    assert len(blocks) == 4 and max(map(len, blocks)) < 17_000  # the last is what the resampler still had
    np.testing.assert_allclose(np.concatenate(blocks), read_audio((np.tile(TONE, 3), 22_050)), atol=1e-4)


def test_what_is_no_sound(tmp_path):
    def said(sound):
        with pytest.raises(UserError) as error:
            read_audio(sound)
        return str(error.value)

    assert "there is no such file" in said(tmp_path / "gone.wav")
    (tmp_path / "text.wav").write_text("RIFF, but not really")
    assert "text.wav is no sound that can be read" in said(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    assert "empty.wav has no samples" in said(tmp_path / "empty.wav")
    assert "no samples" in said(np.zeros(0, np.float32))
    assert "a sample is not finite, near second" in said(np.array([0.0, np.nan], np.float32))
    assert "rate of the samples must be" in said((TONE, 0))
    assert "samples must be numbers" in said([["a"]])


def test_a_missing_library_is_named(monkeypatch):
    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr(audio.importlib, "import_module", gone)
    with pytest.raises(UserError, match=r"needs soxr: pip install 'jaxlm\[audio\]'"):
        read_audio((TONE, 22_050))
