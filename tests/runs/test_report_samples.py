from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast import runs
from mmcl_fast.config import build_config
from mmcl_fast.errors import MediaError, RunError
from mmcl_fast.learning import learner
from mmcl_fast.runs import report_samples, sample_file
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, runs.RunResult]:
    """A run of comm and what it came to; its data is in ``data`` beside it."""
    folder = tmp_path_factory.mktemp("learned")
    write_folder(folder / "data", test=5)
    config = build_config(
        {
            "stream": {"source": "folder", "path": str(folder / "data"), "classes_per_task": 2},
            "method": {
                "name": "comm",
                "options": {"prompts": False, "realignment": "trained", "steps": 10, "sampled_features": 32},
            },
            "train": {"device": "cpu"},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())
        return folder / "run", runs.learn_stream(config, folder / "run")


def written(learned: tuple[Path, runs.RunResult], folder: Path) -> sample_file.ReportSamples:
    out, result = learned
    for name in ("summary.json", "metrics.jsonl"):
        shutil.copy(out / name, folder)
    report_samples.write_report_samples(folder, result.learner, result.stream, result.summary)
    found = sample_file.read_samples(folder)
    assert found is not None
    return found


def test_samples_are_what_the_learner_says_of_them(learned: tuple[Path, runs.RunResult], tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in learned[1].learner.contents()[0].items() if not k.startswith("generator/")}
    found = written(learned, tmp_path)
    learner, stream = learned[1].learner, learned[1].stream
    after = learner.contents()[0]
    assert all(torch.equal(after[k], v) for k, v in state.items())
    assert list(found.embeddings) == ["before re-alignment", "after re-alignment"]
    everything = {s.key: (task, s) for task in stream.tasks for s in task.test}
    assert {s.key for s in found.samples} == everything.keys()  # fewer than are drawn
    for i, one in enumerate(found.samples):
        task, sample = everything[one.key]
        assert found.classes[one.label] == (sample.modality, sample.label)
        assert one.task == task.index + 1 and one.modality == sample.modality
        tokens = learner.cache.tokens(learner.encoder, [sample])
        scores = learner.method.scores(tokens, one.modality, learner.classes, given=False)
        assert found.classes[one.guess] == learner.classes.keys[int(scores.argmax())]
        e = learner.method.outputs(tokens, one.modality, learner.classes)["embedding"][0]
        assert np.abs(found.embeddings["after re-alignment"][i] - e.numpy()).max() < 2e-3
    right = sum(s.label == s.guess for s in found.samples)
    result = learner.evaluate(stream.tasks, setting="agnostic")
    assert right == sum(result.correct["agnostic"])


def test_taken_is_counted_by_class(learned: tuple[Path, runs.RunResult], tmp_path: Path) -> None:
    found, result = written(learned, tmp_path), learned[1]
    evaluation = result.learner.evaluate(result.stream.tasks)
    for place in range(len(result.stream.tasks)):
        shown = [s for s in found.samples if s.task == place + 1]
        counted = Counter((found.classes[s.label], found.classes[s.guess]) for s in shown)
        assert evaluation.confusion["agnostic"][place] == counted
        for right, label in zip(evaluation.by_class("agnostic")[place], evaluation.classes[place]):
            assert right == counted[label, label]
        for wrong, label in zip(evaluation.top_confusions("agnostic", 2)[place], evaluation.classes[place]):
            counts = sorted((n for (a, b), n in counted.items() if a == label != b), reverse=True)
            assert [n for _, n in wrong] == counts[:2]
            assert all(counted[label, guess] == n for guess, n in wrong)
    events = [json.loads(line) for line in (learned[0] / "metrics.jsonl").read_text().splitlines()]
    last = [e for e in events if e["event"] == "evaluation"][0 - 3]
    assert last["setting"] == "agnostic" and last["by_class"] == evaluation.by_class("agnostic")
    assert [task["test_by_class"] for task in result.summary["tasks"]] == [[5, 5]] * 6


def test_pictures_show_the_files(learned: tuple[Path, runs.RunResult], tmp_path: Path) -> None:
    found = written(learned, tmp_path)
    files = {s.key: s for task in learned[1].stream.tasks for s in task.test}
    for one in found.samples:
        path = files[one.key].path
        assert isinstance(path, Path)
        if one.modality == "text":
            assert one.picture is None and one.text == path.read_text()
            continue
        assert one.text is None and one.picture is not None
        picture = np.asarray(Image.open(io.BytesIO(one.picture)).convert("RGB"), dtype=float)
        assert picture.shape == (report_samples.PICTURE_SIDE, report_samples.PICTURE_SIDE, 3)
        if one.modality == "image":
            colour = np.asarray(Image.open(path).convert("RGB"), dtype=float).mean((0, 1))
            assert np.abs(picture.mean((0, 1)) - colour).max() < 8


def test_frames_side_by_side_and_one_plane_in_colours() -> None:
    frames = torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    strip = np.asarray(Image.open(io.BytesIO(report_samples._webp(frames, "video"))).convert("RGB"), dtype=float)
    assert strip.shape == (8, 32, 3)
    assert np.abs(strip.mean((0, 2)).reshape(4, 8).mean(1) - 255 * np.linspace(0, 1, 4)).max() < 6
    for modality in report_samples.COLOUR_MAPPED:
        plane = Image.open(io.BytesIO(report_samples._webp(torch.ones(1, 3, 8, 8), modality))).convert("RGB")
        assert np.abs(np.asarray(plane, dtype=float).mean((0, 1)) - (254, 232, 56)).max() < 8  # cividis ends in yellow


def test_long_texts_are_cut() -> None:
    assert report_samples._shorten(" two\n words ") == "two words"
    assert len(report_samples._shorten("word " * 99)) == report_samples.TEXT_LENGTH


def test_files_that_are_gone_are_named_and_nothing_is_written(
    learned: tuple[Path, runs.RunResult], tmp_path: Path
) -> None:
    moved = learned[0].parent / "data" / "image"
    moved.rename(moved.with_name("moved"))
    try:
        with pytest.raises(MediaError, match=r"image/test/.*check the path"):
            written(learned, tmp_path)
    finally:
        moved.with_name("moved").rename(moved)
    assert not (tmp_path / sample_file.SAMPLES_FILE).exists()


def test_samples_are_balanced_and_fallen_classes_have_examples(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=3, train=1, test=40, modalities=("image", "text"))
    stream = Stream.from_folder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_samples, "PLOT_SAMPLES", 20)
        chosen = report_samples._choose_samples(stream, {(1, 2)})
    for modality, some in chosen.items():
        drawn = Counter(one.label[1] for one in some if one.drawn)
        assert sum(drawn.values()) == 10 and max(drawn.values()) - min(drawn.values()) <= 1
        others = Counter(one.label[1] for one in some if not one.drawn)
        fell = stream.tasks[0].classes[2]
        assert others == (
            {fell: report_samples.EXAMPLES_PER_CLASS - drawn[fell]} if modality == stream.tasks[0].modality else {}
        )
        assert len({one.sample.key for one in some}) == len(some)


def test_what_is_there_is_kept_and_damage_is_named(learned: tuple[Path, runs.RunResult], tmp_path: Path) -> None:
    found = written(learned, tmp_path)
    file = tmp_path / sample_file.SAMPLES_FILE
    before = file.read_bytes()
    written(learned, tmp_path)
    assert file.read_bytes() == before
    again = tmp_path / "again"
    again.mkdir()
    sample_file.write_samples(again / sample_file.SAMPLES_FILE, found)
    assert (again / sample_file.SAMPLES_FILE).read_bytes() == before
    assert sample_file.read_samples(tmp_path / "none") is None
    for data in (
        b"",
        before[:99],
        before.replace(b'"guess', b'"guest', 1),
        before.replace(b'\\"guess\\": ', b'\\"guess\\":9'),
    ):
        assert data != before
        file.write_bytes(data)
        with pytest.raises(RunError, match=r"samples\.safetensors: not readable.*remove it"):
            sample_file.read_samples(tmp_path)
