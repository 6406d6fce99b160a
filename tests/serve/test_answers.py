"""The server answers what the learner predicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from mmcl_fast.learning import Learner, Prediction
from mmcl_fast.serve import Limits
from tests.serve.calls import FORM, ask, form, read_counters, serve_in_thread


@pytest.fixture(scope="module")
def port(learner: Learner) -> Iterator[int]:
    with serve_in_thread(learner) as port:
        yield port


def same(item: dict[str, Any], alone: Prediction) -> bool:
    """Return whether an item of an answer is the prediction, up to the rounding of another batch size."""
    want = alone.record()
    labels = [(label["modality"], label["class"]) for label in item["labels"]]
    assert labels == [(label["modality"], label["class"]) for label in want["labels"]]
    shares = [label["probability"] for label in item["labels"]]
    assert shares == pytest.approx([label["probability"] for label in want["labels"]], rel=1e-3)
    assert item["contributions"] == pytest.approx(want["contributions"], rel=1e-3)
    return item["modality"] == want["modality"] and item["error"] is None


@pytest.mark.parametrize("name", ["image", "image-png", "video", "audio", "depth", "depth-npy", "text"])
def test_a_body_is_taken_for_what_the_file_alone_is(port: int, learner: Learner, media: dict[str, Path], name: str):
    answer = ask(port, body=media[name].read_bytes())
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    (item,) = answer.value["items"]
    assert same(item, learner.predict([media[name]])[0]) and item["modality"] == name.partition("-")[0]
    given = ask(port, f"/predict?modality={item['modality']}&top_k=1", media[name].read_bytes()).value["items"][0]
    assert same(given, learner.predict([media[name]], modality=item["modality"], top_k=1)[0])
    assert len(given["labels"]) == 1


def test_a_batch_makes_no_difference(learner: Learner, media: dict[str, Path], place: Path) -> None:
    pictures = [media["image"], *sorted((place / "data/image/test").rglob("*.png"))]
    texts = sorted((place / "data/text/test").rglob("*.txt"))
    files = [file for pair in zip(pictures, texts) for file in pair] + [media["audio"]]
    alone = [learner.predict([file])[0] for file in files]
    limits = Limits(wait_ms=1500, max_batch=len(texts))
    with serve_in_thread(learner, limits) as port, ThreadPoolExecutor(len(files)) as pool:
        answers = list(pool.map(lambda file: ask(port, body=file.read_bytes()), files))
        found = read_counters(port)
    assert all(same(answer.value["items"][0], one) for answer, one in zip(answers, alone))
    # Texts fill a batch and are predicted at once. Pictures and the sound wait for more items.
    assert found["mmcl_fast_batch_items_count{}"] == 3 and found["mmcl_fast_batch_items_sum{}"] == len(files)


def test_batching_can_be_turned_off(learner: Learner, media: dict[str, Path]) -> None:
    with serve_in_thread(learner, Limits(max_batch=1, wait_ms=60_000)) as port:
        parts = [("file", f"{i}.jpg", media["image"].read_bytes()) for i in range(5)]
        answer = ask(port, body=form(*parts), content_type=FORM)
        assert read_counters(port)["mmcl_fast_batch_items_bucket{le=1.0}"] == 5
    alone = learner.predict([media["image"]])[0]
    assert all(same(item, alone) for item in answer.value["items"])


def test_a_form_of_files_and_lines_with_broken_ones_among_them(port: int, learner: Learner, media: dict[str, Path]):
    said = media["text"].read_text()
    parts = [
        ("file", "../../a b.jpg", media["image"].read_bytes()),
        ("text", None, f"\n{said}\r\n  \nword10\n".encode()),
        ("other", "cut.mp4", media["video"].read_bytes()[:500]),
        ("file", "", b""),  # a browser sends this if no file was chosen
        ("file", "nothing.png", b""),
        ("file", "what\u0007.bin", bytes(range(256))),
        ("file", "no utf-8.txt", media["audio"].read_bytes()),
    ]
    answer = ask(port, body=form(*parts), content_type=FORM)
    items = answer.value["items"]
    names = ["../../a b.jpg", "text:2", "text:4", "cut.mp4", "nothing.png", "what\\x07.bin", "no utf-8.txt"]
    assert answer.status == 200 and [item["file"] for item in items] == names
    assert [item["error"] is None for item in items] == [True, True, True, False, False, False, True]
    assert same(items[0], learner.predict([media["image"]])[0]) and same(items[1], learner.predict([media["text"]])[0])
    for item in items[3:6]:
        assert item["error"].startswith(item["file"] + ": ") and "bytes>" not in item["error"]
    assert "empty" in items[4]["error"] and items[5]["modality"] is None

    none = ask(port, body=form(*parts[4:6]), content_type=FORM)
    assert none.status == 415 and none.value["error"].startswith("nothing.png: ") and len(none.value["items"]) == 2
    cut = ask(port, "/predict?modality=video", media["video"].read_bytes()[:500])
    assert cut.status == 422 and cut.value["error"].startswith("body: ") and "\n" not in cut.value["error"]


def test_texts(port: int, learner: Learner, media: dict[str, Path]) -> None:
    said = media["text"].read_bytes()
    alone = learner.predict([media["text"]])[0]
    for body, headers in (
        (b"\xef\xbb\xbf" + said + b"\n", {"content_type": "text/plain; charset=utf-8"}),
        (said, {"content_type": "application/x-www-form-urlencoded"}),  # curl gives this type to --data-binary
        (said, {}),
    ):
        assert same(ask(port, body=body, **headers).value["items"][0], alone)
    bird = "a bird that lives near water – déjà vu"
    alone = ask(port, body=bird.encode(), content_type="text/plain").value["items"][0]
    for body, kind in (
        (json.dumps({"text": bird}).encode(), "application/json"),
        (json.dumps({"text": [bird]}, ensure_ascii=False).encode("utf-8-sig"), "application/json; charset=utf-8"),
        (json.dumps({"text": bird}).encode(), "application/x-www-form-urlencoded"),  # curl without a content type
        (("text=" + quote_plus(bird)).encode(), "application/x-www-form-urlencoded"),
        (bird.encode("utf-16"), "text/plain; charset=UTF-16"),
        (bird.encode("cp1252"), 'text/plain; charset="windows-1252"'),
        (
            form(("text", None, bird.encode("cp1252"))).replace(
                b"\r\n\r\na", b"\r\nContent-Type: text/plain; charset=cp1252\r\n\r\na"
            ),
            FORM,
        ),
    ):
        answer = ask(port, body=body, content_type=kind)
        assert answer.status == 200, answer.value
        (item,) = answer.value["items"]
        assert {**item, "file": ""} == {**alone, "file": ""}
    two = ask(port, body=b'{"text": ["a bird", "a stone"]}', content_type="application/json").value["items"]
    assert [item["file"] for item in two] == ["text:1", "text:2"]
    sound = ask(port, body=b"FORM is how a sound begins, and this text", content_type="text/plain")
    assert sound.value["items"][0]["modality"] == "text"
    bad = ask(port, body=b"caf\xe9", content_type="text/plain")
    assert bad.status == 422 and "UTF-8" in bad.value["error"]


def test_texts_given_compete_in_place_of_the_classes_learned(learner: Learner, media: dict[str, Path]) -> None:
    texts = ["a red thing", "a blue thing"]
    with serve_in_thread(learner, classes=texts) as port:
        item = ask(port, body=media["image"].read_bytes()).value["items"][0]
        assert same(item, learner.predict([media["image"]], classes=texts)[0])
        known = ask(port, "/healthz").value
    assert known["classes"] == [{"modality": None, "class": text} for text in texts]


def test_the_limits_of_the_runs_media_hold(place: Path, media: dict[str, Path]) -> None:
    learner = Learner.load(place / "run", device="cpu")
    learner.settings["media"] = {"max_pixels": 1000, "max_seconds": 0.5}
    with serve_in_thread(learner) as port:
        for name, limit in (("image", "1000"), ("video", "1000"), ("depth", "1000"), ("audio", "0.5 s")):
            answer = ask(port, body=media[name].read_bytes())
            assert answer.status == 422 and f"the limit is {limit}" in answer.value["error"]
        assert ask(port, body=media["text"].read_bytes()).status == 200


def test_no_request_makes_the_server_read_a_file(port: int, media: dict[str, Path]) -> None:
    secret = media["video"]
    lists = [
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        str(secret),
    ]
    for text in lists:
        for modality in ("image", "video", "audio", "depth"):
            answer = ask(port, f"/predict?modality={modality}", text.encode())
            assert answer.status == 422 and answer.value["items"][0]["labels"] == []
        assert ask(port, body=text.encode()).value["items"][0]["modality"] == "text"
    for name in ("path", "url", "file"):
        answer = ask(port, f"/predict?{name}={secret}", b"x")
        assert answer.status == 400 and repr(name) in answer.value["error"]
        answer = ask(port, body=form((name, None, str(secret).encode())), content_type=FORM)
        assert answer.status == 400 and repr(name) in answer.value["error"]


def test_healthz_tells_what_is_served(port: int, learner: Learner) -> None:
    known = ask(port, "/healthz").value
    assert known["ok"] is True and known["method"] == "comm" and known["modalities"] == ["image", "text"]
    assert [(one["modality"], one["class"]) for one in known["classes"]] == learner.classes.keys
    assert known["encoder"] == "model"  # the path of a folder is not shown
