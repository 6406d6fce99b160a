"""A bearer token guards /feedback or every address, and it is shown nowhere."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmcl_fast.errors import UserError
from mmcl_fast.learning import Learner
from mmcl_fast.serve import bearer, serve
from mmcl_fast.serve.bearer import BearerToken, read_token
from mmcl_fast.serve.feedback import FeedbackFolder
from mmcl_fast.serve.limits import Feedback
from tests.cli.calls import call, error_of
from tests.serve.calls import FORM, ask, form, read_counters, send_raw, serve_in_thread, serve_process

TOKEN = "a-secret-of-the-tests-0123456789"
OTHER = "another-secret-of-the-tests-0123"
GOOD = {"authorization": f"Bearer {TOKEN}"}
WRONG = [
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": TOKEN},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": f"Bearer {OTHER}"},
    {"authorization": f"Bearer {TOKEN}x"},
    {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": f"Bearer {TOKEN.upper()}"},
    {"authorization": f"Bearer {TOKEN} {TOKEN}"},
    {"authorization": "Bearer \xff\xfe"},
    {"cookie": f"token={TOKEN}"},
]
PATHS = ("/predict", "/feedback", "/healthz", "/version", "/metrics", "/nowhere", "/predict/", "//", "/feedback/")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def guarded(learner: Learner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server whose every address needs the token."""
    folder = FeedbackFolder(Feedback(tmp_path_factory.mktemp("kept")))
    with serve_in_thread(learner, feedback=folder, token=BearerToken(TOKEN), require_token=True) as port:
        yield port


@pytest.mark.parametrize("path", PATHS)
def test_every_address_but_the_page_needs_the_token(guarded: int, path: str) -> None:
    for headers in WRONG:
        for body in (None, b"some text"):
            answer = ask(guarded, path, body, **headers)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer TOKEN" in answer.value["error"] and "secret" not in answer.value["error"]
            assert "x-model-version" not in answer.headers
    assert ask(guarded, path, b"some text", **GOOD).status != 401 and ask(guarded, path, **GOOD).status != 401
    assert ask(guarded, path, **{"authorization": f"bearer {TOKEN}"}).status != 401  # the scheme has no case


def test_the_page_opens_without_a_token_and_says_nothing_of_the_model(guarded: int) -> None:
    answer = ask(guarded, "/")
    assert answer.status == 200 and "class_0" not in answer.body.decode() and "learner" not in answer.body.decode()
    assert read_counters_with_token(guarded) > 0


def read_counters_with_token(port: int) -> float:
    text = ask(port, "/metrics", **GOOD).body.decode()
    return float(text.partition('mmcl_fast_requests_total{path="/predict",status="401"} ')[2].split()[0])


def test_two_headers_prove_nothing(guarded: int) -> None:
    proof = f"Authorization: Bearer {TOKEN}"
    two = "\r\n".join(["GET /version HTTP/1.1", "Host: here", proof, proof, "", ""])
    assert b" 401 " in send_raw(guarded, two.encode(), 5).partition(b"\r\n")[0]


def test_without_require_token_it_guards_feedback_alone(learner: Learner, tmp_path: Path) -> None:
    folder = FeedbackFolder(Feedback(tmp_path / "kept"))
    with serve_in_thread(learner, feedback=folder, token=BearerToken(TOKEN)) as port:
        for path in ("/", "/healthz", "/version", "/metrics"):
            assert ask(port, path).status == 200
        assert ask(port, body=b"some text").status == 200
        body = form(("text", None, b"word00 word01"), ("label", None, b"class_0"))
        assert ask(port, "/feedback", body, content_type=FORM).status == 401
        assert not [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]
        assert ask(port, "/feedback", body, content_type=FORM, **GOOD).status == 201
        assert read_counters(port)["mmcl_fast_requests_total{path=/feedback,status=401}"] == 1


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(bearer.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b))
    token = BearerToken(TOKEN)
    assert token.accepts([GOOD["authorization"].encode()])
    assert not token.accepts([b"Bearer x"]) and not token.accepts([]) and not token.accepts([b"Bearer " + b"x" * 9999])
    assert compared == [(32, 32)] * 3
    assert TOKEN not in repr(vars(token))


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 15, "x" * 1001, "has a space in it, sorry", "ümlaut" * 5, "a\nb" * 9]
)
def test_a_token_that_is_no_token_is_refused_without_being_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    for act in (lambda: BearerToken(text), lambda: read_token(file)):
        with pytest.raises(UserError, match="openssl rand -hex 32") as caught:
            act()
        assert len(text) < 6 or text not in str(caught.value)


