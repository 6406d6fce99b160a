import math

import numpy as np
import pytest
import soundfile
import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode
from mmcl_fast.media.dsp import mel
from mmcl_fast.media.dsp.resample import resample
from mmcl_fast.media.dsp.views import View
from mmcl_fast.media.readers.audio.audio import read_wave
from tests.media.files import av_audio, counting_video, plain, tone

SPEC = plain("audio", size=32, seconds=1.0)


def level(wave: torch.Tensor) -> float:
    return 10 * math.log10(wave[200:-200].square().mean().item() + 1e-20)


def test_a_tone_above_the_new_nyquist_is_gone():
    wave = torch.from_numpy(tone(6000, 16000))
    assert level(resample(wave, 16000, 8000)) - level(wave) < -60
    assert abs(level(resample(torch.from_numpy(tone(3000, 16000)), 16000, 8000)) - level(wave)) < 0.05


@pytest.mark.parametrize("rate, new", [(44100, 16000), (8000, 16000), (48000, 16000), (22050, 16000), (44099, 16000)])
def test_a_tone_stays_where_it_is(rate, new):
    got = resample(torch.from_numpy(tone(1000, rate)), rate, new)
    want = torch.from_numpy(tone(1000, new))
    assert len(got) == math.ceil(rate * new / rate)
    exact = rate != 44099  # 160 / 441 stands for 16000 / 44099: the phase drifts by 2e-5 of the time
    assert (got[300:-300] - want[300:-300]).abs().max() < (5e-3 if exact else 0.1)


def test_resample_is_the_formula():
    """Each output equals the sum over all inputs in float64."""
    wave = torch.randn(400, generator=torch.Generator().manual_seed(0))
    n, k = torch.arange(150, dtype=torch.float64)[:, None], torch.arange(400, dtype=torch.float64)
    cut = 0.95 * 3 / 8
    time = (k - n * 8 / 3) * cut
    kaiser = torch.special.i0(9.0 * (1 - (time / 16) ** 2).clamp_min(0).sqrt())
    kaiser = kaiser / torch.special.i0(torch.tensor(9.0))
    kernel = torch.where(time.abs() <= 16, torch.sinc(time) * kaiser * cut, 0.0)
    want = kernel @ wave.double()
    assert (resample(wave, 8000, 3000) - want).abs().max() < 2e-4


def test_mel_is_the_formula():
    """The fast way equals a plain windowed DFT with plain triangles."""
    spec = plain("audio", n_fft=256, hop=128, mels=12, sample_rate=8000, f_min=100.0, f_max=3500.0)
    wave = np.random.default_rng(0).standard_normal(1024)
    padded = np.pad(wave, 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    frames = np.stack([padded[i * 128 : i * 128 + 256] * window for i in range(9)], 1)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(129), np.arange(256)) / 256)
    power = np.abs(dft @ frames) ** 2
    to_mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    corners = 700 * (10 ** (np.linspace(to_mel(100), to_mel(3500), 14) / 2595) - 1)
    bank = np.zeros((12, 129))
    for m in range(12):
        low, mid, high = corners[m : m + 3]
        for b in range(129):
            f = b * 8000 / 256
            bank[m, b] = max(0.0, min((f - low) / (mid - low), (high - f) / (high - mid)))
    got = mel.mel_power(torch.from_numpy(wave.astype(np.float32)), spec)
    assert got.shape == (12, 9)
    assert np.allclose(got.numpy(), bank @ power, rtol=1e-3, atol=1e-4)


def test_no_filter_of_the_default_spec_is_empty():
    spec = plain("audio")
    assert (mel.filterbank(spec.mels, spec.n_fft, spec.sample_rate, 20.0, 8000.0).sum(1) > 0).all()


def test_picture_has_the_tone_in_its_place():
    low, high = (mel.log_mel_image(torch.from_numpy(tone(f, 16000)), SPEC)[0, 0] for f in (300, 5000))
    assert low.mean(1).argmax() > 20 and high.mean(1).argmax() < 8  # low bands at the bottom
    assert low.min() >= 0 and 0.7 < low.max() <= 1
    assert mel.log_mel_image(torch.zeros(16000), SPEC).max() == 0


def test_picture_does_not_depend_on_loudness():
    wave = torch.from_numpy(tone(440, 16000))
    assert torch.allclose(mel.log_mel_image(wave, SPEC), mel.log_mel_image(wave * 0.05, SPEC), atol=1e-4)


