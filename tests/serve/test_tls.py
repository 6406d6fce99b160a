"""TLS through files of a certificate and its key."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.calls import call, error_of
from tests.serve.calls import send_raw, serve_process

if shutil.which("openssl") is None:
    pytest.skip("needs the program openssl", allow_module_level=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate and its key, and another key."""
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem"
    words += " -out cert.pem -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    for command in (
        words,
        "openssl genrsa -out other.pem 2048",
        "openssl rsa -aes128 -passout pass:word -in other.pem",
    ):
        command += " -out locked.pem" if "-aes128" in command else ""
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "notes.pem").write_text("no certificate")
    return folder


def test_it_serves_https_and_nothing_else(certificate: Path, place: Path, tmp_path: Path) -> None:
    files = ("--tls-cert", certificate / "cert.pem", "--tls-key", certificate / "key.pem")
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with serve_process(place / "run", tmp_path / "log", *files) as (process, port):
        address = f"https://127.0.0.1:{port}"
        with urllib.request.urlopen(f"{address}/version", context=context) as reply:
            assert json.load(reply)["version"] == 1
        with urllib.request.urlopen(f"{address}/predict", b"word00 word01", context=context) as reply:
            assert json.load(reply)["items"][0]["modality"] == "text"
        with pytest.raises(urllib.error.URLError):  # the certificate is checked, so this client refuses it
            urllib.request.urlopen(f"{address}/version", context=ssl.create_default_context())
        assert not send_raw(port, b"GET /version HTTP/1.1\r\nHost: here\r\n\r\n", 5).startswith(b"HTTP")
        with urllib.request.urlopen(f"{address}/healthz", context=context) as reply:
            assert reply.status == 200
        process.terminate()
        assert process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_wrong_files_are_named_before_the_model_is_loaded(certificate: Path, tmp_path: Path) -> None:
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    for files, said in (
        (("--tls-cert", cert), "--tls-cert and --tls-key: give both"),
        (("--tls-key", key), "--tls-cert and --tls-key: give both"),
        (("--tls-cert", tmp_path / "gone", "--tls-key", key), f"--tls-cert {tmp_path}/gone: No such file"),
        (("--tls-cert", cert, "--tls-key", tmp_path / "gone"), f"--tls-key {tmp_path}/gone: No such file"),
        (("--tls-cert", tmp_path, "--tls-key", key), "Is a directory"),
        (("--tls-cert", cert, "--tls-key", certificate / "other.pem"), "not a certificate and its key"),
        (("--tls-cert", cert, "--tls-key", certificate / "locked.pem"), "without a password"),
        (("--tls-cert", certificate / "notes.pem", "--tls-key", key), "not a certificate and its key"),
    ):
        # There is no such run, and the message is about the files nevertheless.
        assert said in error_of(call("serve", tmp_path / "no-run", "--port", 0, *files, code=2))
