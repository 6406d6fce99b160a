"""The parts that all modalities share: sniffing, errors and views."""

import io
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmcl_fast.errors import ConfigError, MediaError, UserError
from mmcl_fast.media import MODALITIES, TextSpec, check, decode, default_spec, sniff, spec_from_dict
from mmcl_fast.media.dsp.views import draw_view
from tests.media.files import av_audio, counting_video, jpeg, plain, quarters, tone


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> dict[str, Path]:
    """Return one file of each kind; its name says the modality."""
    root = tmp_path_factory.mktemp("media")
    quarters().save(root / "image.png")
    quarters().save(root / "image.jpg")
    quarters().save(root / "image.webp")
    quarters().save(root / "image.tiff")
    quarters().save(root / "image.bmp")
    quarters().save(root / "image.gif")
    Image.fromarray(np.arange(1, 65, dtype=np.uint16).reshape(8, 8)).save(root / "depth.png")
    Image.fromarray(np.arange(1, 65, dtype=np.float32).reshape(8, 8)).save(root / "depth.tiff")
    np.save(root / "depth.npy", np.ones((8, 8), np.float32))
    quarters().save(root / "video.gif", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    quarters().save(root / "video.webp", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    counting_video(root / "video.mp4", 12)
    counting_video(root / "video.webm", 12, "libvpx-vp9")
    counting_video(root / "video.mkv", 12)
    counting_video(root / "video.avi", 12, "mjpeg")
    for ending in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(root / f"audio.{ending}", tone(440, 16000), 16000)
    soundfile.write(root / "audio.opus", tone(440, 16000), 16000, format="OGG", subtype="OPUS")
    av_audio(root / "audio.m4a", "aac", tone(440, 16000), 16000)
    (root / "text.txt").write_text("Grüße — a sentence.", encoding="utf-8")
    (root / "text.md").write_text("BM begins like a bitmap.")
    return {path.name: path for path in root.iterdir()}


def test_sniff_by_content_whatever_the_name(media, tmp_path):
    assert len(media) == 23
    for name, path in media.items():
        modality = name.split(".")[0]
        assert sniff(path) == modality, name
        assert sniff(path.read_bytes()) == modality, name
        misnamed = tmp_path / "x.jpg"
        misnamed.write_bytes(path.read_bytes())
        assert sniff(misnamed) == modality, name
        check(path, modality)
        decode(misnamed, modality)


def test_sniff_refuses_the_rest(tmp_path):
    noise = random.Random(0).randbytes(3000)
    for content in (b"\x7fALF\2\1\1" + bytes(60), b"\xff\xd8\xff" + bytes(20), noise):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(MediaError, match="a.bin: neither image"):
            sniff(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(MediaError, match="empty"):
        sniff(tmp_path / "a.bin")
    with pytest.raises(MediaError, match="gone.png: No such file"):
        sniff(tmp_path / "gone.png")


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_fault_is_one_line_that_names_the_file(modality, media, tmp_path):
    other = {
        "image": "audio.wav",
        "video": "audio.mp3",
        "audio": "image.png",
        "depth": "video.mp4",
        "text": "image.jpg",
    }[modality]
    good = next(path for name, path in media.items() if name.startswith(modality))
    faults = {
        "empty": b"",
        "random": b"\xfe" + random.Random(1).randbytes(4000),
        "wrong": media[other].read_bytes(),
        "head": good.read_bytes()[:10] + b"\0" * 3,
    }
    for name, content in faults.items():
        path = tmp_path / f"{name}{good.suffix}"
        path.write_bytes(content)
        for work in (decode, check):
            with pytest.raises(MediaError) as caught:
                work(path, modality)
            message = str(caught.value)
            assert str(path) in message and "\n" not in message and isinstance(caught.value, UserError)
            if name == "wrong":
                assert f"its content is {other.split('.')[0]}" in message
            if name == "empty":
                assert "the file is empty: replace the file or remove it" in message
    for path, reason in ((tmp_path / "gone.x", "No such file"), (tmp_path, ".")):
        with pytest.raises(MediaError, match=reason):
            decode(path, modality)


@pytest.mark.parametrize(
    "name",
    [
        "image.jpg",
        "image.png",
        "audio.flac",
        "video.mp4",
        "video.avi",
        "depth.png",
        "audio.ogg",
        "video.webm",
        "audio.m4a",
        "depth.tiff",
    ],
)
def test_damage_ends_in_an_item_or_a_media_error(name, media, tmp_path):
    data, rng, outcomes = media[name].read_bytes(), random.Random(name), set()
    for _ in range(20):
        broken = bytearray(data[: rng.randrange(1, len(data))] if rng.random() < 0.5 else data)
        for _ in range(rng.randrange(8)):
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        try:
            item = decode(bytes(broken), name.split(".")[0])
            assert item.isfinite().all()
            outcomes.add("item")
        except MediaError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert "error" in outcomes


def test_a_truncated_picture_is_an_error(media):
    data = jpeg(Image.effect_noise((256, 256), 50).convert("RGB"))
    with pytest.raises(MediaError, match="truncated"):
        decode(data[: len(data) // 2], "image")


def test_names_are_never_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counting_video(tmp_path / "plain.mp4", 5).rename("concat:a.mp4")
    assert decode("concat:a.mp4", "video").shape == (8, 3, 224, 224)


def test_playlists_open_nothing(media, tmp_path):
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{media['video.mp4']}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="list.mp4"):
        decode(tmp_path / "list.mp4", "video")


def test_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff  Grüße\nan alle \n".encode())
    assert decode(path, "text") == "Grüße\nan alle"
    assert decode(path, "text", TextSpec(max_chars=4)) == "Grüß"
    assert decode("é".encode() * 5000, "text", TextSpec(max_chars=7), view=3) == "é" * 7
    long = "é".encode() * 40_000 + b"\xe9"
    for content, reason in ((b"a\0b", "zero bytes"), (b" \n", "no words"), (b"caf\xe9", "Latin-1, .*save it as UTF-8")):
        path.write_bytes(content)
        with pytest.raises(MediaError, match=f"a.txt: .*{reason}"):
            decode(path, "text")
    path.write_bytes(long)
    with pytest.raises(MediaError, match="a.txt: is not UTF-8 from byte 80000 on: save it as UTF-8"):
        check(path, "text")
    assert decode(path, "text", TextSpec(max_chars=3)) == "ééé"


def test_spec_and_modality_must_agree(media):
    with pytest.raises(MediaError, match="modality 'audio' with a spec for image"):
        decode(media["audio.wav"], "audio", plain("image"))
    with pytest.raises(ConfigError, match="smell"):
        decode(media["audio.wav"], "smell")


@pytest.mark.parametrize("modality", MODALITIES)
def test_specs_go_to_dicts_and_back(modality):
    spec = default_spec(modality)
    assert spec_from_dict(spec.to_dict()) == spec
    with pytest.raises(ConfigError, match="colour"):
        spec_from_dict({**spec.to_dict(), "colour": 1})


def test_importing_needs_torch_only():
    blocked = ("numpy", "PIL", "av", "soundfile")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "import mmcl_fast.media, mmcl_fast.streams\n"
        "from mmcl_fast.errors import MediaError\n"
        "try: mmcl_fast.media.decode(b'x', 'image')\n"
        "except MediaError as error: print(error)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(": install it") and "needs the package" in done.stdout


# views


@pytest.mark.parametrize("name", ["image.jpg", "video.mp4", "audio.wav", "depth.png"])
def test_views_are_fixed_by_seed_view_and_key(name, media):
    modality = name.split(".")[0]
    spec = plain(modality, 32, **({"seconds": 0.3, "n_fft": 256, "mels": 32} if modality == "audio" else {}))
    get = lambda **options: decode(media[name], modality, spec, **options)  # noqa: E731
    plain_view = get()
    assert torch.equal(plain_view, get(seed=5)) and torch.equal(plain_view, get(key="b"))
    assert torch.equal(get(view=1, seed=1, key="a"), get(view=1, seed=1, key="a"))
    base = get(view=1, seed=1, key="a")
    assert base.shape == plain_view.shape and not torch.equal(base, plain_view)
    for other in (
        {"view": 2, "seed": 1, "key": "a"},
        {"view": 1, "seed": 2, "key": "a"},
        {"view": 1, "seed": 1, "key": "b"},
    ):
        assert not torch.equal(base, get(**other))


def test_a_view_is_the_same_region_in_every_frame(tmp_path):
    pictures = [Image.fromarray(np.asarray(quarters())) for _ in range(4)]
    pictures[1].putpixel((0, 0), (1, 1, 1))  # equal frames would be merged
    data = io.BytesIO()
    pictures[0].save(data, "WEBP", save_all=True, append_images=pictures[1:], lossless=True, duration=100)
    got = decode(data.getvalue(), "video", plain("video", 32, frames=4), view=3)
    assert (got - got[:1]).abs().max() < 0.5 and torch.equal(got[2], got[3])


def test_views_stay_inside_and_flip_half_of_the_time():
    views = [draw_view(1, 0, str(i)) for i in range(400)]
    for view in views:
        left, top, right, bottom = view.box
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        assert 0.5 < (right - left) * (bottom - top) <= 1
    assert 150 < sum(view.flip for view in views) < 250