@pytest.mark.parametrize(
    "ending, rate", [("wav", 44100), ("flac", 22050), ("ogg", 16000), ("mp3", 44100), ("opus", 48000), ("m4a", 44100)]
)
def test_formats_give_the_same_picture(tmp_path, ending, rate):
    path = tmp_path / f"a.{ending}"
    wave = tone(1500, rate, 2.0)
    if ending == "m4a":
        av_audio(path, "aac", wave, rate)
    elif ending == "opus":
        soundfile.write(path, wave, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, wave, rate)
    got = decode(path, "audio", SPEC)
    assert got.shape == (1, 3, 32, 32) and torch.equal(got[0, 0], got[0, 2])
    want = mel.log_mel_image(torch.from_numpy(tone(1500, 16000)), SPEC)
    assert (got[:, :1] - want).abs()[..., 14:18, 4:-4].mean() < 0.15
    assert abs(int(got[0, 0].mean(1).argmax()) - int(want[0, 0].mean(1).argmax())) <= 1
    check(path, "audio")
    from_bytes = decode(path.read_bytes(), "audio", SPEC)
    assert torch.allclose(from_bytes, got, atol=1e-4)


def test_channels_are_mixed(tmp_path):
    left, right = tone(500, 16000), tone(3000, 16000)
    soundfile.write(tmp_path / "a.wav", np.stack((left, right), 1), 16000, subtype="FLOAT")
    wave, rate = read_wave(tmp_path / "a.wav", SPEC)
    assert rate == 16000 and np.allclose(wave.numpy(), (left + right) / 2, atol=1e-6)


def test_a_long_clip_is_cropped_at_its_centre(tmp_path):
    ramp = np.linspace(0, 1, 160000, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", ramp, 16000, subtype="FLOAT")
    wave, _ = read_wave(tmp_path / "a.wav", SPEC)
    assert len(wave) <= 16001 and abs(wave.mean().item() - 0.5) < 1e-3
    late, _ = read_wave(tmp_path / "a.wav", SPEC, shift=1.0)
    assert late[-1] == 1.0


def test_a_short_clip_is_repeated_or_padded():
    clip = torch.arange(1.0, 5.0)
    tiny = {"seconds": 1.0, "sample_rate": 10, "f_min": 0.0}
    repeated = mel.take_window(clip, plain("audio", **tiny), None)
    assert repeated.tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    padded = plain("audio", window_policy="pad", **tiny)
    assert mel.take_window(clip, padded, None).tolist() == [1, 2, 3, 4] + [0] * 6
    assert mel.take_window(clip, padded, 0.5).tolist() == [0] * 3 + [1, 2, 3, 4] + [0] * 3
    assert mel.take_window(clip, plain("audio", **tiny), 0.5).tolist() == [3, 4, 1, 2, 3, 4, 1, 2, 3, 4]


def test_refusals(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 16000, 3.0), 16000)
    with pytest.raises(MediaError, match="lasts 3 s, the limit is 2 s: .*max_seconds"):
        decode(path, "audio", plain("audio", max_seconds=2))
    soundfile.write(path, np.zeros(0, np.float32), 16000)
    with pytest.raises(MediaError, match="a.wav: holds no samples"):
        decode(path, "audio")
    soundfile.write(path, np.full(100, np.nan, np.float32), 16000, subtype="FLOAT")
    with pytest.raises(MediaError, match="not finite"):
        decode(path, "audio")
    with pytest.raises(MediaError, match="silent.mp4: holds no audio track: its content is video"):
        decode(counting_video(tmp_path / "silent.mp4", 5), "audio")


def test_random_views_move_in_time():
    assert View().shift is None
    first, second = (
        mel.take_window(torch.arange(100.0), plain("audio", seconds=1, sample_rate=10, f_min=0.0), s)
        for s in (0.1, 0.9)
    )
    assert first[0] == 9 and second[0] == 81


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_the_window_of_a_long_file_is_that_of_the_whole(tmp_path, kind):
    """libsndfile seeks exactly in Vorbis only before the first read."""
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, tone(300, 48000, 4.0) * np.linspace(0.2, 1, 192000), 48000)
    whole = soundfile.read(path, dtype="float32")[0]
    for shift in (None, 0.1, 0.9):
        start = int((0.5 if shift is None else shift) * (192000 - 48001))
        got, _ = read_wave(path, SPEC, shift)
        assert np.abs(got.numpy() - whole[start : start + 48001]).max() < 1e-4
