"""Weights by name, path and URL: fetched whole or not at all, from a server that does all that servers do."""

import hashlib
import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posedet import PoseDet
from posedet.commands.main import main
from posedet.errors import ModelError
from posedet.runtime import model_files
from posedet.runtime.download import _Redirects
from posedet.runtime.model_files import RELEASES, WEIGHTS, Release, cache_folder, local_file, model_file
from served import Answer, Server

RELEASED = Path(model_files.__file__).parent.parent / "released"
SHIPPED = RELEASED / "posedet-s.onnx"
ELSEWHERE = "download the file yourself and pass its path"


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").glob("*"))


def failure(source: str, **settings: bool) -> str:
    with pytest.raises(ModelError) as caught:
        local_file(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- by name and by path ---------------------------------------------------------------------------------------------


def test_the_table_describes_the_shipped_files() -> None:
    shipped = {path.stem: path.read_bytes() for path in RELEASED.glob("*.onnx")}
    assert "posedet-s" in shipped
    assert {name: release for name, release in RELEASES.items() if release.url is None} == {
        name: Release(hashlib.sha256(content).hexdigest(), len(content), url=None) for name, content in shipped.items()
    }
    others = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in RELEASED.glob("*.[!o]*")}
    assert others == WEIGHTS


@pytest.mark.parametrize("name", [name for name, release in RELEASES.items() if release.url is None])
def test_shipped_models_run_by_name(name: str, photos: Path) -> None:
    assert len(PoseDet(name, threads=1)(photos / "skiers.jpg")) > 0


def test_a_name_a_path_and_a_url_give_the_same_model(server: Server) -> None:
    server.answers["model.onnx"] = Answer(SHIPPED.read_bytes())
    url = server.url("model.onnx", SHIPPED.read_bytes())
    abouts = [PoseDet(source, threads=1).about for source in ("posedet-s", SHIPPED, url, None)]
    assert all(about == abouts[0] for about in abouts)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("posedet-x", f"posedet-x: no such model file; released models: {', '.join(RELEASES)}"),
        ("no/such.onnx", "no/such.onnx: no such model file"),
        ("two\nlines.onnx", "'two\\nlines.onnx': no such model file"),
    ],
)
def test_a_model_that_is_not_there(source: str, text: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(text)}$"):
        PoseDet(source)