def test_a_token_comes_from_a_file_or_the_environment(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token(None) is None
    monkeypatch.setenv(bearer.VARIABLE, OTHER)
    assert read_token(token_file) == TOKEN
    assert bearer.VARIABLE not in os.environ  # so that no process that is started inherits it
    monkeypatch.setenv(bearer.VARIABLE, OTHER)
    assert read_token(None) == OTHER and bearer.VARIABLE not in os.environ
    monkeypatch.setenv(bearer.VARIABLE, "short")
    with pytest.raises(UserError, match="MMCL_FAST_TOKEN: a token has 16"):
        read_token(None)
    token_file.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_token(token_file)
    with pytest.raises(UserError, match="name a file that holds the token"):
        read_token(token_file.with_name("gone"))


def test_the_command_refuses_what_would_be_open(place: Path, token_file: Path, tmp_path: Path) -> None:
    run, kept = place / "run", tmp_path / "kept"
    for words, said in (
        (("--feedback", kept), "--feedback: needs a token"),
        (("--require-token",), "--require-token: needs a token"),
        (("--token-file", token_file), "guards no address"),
        (("--feedback-new-classes",), "needs --feedback"),
        (("--feedback", kept, "--token-file", tmp_path / "gone"), "--token-file"),
        (("--feedback", kept, "--token-file", token_file, "--feedback-max-bytes", "much"), "--feedback-max-bytes much"),
        (("--feedback", place / "data", "--token-file", token_file), "no class of feedback"),
        (("--feedback", token_file, "--token-file", token_file), "give --feedback a new folder"),
    ):
        line = error_of(call("serve", run, "--port", 0, *words, code=2))
        assert said in line and TOKEN not in line
    with pytest.raises(UserError, match="needs a token"):
        serve(run, port=0, feedback=Feedback(kept))
    with pytest.raises(UserError, match="guards no address"):
        serve(run, port=0, token=TOKEN)
    assert "No such option" in call("serve", run, "--token", TOKEN, code=2).stderr


@pytest.mark.parametrize("from_file", [True, False])
def test_the_token_is_shown_nowhere(place: Path, token_file: Path, tmp_path: Path, from_file: bool) -> None:
    words = ["--feedback", tmp_path / "kept", "--require-token", "--debug"]
    words += ["--token-file", token_file] if from_file else []
    env = {} if from_file else {bearer.VARIABLE: TOKEN}
    shown = b""
    with serve_process(place / "run", tmp_path / "log", *words, env=env) as (process, port):
        for headers in (GOOD, *WRONG[4::4]):
            for path in PATHS:
                for body in (None, b"\xff"):
                    answer = ask(port, path, body, **headers)
                    shown += answer.body + repr(answer.headers).encode()
        shown += Path(f"/proc/{process.pid}/cmdline").read_bytes()
        for child in Path(f"/proc/{process.pid}/task").glob("*/children"):
            for number in child.read_text().split():
                shown += Path(f"/proc/{number}/environ").read_bytes() + Path(f"/proc/{number}/cmdline").read_bytes()
        process.terminate()
        assert process.wait(60) == 0 and process.stdout is not None
        shown += process.stdout.read().encode()
    shown += (tmp_path / "log").read_bytes()
    assert b"mmcl_fast_requests_total" in shown and b"fork_server" in shown  # so that an empty collection is no proof
    assert TOKEN.encode() not in shown and OTHER.encode() not in shown
