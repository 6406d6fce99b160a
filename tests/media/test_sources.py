"""A slice of a file is accepted wherever a file or its bytes are."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmcl_fast.errors import MediaError
from mmcl_fast.media import check, decode, sniff
from mmcl_fast.media import source as sources
from mmcl_fast.media.source import Slice, head, name_of, open_binary, read_bytes, size_of
from tests.media.files import counting_video, plain, quarters, tone


@pytest.fixture(scope="module")
def packed_files(tmp_path_factory) -> tuple[Path, dict[str, tuple[Slice, Path]]]:
    """Return one file that contains several files, with noise between them."""
    root = tmp_path_factory.mktemp("packed_files")
    quarters().save(root / "image.png")
    quarters().save(root / "image.jpg")
    np.save(root / "depth.npy", np.arange(1, 65, dtype=np.float32).reshape(8, 8))
    Image.fromarray(np.arange(1, 65, dtype=np.uint16).reshape(8, 8)).save(root / "depth.png")
    quarters().save(root / "video.gif", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    counting_video(root / "video.mp4", 12)
    soundfile.write(root / "audio.wav", tone(440, 16000), 16000)
    soundfile.write(root / "audio.mp3", tone(440, 16000), 16000)
    (root / "text.txt").write_text("a sentence", encoding="utf-8")
    data, found = bytearray(b"\xff" * 700), {}
    for path in sorted(root.iterdir()):
        found[path.name] = (Slice(str(root / "pack.bin"), len(data), path.stat().st_size, path.name), path)
        data += path.read_bytes() + b"\xff" * 700
    (root / "pack.bin").write_bytes(data)
    return root / "pack.bin", found


@pytest.mark.parametrize("whole", [sources.READ_AT_ONCE, 0], ids=["at once", "as asked for"])
def test_a_slice_is_its_file(packed_files, monkeypatch, whole):
    monkeypatch.setattr(sources, "READ_AT_ONCE", whole)
    assert len(packed_files[1]) == 9
    for name, (part, path) in packed_files[1].items():
        modality = name.split(".")[0]
        assert sniff(part) == modality
        check(part, modality)
        want, got = (decode(source, modality, view=1, key="k") for source in (path, part))
        assert got == want if modality == "text" else torch.equal(got, want), name
        data = path.read_bytes()
        assert (size_of(part), read_bytes(part), head(part, 10**9)) == (len(data), data, data)
        with open_binary(part) as file:
            assert file.seek(-3, io.SEEK_END) == len(data) - 3 and file.read() == data[-3:]
            assert file.seek(2) == 2 and file.read(4) == data[2:6] and file.read(0) == b""


def test_threads_read_slices_of_one_file(packed_files):
    parts = [pair for name, pair in packed_files[1].items()] * 20
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda pair: read_bytes(pair[0]) == pair[1].read_bytes(), parts))


def test_a_slice_is_named(packed_files, tmp_path):
    pack, found = packed_files
    part = Slice(str(pack), 0, 200, "cat.png")
    assert name_of(part) == f"{pack}/cat.png"
    with pytest.raises(MediaError, match="pack.bin/cat.png: cannot be decoded as image"):
        decode(part, "image")
    with pytest.raises(MediaError, match="pack.bin/none.png: the file is empty"):
        decode(Slice(str(pack), 0, 0, "none.png"), "image")
    with pytest.raises(MediaError, match="pack.bin/image.png: .*its content is image; move it to image"):
        decode(found["image.png"][0], "audio")
    with pytest.raises(MediaError, match="gone.tar/a.png: No such file"):
        decode(Slice(str(tmp_path / "gone.tar"), 0, 9, "a.png"), "image")


@pytest.mark.parametrize("whole", [sources.READ_AT_ONCE, 0], ids=["at once", "as asked for"])
def test_a_slice_past_the_end_is_a_clean_error(packed_files, monkeypatch, whole):
    monkeypatch.setattr(sources, "READ_AT_ONCE", whole)
    pack, _ = packed_files
    long = Slice(str(pack), pack.stat().st_size - 100, 5000, "late.txt")
    for modality in ("image", "audio", "text"):
        with pytest.raises(MediaError, match="pack.bin/late.txt: .*ends inside it"):
            decode(long, modality, plain(modality) if modality != "text" else None)