def test_a_path_is_left_alone() -> None:
    assert local_file("a/b.pth") == Path("a/b.pth")
    assert local_file(Path("http.pth")) == Path("http.pth")


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A release that does not ship: its name."""
    content = b"a large model"
    server.answers["large.onnx"] = Answer(content)
    release = Release(hashlib.sha256(content).hexdigest(), len(content), server.address("large.onnx"))
    monkeypatch.setitem(RELEASES, "posedet-x", release)
    return "posedet-x"


def test_a_release_is_fetched_once(server: Server, published: str) -> None:
    path = model_file(published)
    assert path.read_bytes() == b"a large model"
    assert path.suffix == ".onnx"
    assert model_file(published, offline=True) == path
    assert server.asked == ["large.onnx"]


def test_a_release_that_grew_is_refused(server: Server, published: str, tmp_path: Path) -> None:
    server.answers["large.onnx"] = Answer(b"a larger model")
    with pytest.raises(ModelError, match=r"large\.onnx: larger than 13 bytes$"):
        model_file(published)
    assert cached(tmp_path) == []


# --- downloads: good -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [8, 64])
def test_download_once(server: Server, tmp_path: Path, digits: int) -> None:
    content = bytes(range(256)) * 10_000  # more than is read at once
    server.answers["dla34-x.pth"] = Answer(content)
    url = server.url("dla34-x.pth", content, digits)
    path = local_file(url)
    assert path.read_bytes() == content
    assert path.suffix == ".pth"
    url, _, checksum = url.partition("#sha256=")
    assert local_file(f"{url}#sha256={checksum.upper()}") == path
    assert server.asked == ["dla34-x.pth"]
    assert cached(tmp_path) == [path.name]


def test_a_damaged_cache_is_fetched_again(server: Server) -> None:
    server.answers["a.pth"] = Answer(b"content")
    url = server.url("a.pth", b"content")
    local_file(url).write_bytes(b"damaged")
    assert local_file(url).read_bytes() == b"content"
    assert len(server.asked) == 2


def test_many_at_once_get_the_whole_file(server: Server, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    server.answers["a.pth"] = Answer(content)
    url = server.url("a.pth", content)
    start = threading.Barrier(8)

    def fetch(_: int) -> bytes:
        start.wait()
        return local_file(url).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch, range(8))) == {content}
    assert len(cached(tmp_path)) == 1


def test_a_redirect_is_followed(server: Server) -> None:
    server.answers |= {"old.pth": Answer(leads_to="/new.pth"), "new.pth": Answer(b"content")}
    assert local_file(server.url("old.pth", b"content")).read_bytes() == b"content"


def test_names_in_urls_stay_in_the_cache(server: Server, tmp_path: Path) -> None:
    name = "..%2f..%2f../a%20b?x=../y"
    server.answers[name] = Answer(b"content")
    path = local_file(server.url(name, b"content"))
    assert path.parent == tmp_path / "cache"


# --- downloads: refused, nothing is left -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            Answer(b"something else"),
            f"checksum mismatch: the download has SHA-256 {hashlib.sha256(b'something else').hexdigest()}, expected",
        ),
        (Answer(b"cont", announced=7), "the connection was lost 3 bytes before the end; try again"),
        (Answer(b"content", announced=10**9), "larger than 1000000 bytes"),
        (Answer(bytes(50_000), endless=True), "larger than 1000000 bytes"),
        (Answer(leads_to="/a.pth"), "not available (302 The HTTP server returned a redirect error that would lead to"),
        (Answer(leads_to="ftp://127.0.0.1/a.pth"), f"redirects to ftp, which is not allowed; {ELSEWHERE}"),
        (Answer(leads_to="file:///etc/hostname"), "not available (302 "),
        (None, f"not available (404 Not Found); {ELSEWHERE}"),
    ],
    ids=["another file", "broken off", "announced too large", "endless", "in a circle", "to ftp", "to a file", "gone"],
)
def test_what_servers_do(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer | None, text: str
) -> None:
    monkeypatch.setattr(model_files, "MAX_BYTES", 1_000_000)
    if answer is not None:
        server.answers["a.pth"] = answer
    assert failure(server.url("a.pth", b"content")).startswith(f"{server.address('a.pth')}: {text}")
    assert cached(tmp_path) == []
    assert server.bytes_sent < 20_000_000
    # The next attempt meets a server that is well again.
    server.answers["a.pth"] = Answer(b"content")
    assert local_file(server.url("a.pth", b"content")).read_bytes() == b"content"


def test_from_https_to_http_is_refused() -> None:
    """Without a server: one for https would need a certificate."""
    handler, asked = _Redirects(), urllib.request.Request("https://example.org/a.pth")
    with open(os.devnull, "rb") as nothing:
        with pytest.raises(ModelError, match=r"^https://example.org/a.pth: redirects to http, which is not allowed; "):
            handler.redirect_request(asked, nothing, 302, "Found", {}, "http://example.org/a.pth")
        led = handler.redirect_request(asked, nothing, 302, "Found", {}, "https://example.net/b.pth")
    assert led is not None and led.full_url == "https://example.net/b.pth"


def test_an_interrupted_download_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["a.pth"] = Answer(b"content")

    def interrupted(*_: object) -> None:
        assert len(cached(tmp_path)) == 1  # the part
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            local_file(server.url("a.pth", b"content"))
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    server.answers["a.pth"] = Answer(b"content")
    message = failure(server.url("a.pth", b"content"))
    assert message.startswith(f"{server.address('a.pth')}: could not be downloaded (")
    assert message.endswith(f"{tmp_path / 'cache'}'); {ELSEWHERE}")


def test_nobody_answers() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a.pth"
        message = failure(f"{url}#sha256={'0' * 64}")
    assert message.startswith(f"{url}: could not be reached (")
    assert message.endswith(f"refused); if offline, {ELSEWHERE}")


@pytest.mark.parametrize("end", ["", "#sha256=", "#sha256=1234567", "#sha256=" + "g" * 64, "#md5=" + "0" * 32, "\n#"])
def test_a_url_without_checksum(end: str) -> None:
    assert failure(f"https://example.org/a.pth{end}").endswith(
        ": expected a URL that ends in #sha256=HEX (8 to 64 digits)"
    )


# --- offline ---------------------------------------------------------------------------------------------------------


def by_argument(url: str, _: pytest.MonkeyPatch) -> str:
    return failure(url, offline=True)


def by_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("POSEDET_OFFLINE", "1")
    return failure(url)


@pytest.mark.parametrize("refuse", [by_argument, by_environment])
def test_offline_nothing_is_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[str, pytest.MonkeyPatch], str]
) -> None:
    server.answers["a.pth"] = Answer(b"content")
    url = server.url("a.pth", b"content")
    text = f"{server.address('a.pth')}: not in the cache, and downloads are disabled (offline); {ELSEWHERE}"
    assert refuse(url, monkeypatch) == text
    assert server.asked == []
    monkeypatch.setenv("POSEDET_OFFLINE", "0")
    path = local_file(url)
    monkeypatch.setenv("POSEDET_OFFLINE", "1")
    assert local_file(url) == path


# --- the cache -------------------------------------------------------------------------------------------------------


def test_caches_where_systems_keep_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("POSEDET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    found = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        found[platform] = cache_folder().relative_to(tmp_path).as_posix()
    assert found == {
        "linux": ".cache/posedet",
        "darwin": "Library/Caches/posedet",
        "win32": "AppData/Local/posedet",
    }
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "posedet"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "posedet"
    monkeypatch.setenv("POSEDET_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


# --- the command -----------------------------------------------------------------------------------------------------


def test_list_says_what_is_where(published: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = RELEASES[published]
    assert main(["weights", "list"]) == 0
    first, *_, other, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["posedet-s", f"{SHIPPED.stat().st_size / 1e6:.1f}", "MB", "in", "the", "package"]
    assert other.split() == ["posedet-x", "0.0", "MB", "not", "downloaded:", release.url]
    assert last == f"cache: {tmp_path / 'cache'}"
    path = model_file(published)
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].split() == ["posedet-x", "0.0", "MB", str(path)]


def test_fetch_prints_where_the_file_is(published: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = server.url("large.onnx", b"a large model")
    assert main(["weights", "fetch", "--offline", published]) == 2
    assert capsys.readouterr().err.startswith(f"posedet: error: {server.address('large.onnx')}: not in the cache, and ")
    for source, path in {
        published: model_file(published),
        url: local_file(url),
        "posedet-s": SHIPPED,
        str(SHIPPED): SHIPPED,
    }.items():
        assert main(["weights", "fetch", source]) == 0
        assert capsys.readouterr().out == f"{path}\n"
    assert main(["weights", "fetch", "posedet-y"]) == 2
    assert capsys.readouterr().err.endswith(f"no such model file; released models: {', '.join(RELEASES)}\n")
