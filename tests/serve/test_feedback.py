"""Feedback is decoded, kept once under a name of ours, within limits, and ``learn`` takes its folder."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl_fast import atomic_files, runs
from mmcl_fast.errors import UserError
from mmcl_fast.learning import Learner
from mmcl_fast.serve import Limits
from mmcl_fast.serve.bearer import BearerToken
from mmcl_fast.serve.feedback import FeedbackFolder
from mmcl_fast.serve.limits import Feedback
from tests.serve.calls import FORM, Answer, ask, form, read_counters, serve_in_thread

TOKEN = "a-secret-of-the-tests-0123456789"
LIMITS = Limits(max_bytes=100_000)


@contextmanager
def keeping(learner: Learner, folder: Path, **settings: object) -> Iterator[int]:
    kept = FeedbackFolder(Feedback(folder, **settings))  # type: ignore[arg-type]
    with serve_in_thread(learner, LIMITS, feedback=kept, token=BearerToken(TOKEN)) as port:
        yield port


def send(port: int, data: bytes, label: str, *, name: str | None = "a.bin", modality: str = "") -> Answer:
    """Send a sample with its label; ``name`` None sends it as a text."""
    parts = [("text" if name is None else "file", name, data), ("label", None, label.encode())]
    parts += [("modality", None, modality.encode())] if modality else []
    return ask(port, "/feedback", form(*parts), content_type=FORM, authorization=f"Bearer {TOKEN}")


def files_of(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_files_are_kept_in_the_layout_of_a_folder(learner: Learner, media: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with keeping(learner, folder, new_classes=True) as port:
        want = []
        for name in ("image", "image-png", "video", "audio", "depth", "depth-npy", "text"):
            data = media[name].read_bytes()
            answer = send(port, data, "class_0", name="../../etc/passwd")
            assert answer.status == 201, answer.value
            ending = {"depth": ".png", "image-png": ".png"}.get(name, media[name].suffix)
            want.append(f"{name.partition('-')[0]}/class_0/{hashlib.sha256(data).hexdigest()}{ending}")
            assert answer.value["key"] == want[-1] and (folder / want[-1]).read_bytes() == data
        said = "a bird – déjà vu"
        answer = send(port, said.encode(), "class_1", name=None)
        assert answer.status == 201 and (folder / answer.value["key"]).read_text() == said
        want.append(answer.value["key"])
        assert answer.value | {"key": ""} == {
            "key": "",
            "new": True,
            "class_files": 1,
            "files": 8,
            "bytes": sum((folder / key).stat().st_size for key in want),
        }
        assert files_of(folder) == sorted(want)
        given = send(port, media["depth"].read_bytes() + b"\0", "class_0", modality="image")
        assert given.status == 201 and given.value["key"].startswith("image/class_0/")


def test_equal_content_is_kept_once_and_under_one_label(learner: Learner, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with keeping(learner, folder) as port:
        assert send(port, picture(0), "class_0").status == 201
        again = send(port, picture(0), "class_0", name="other.png")
        assert again.status == 200 and again.value["new"] is False and again.value["files"] == 1
        other = send(port, picture(0), "class_1")
        assert other.status == 409 and "'image/class_0'" in other.value["error"]
        (file,) = files_of(folder)
        (folder / file).unlink()  # its owner corrects it
        assert send(port, picture(0), "class_1").status == 201
        found = read_counters(port)
        assert [found[f"mmcl_fast_feedback_total{{outcome={name}}}"] for name in ("kept", "known", "refused")] == [
            2,
            1,
            1,
        ]
    with keeping(learner, folder) as port:  # another server finds what is there
        assert send(port, picture(0), "class_0").status == 409 and len(files_of(folder)) == 1


def test_a_file_that_cannot_be_decoded_is_refused_with_the_readers_line(
    learner: Learner, media: dict[str, Path], tmp_path: Path
) -> None:
    with keeping(learner, tmp_path / "kept") as port:
        cut = send(port, media["image"].read_bytes()[:-800], "class_0", name="cut.jpg")
        # 415 as /predict answers: the worker does not say which modality it tried.
        assert cut.status == 415 and cut.value["error"].startswith("cut.jpg: ") and "\n" not in cut.value["error"]
        assert "truncated" in cut.value["error"]
        given = send(port, media["image"].read_bytes()[:-800], "class_0", name="cut.jpg", modality="image")
        assert given.status == 422 and "truncated" in given.value["error"]
        assert send(port, bytes(range(256)), "class_0").status == 415
        assert send(port, b"", "class_0").status == 415 and send(port, b" \n", "class_0", name=None).status == 422
        assert send(port, b"caf\xe9", "class_0", name=None).status == 422
        wrong = send(port, media["audio"].read_bytes(), "class_0", modality="image")
        assert wrong.status == 422 and wrong.value["error"].startswith("a.bin: ")
        assert not files_of(tmp_path / "kept")
        assert send(port, picture(1), "class_0").status == 201  # else the refusals would prove nothing


BAD_LABELS = [
    "",
    " ",
    "..",
    ".",
    ".hidden",
    "a/b",
    "../x",
    "a\\b",
    "x" * 101,
    "é" * 101,
    "a\x00b",
    "a\nb",
    "train",
    "Test",
]


@pytest.mark.parametrize("label", BAD_LABELS, ids=ascii)
def test_labels_that_are_no_names_of_folders(learner: Learner, tmp_path: Path, label: str) -> None:
    folder = FeedbackFolder(Feedback(tmp_path / "kept", new_classes=True))
    for known in ({}, {"image": {label}}):
        with pytest.raises(Exception, match="label") as caught:
            folder.choose_label(label, "image", known)
        assert caught.value.status == 422 and "\n" not in str(caught.value)  # type: ignore[attr-defined]


def test_labels_of_known_and_of_new_classes(tmp_path: Path) -> None:
    known = {"image": {"black cat", "Café"}, "text": {"poem"}}
    closed, opened = (FeedbackFolder(Feedback(tmp_path / "kept", new_classes=new)) for new in (False, True))
    for label, modality, said in (
        ("black cats", "image", "did you mean 'black cat'"),
        ("poem", "image", "no class of image"),
        ("zebra", "audio", "GET /healthz lists the classes"),
    ):
        with pytest.raises(Exception, match=said):
            closed.choose_label(label, modality, known)
        assert opened.choose_label(label, modality, known) == label
    for folder in (closed, opened):
        assert folder.choose_label("Cafe\u0301", "image", known) == "Café"  # macOS writes it so
    for label in ("Black_Cat", "black-cat", "CAFÉ", "black\u200bcat", "a\u2028b"):
        with pytest.raises(Exception, match=r"use that name|can't be seen"):
            opened.choose_label(label, "image", known)
    assert opened.choose_label("Zebra", "image", known) == "Zebra"
    opened.keep(picture(0), "image", "Zebra")
    assert opened.choose_label("Zebra", "image", known) == "Zebra"
    with pytest.raises(Exception, match="use that name"):
        opened.choose_label("zebra", "image", known)


def test_limits_on_files_and_bytes(learner: Learner, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    size = len(picture(0))
    with keeping(learner, folder, max_files=2) as port:
        assert [send(port, picture(i), "class_0").status for i in range(3)] == [201, 201, 507]
        assert "no room" in send(port, picture(2), "class_0").value["error"] and len(files_of(folder)) == 2
        assert send(port, picture(0), "class_0").status == 200  # nothing to write
        (folder / files_of(folder)[0]).unlink()
        assert send(port, picture(2), "class_0").status == 201
    with keeping(learner, tmp_path / "small", max_bytes=size + size // 2) as port:
        assert [send(port, picture(i), "class_0").status for i in range(2)] == [201, 507]
        large = send(port, bytes(100_001), "class_0")
        assert large.status == 413 and len(files_of(tmp_path / "small")) == 1


def test_a_folder_that_was_moved_away_is_made_again(learner: Learner, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with keeping(learner, folder, max_files=1) as port:
        assert send(port, picture(0), "class_0").status == 201 and send(port, picture(1), "class_0").status == 507
        folder.rename(tmp_path / "learned")
        assert send(port, picture(1), "class_0").status == 201 and len(files_of(folder)) == 1


def test_a_full_disk_loses_nothing(learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    with keeping(learner, folder) as port:
        real = atomic_files.write_file

        def fail(file: Path, data: bytes) -> None:
            real(file, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(atomic_files, "write_file", fail)
        full = send(port, picture(0), "class_0")
        assert (
            full.status == 507 and "No space left" in full.value["error"] and str(tmp_path) not in full.value["error"]
        )
        monkeypatch.setattr(atomic_files, "write_file", real)
        assert not files_of(folder) and send(port, picture(0), "class_0").status == 201


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "kept/.incoming").mkdir(parents=True)
    (tmp_path / "kept/.incoming/half.png").write_bytes(b"half")
    FeedbackFolder(Feedback(tmp_path / "kept"))
    assert not files_of(tmp_path / "kept")


def test_a_folder_of_something_else_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "a/notes").mkdir(parents=True)
    (tmp_path / "b").write_text("a file")
    (tmp_path / "c/image").mkdir(parents=True)
    (tmp_path / "c/image/list.csv").write_text("a file")
    for folder in (place / "data", place / "run", *(tmp_path / name for name in "abc")):
        with pytest.raises(UserError, match="give --feedback a new folder"):
            FeedbackFolder(Feedback(folder))
    with pytest.raises(UserError, match="above 0"):
        FeedbackFolder(Feedback(tmp_path / "kept", max_files=0))


PICTURE = ("file", "a.png", picture(0))
LABEL = ("label", None, b"class_0")
FORMS = [
    (form(PICTURE), FORM, 400, "no label"),
    (form(LABEL), FORM, 400, "0 samples"),
    (form(PICTURE, ("text", None, b"words"), LABEL), FORM, 400, "2 samples"),
    (form(PICTURE, LABEL, LABEL), FORM, 400, "given twice"),
    (form(PICTURE, LABEL, ("folder", None, b"x")), FORM, 400, "'folder': unknown"),
    (form(PICTURE, LABEL, ("modality", None, b"imag")), FORM, 400, "did you mean 'image'"),
    (form(("text", None, b"words"), LABEL, ("modality", None, b"image")), FORM, 400, "holds a text"),
    (form(PICTURE, ("label", None, b"\xff")), FORM, 400, "not UTF-8"),
    (form(PICTURE, LABEL)[:-9], FORM, 400, "last boundary"),
    (b'{"label": "class_0"}', "application/json", 415, "multipart/form-data"),
    (form(PICTURE, ("label", None, b"class_9")), FORM, 422, "did you mean"),
]


def test_forms_that_say_too_little_or_too_much(learner: Learner, tmp_path: Path) -> None:
    proof = {"authorization": f"Bearer {TOKEN}"}
    with keeping(learner, tmp_path / "kept") as port:
        for body, kind, status, said in FORMS:
            answer = ask(port, "/feedback", body, content_type=kind, **proof)
            assert answer.status == status and said in answer.value["error"] and "\n" not in answer.value["error"]
        query = ask(port, "/feedback?label=class_0", form(PICTURE, LABEL), content_type=FORM, **proof)
        assert query.status == 400 and "'label': unknown" in query.value["error"]
        assert ask(port, "/feedback", **proof).status == 405
        assert not files_of(tmp_path / "kept")
        assert read_counters(port)["mmcl_fast_feedback_total{outcome=refused}"] == len(FORMS) + 1
    with serve_in_thread(learner) as port:
        off = ask(port, "/feedback", form(PICTURE, LABEL), content_type=FORM)
        assert off.status == 404 and "--feedback FOLDER" in off.value["error"]


def test_a_run_learns_from_feedback(place: Path, learner: Learner, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with keeping(learner, folder, new_classes=True) as port:
        for i in range(6):
            assert send(port, picture(i), "stripes" if i % 2 else "class_0").status == 201
            said = f"word0{i} word1{i} and number {i}"
            assert send(port, said.encode(), "class_1", name=None).status == 201
    shutil.copytree(place / "run", tmp_path / "run")
    found = runs.learn(tmp_path / "run", folder)
    assert found.number == 2 and not found.refused
    learned = [task for task in found.run.learner.tasks if task["name"] not in {t["name"] for t in learner.tasks}]
    assert {(task["modality"], name) for task in learned for name in task["classes"]} == {
        ("image", "class_0"),
        ("image", "stripes"),
        ("text", "class_1"),
    }
    assert ("image", "stripes") in found.run.learner.classes.keys
    old = {sample.key for task in found.run.stream.tasks[:2] for sample in task.samples}  # test known classes too
    assert len({sample.key for task in found.run.stream.tasks[2:] for sample in task.samples} - old) == 12
