"""``predict`` and the check before learning decode in workers: the same results, and a killing file is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmcl_fast import plugins
from mmcl_fast.errors import MediaError
from mmcl_fast.learning import Learner, Line
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.isolation import process
from mmcl_fast.media.registry import REGISTRY
from mmcl_fast.streams import Stream, file_check
from tests.media.engines.test_isolation import PLANTED
from tests.media.originals import originals
from tests.toy import write_folder

if isolation.unavailable():
    pytest.skip(f"isolation: {isolation.unavailable()}", allow_module_level=True)


def test_predictions_are_those_of_this_process(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, in order, for every format; with workers more and fewer than batches."""
    files: list[Path | Line] = []
    for number, file in enumerate(originals()):
        path = tmp_path / f"{number:03}{file.suffix}"
        files.append(path)
        path.write_bytes(file.data if number % 5 else file.data[: len(file.data) // 3])
    files[7:7] = [tmp_path / "gone.png", Line("line", "a bird"), Line("empty", " "), tmp_path]
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "0")
    want = Learner.load(place / "run", device="cpu").predict(files, on_error="report", top_k=2)
    assert {p.modality for p in want if p.error is None} == {"image", "video", "audio", "depth", "text"}
    assert sum(p.error is not None for p in want) > 3
    monkeypatch.setenv("MMCL_FAST_ISOLATE", "1")
    for workers, batch_size in ((0, 32), (3, 4)):
        learner = Learner.load(place / "run", device="cpu", workers=workers)
        found = learner.predict(files, on_error="report", top_k=2, batch_size=32)
        assert found == want
        small = learner.predict(files, on_error="report", top_k=2, batch_size=batch_size)
        assert [(p.file, p.modality, p.error, len(p.labels)) for p in small] == [
            (p.file, p.modality, p.error, len(p.labels)) for p in want
        ]
    given = [file for file, p in zip(files, want) if p.modality == "depth" and p.error is None]
    assert all(p.modality == "depth" and p.error is None for p in learner.predict(given, modality="depth"))


@pytest.fixture
def killing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a stream of pictures with ``planted`` files, one that aborts and one that hangs, and their names."""
    monkeypatch.setattr(process, "_server", None)
    monkeypatch.setenv(plugins.ENVIRONMENT_VARIABLE, PLANTED)
    plugins.load()
    root = write_folder(tmp_path / "data", classes=2, train=3, test=2, modalities=("image",))
    for label in range(2):
        for split in ("train", "test"):
            folder = root / "planted" / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(4):
                (folder / f"{number}.txt").write_text(str(100 * label + 10 * number + (split == "test")))
    bad = [root / "planted/train/class_0/1.txt", root / "planted/test/class_1/2.txt"]
    bad[0].write_text("abort")
    bad[1].write_text("sleep")
    yield root, bad
    process.fork_server().close()
    sys.modules.pop("planted", None)
    REGISTRY.unregister("planted")


def test_a_killing_file_is_named_before_anything_is_learned(killing) -> None:
    root, bad = killing
    settings = {"max_decode_wait": 3.0, "max_pixels": 10_000}
    stream = Stream.from_folder(root)
    found = file_check.check_files(stream.samples, workers=2, settings=settings)
    assert [broken.path for broken in found] == [str(bad[0]), str(bad[1])]
    assert found[0].reason == f"{bad[0]}: the decoder died (SIGABRT) on this file: convert it or leave it out"
    assert "took more than 3 s on this file" in found[1].reason and "max_decode_wait" in found[1].reason
    with pytest.raises(MediaError, match=r"1\.txt: the decoder died \(SIGABRT\).*1 more"):
        file_check.require_readable_files(stream, settings=settings)
    checked = file_check.skip_broken_samples(Stream.from_folder(root, check=False), settings=settings)
    assert [sample.path for sample in checked.skipped] == [str(path) for path in bad]
    assert {s.key for s in stream.samples} - {s.key for s in checked.samples} == {
        sample.key for sample in checked.skipped
    }
