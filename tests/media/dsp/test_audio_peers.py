"""Resampling, filters and spectrogram compared with torchaudio, where it is installed, and transformers."""

import numpy as np
import pytest
import torch

from mmcl_fast.media.dsp import mel
from mmcl_fast.media.dsp.resample import resample
from tests.media.files import plain

BANKS = [(128, 1024, 16000, 20.0, 8000.0), (64, 512, 8000, 0.0, 4000.0), (40, 400, 16000, 100.0, 7000.0)]
SAME_FILTER = {"lowpass_filter_width": 16, "rolloff": 0.95, "resampling_method": "sinc_interp_kaiser", "beta": 9.0}


@pytest.fixture(scope="module")
def torchaudio():
    try:
        import torchaudio
    except Exception as error:  # a wheel for another torch fails with OSError
        pytest.skip(f"torchaudio does not import: {error}")
    return torchaudio


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


def spec_of(bank: tuple, **values):
    mels, n_fft, rate, low, high = bank
    return plain("audio", mels=mels, n_fft=n_fft, sample_rate=rate, f_min=low, f_max=high, **values)


@pytest.mark.parametrize("bank", BANKS)
def test_filters_are_those_of_torchaudio(torchaudio, bank):
    mels, n_fft, rate, low, high = bank
    want = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, low, high, mels, rate, norm=None, mel_scale="htk")
    assert (mel.htk_triangles(*bank) - want.T).abs().max() < 1e-4
    assert torch.equal(mel.filterbank(*bank), want.T)


@pytest.mark.parametrize("bank", BANKS)
def test_mel_is_that_of_torchaudio(torchaudio, bank):
    mels, n_fft, rate, low, high = bank
    other = torchaudio.transforms.MelSpectrogram(
        rate, n_fft, hop_length=n_fft // 4, f_min=low, f_max=high, n_mels=mels, pad_mode="constant"
    )
    want, got = other(noise(rate)), mel.mel_power(noise(rate), spec_of(bank, hop=n_fft // 4))
    assert got.shape == want.shape and torch.allclose(got, want, rtol=1e-3, atol=1e-4 * want.max().item())


@pytest.mark.parametrize("rate", [44100, 48000, 22050, 8000])
def test_resampling_is_that_of_torchaudio_with_the_same_filter(torchaudio, rate):
    want = torchaudio.functional.resample(noise(rate), rate, 16000, **SAME_FILTER)
    got = resample(noise(rate), rate, 16000)
    assert got.shape == want.shape and (got - want).abs().max() < 1e-4


@pytest.mark.parametrize("bank", BANKS)
def test_filters_and_mel_are_those_of_transformers(bank):
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    mels, n_fft, rate, low, high = bank
    filters = mel_filter_bank(n_fft // 2 + 1, mels, low, high, rate, norm=None, mel_scale="htk")
    assert np.abs(mel.filterbank(*bank).numpy() - filters.T).max() < 1e-4
    assert np.abs(mel.htk_triangles(*bank).numpy() - filters.T).max() < 1e-6
    wave = noise(rate)
    want = spectrogram(
        wave.numpy(),
        window_function(n_fft, "hann"),
        n_fft,
        n_fft // 4,
        power=2.0,
        pad_mode="constant",
        mel_filters=filters,
        mel_floor=0.0,
    )
    got = mel.mel_power(wave, spec_of(bank, hop=n_fft // 4)).numpy()
    assert got.shape == want.shape and np.allclose(got, want, rtol=1e-3, atol=1e-5 * want.max())


def test_without_torchaudio_the_filters_are_ours(monkeypatch):
    monkeypatch.setattr(mel, "_torchaudio", lambda: None)
    mel.filterbank.cache_clear()
    assert torch.equal(mel.filterbank(*BANKS[1]), mel.htk_triangles(*BANKS[1]))
    mel.filterbank.cache_clear()


def test_a_batch_is_its_items():
    waves, spec = noise(3, 9000), plain("audio", size=24, seconds=0.5)
    waves[1] = 0  # silence beside sound
    together = resample(waves, 44100, 16000)
    assert torch.equal(together, torch.stack([resample(wave, 44100, 16000) for wave in waves]))
    for shift in (None, 0.3):
        cut = mel.take_window(together, spec, shift)
        assert torch.equal(cut, torch.stack([mel.take_window(wave, spec, shift) for wave in together]))
    power = mel.mel_power(cut, spec)
    assert torch.allclose(power, torch.stack([mel.mel_power(wave, spec) for wave in cut]), rtol=1e-5, atol=1e-9)
    pictures = mel.log_mel_image(cut, spec)
    assert pictures.shape == (3, 1, 24, 24) and pictures[1].max() == 0
    assert torch.allclose(pictures, torch.cat([mel.log_mel_image(wave, spec) for wave in cut]), atol=1e-5)


@pytest.mark.parametrize(
    "rate, new", [(1000, 16000), (1_000_000, 16000), (44099, 16000), (16000, 48000), (96000, 8000)]
)
def test_any_pair_of_rates_and_length(rate, new):
    for length in (1, 7, 100, 4001):
        got = resample(torch.ones(length), rate, new)
        assert got.shape == (-(-length * new // rate),) and got.isfinite().all()
    middle = resample(torch.ones(40 * max(1, rate // new) + 400), rate, new)
    assert abs(middle[len(middle) // 2].item() - 1) < 1e-3  # a constant stays itself far from the ends
