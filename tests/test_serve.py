"""The server as a process of its own, and as clients see it."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import validate

pytest.importorskip("fastapi")

from lab.serve.attack import attack
from lab.serve.client import Answer, Server, ask_once, connected, form, get, request, running
from posedet import PoseDet, Poses
from posedet.commands.main import main
from posedet.serve.app import Limits, create_app
from posedet.serve.uploads import uploads_in

TOKEN = "correct-horse-battery"
FAST = ("--threads", "1", "--long-side", "192")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with the settings that it has without options, but for the size of the input and the time limit."""
    with running(*FAST, "--seconds", "2") as server:
        yield server


@pytest.fixture
def photo(photos: Path) -> bytes:
    return (photos / "skiers.jpg").read_bytes()


def ask(server: Server, content: bytes) -> Answer:
    return asyncio.run(ask_once(server.port, content))


def error_of(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]


def test_poses_equal_those_in_python(server: Server, detector: PoseDet, photo: bytes) -> None:
    query = "?skeleton=crowdpose&score_threshold=0.2&long_side=256"
    answer = ask(server, request(photo, query))
    (entry,) = json.loads(answer.body)["photos"]
    wanted = detector.adjusted(skeleton="crowdpose", score_threshold=0.2, long_side=256)(photo)
    assert (entry["file_name"], entry["width"], entry["height"]) == (None, 640, 480)
    found = Poses.from_dict(entry)
    assert len(found) > 0 and found.skeleton == wanted.skeleton
    np.testing.assert_array_equal(found.keypoints, wanted.keypoints)
    np.testing.assert_array_equal(found.scores, wanted.scores)


def test_several_photos_in_coco_format(server: Server, detector: PoseDet, photos: Path) -> None:
    files = [(name, (photos / name).read_bytes()) for name in ("skiers.jpg", "tennis.jpg", "food.jpg")]
    body, kind = form(files)
    answer = ask(server, request(body, "?skeleton=left_wrist,nose&format=coco", [kind]))
    adjusted = detector.adjusted(skeleton=["left_wrist", "nose"], long_side=192)
    wanted = [
        {**result, "file_name": name}
        for place, (name, content) in enumerate(files, 1)
        for result in adjusted(content).to_coco(place)
    ]
    assert wanted and json.loads(answer.body) == wanted


def test_answers_fit_the_schema_and_so_do_the_examples(server: Server, photo: bytes) -> None:
    described = json.loads(ask(server, get("/openapi.json")).body)
    post = described["paths"]["/v1/poses"]["post"]
    content = post["responses"]["200"]["content"]["application/json"]
    for query in ("", "?format=coco"):
        validate(json.loads(ask(server, request(photo, query)).body), content["schema"])
    for example in content["examples"].values():
        validate(example["value"], content["schema"])
    assert {each["name"] for each in post["parameters"]} == {"skeleton", "score_threshold", "long_side", "format"}
    assert {"image/jpeg", "image/avif", "multipart/form-data"} <= set(post["requestBody"]["content"])


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ("?skeleton=cocoo", 422, "unknown skeleton 'cocoo' (did you mean 'coco'?)"),
        ("?skeleton=/etc/passwd.toml", 422, "unknown skeleton '/etc/passwd.toml'"),
        ("?skeleton=nose,tail", 422, "tail"),
        ("?score_threshold=nan", 422, "score_threshold: 'nan', input should be a finite number"),
        ("?score_threshold=1", 422, "score_threshold: '1', input should be less than 1"),
        ("?long_side=4000", 422, "long_side: '4000', input should be less than or equal to 1920"),
        ("?format=xml", 422, "format: 'xml', input should be 'posedet' or 'coco'"),
        ("?skeletn=coco", 422, "skeletn: unknown; the query takes skeleton, score_threshold, long_side, format"),
    ],
)
def test_a_wrong_setting_is_one_line(server: Server, photo: bytes, query: str, status: int, reason: str) -> None:
    answer = ask(server, request(photo, query))
    found, text = error_of(answer)
    assert found == status and reason in text and "\n" not in text


def test_a_wrong_body_is_one_line(server: Server, photo: bytes) -> None:
    def sent(files: list[tuple[str, bytes]], cut: int | None = None) -> tuple[int, str]:
        body, kind = form(files)
        return error_of(ask(server, request(body[:cut], headers=[kind])))

    assert sent([("a.jpg", photo), ("b.jpg", photo[:9000])])[0] == 422
    assert sent([("a.jpg", photo), ("b.jpg", photo[:9000])])[1].startswith("photo 2: damaged or truncated")
    assert sent([("a.txt", b"words")]) == (
        415,
        "photo 1: not a photo, or damaged (supported: JPEG, PNG, WEBP, AVIF, GIF, BMP, TIFF)",
    )
    no_file = "the form has no file; send at least one, such as curl -F photo=@photo.jpg"
    assert sent([]) == sent([("a.jpg", photo)], -20) == (422, no_file)
    assert sent([("a.jpg", photo)] * 129) == (413, "more than 128 photos; send several requests")
    field = b'--limit\r\nContent-Disposition: form-data; name="skeleton"\r\n\r\ncoco\r\n--limit--\r\n'
    _, kind = form([])
    assert error_of(ask(server, request(field, headers=[kind]))) == (
        422,
        "form field 'skeleton' has no file name; send files, and settings in the query string",
    )


def test_other_paths_and_methods(server: Server) -> None:
    for path in ("/v2/poses", "/../../etc/passwd", "/%2e%2e/etc/passwd", "/docs"):
        assert error_of(ask(server, get(path))) == (404, "Not Found; /openapi.json says what there is")
    answer = ask(server, get("/v1/poses"))
    assert answer.status == 405 and answer.headers["allow"] == "POST"
    assert ask(server, get("/readyz")).body == b"ready\n"
    origin = ask(server, b"OPTIONS /v1/poses HTTP/1.1\r\nHost: a\r\nOrigin: https://b.org\r\n\r\n")
    assert not [name for name in origin.headers if name.startswith("access-control")]


def test_bad_uploads_do_not_disturb_good_ones(server: Server, photos: Path) -> None:
    contents = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))]
    outcome = asyncio.run(attack(server, contents, count=42, at_once=21, num_good=2, max_bytes=20_000_000))
    assert outcome.wrong == []
    assert set(outcome.good) == {200} and outcome.good.total() > 10


def test_slow_senders_time_out(server: Server, photo: bytes) -> None:
    """Whether they are slow with the headers, of the first or a later request, or with the photo."""

    async def slow_body() -> Answer:
        async with connected(server.port) as client:
            client.send(request(photo)[:5000])
            return await client.answer()

    async def slow_headers(first: bytes) -> float:
        async with connected(server.port) as client:
            if first:
                await client.ask(first)
            begin = time.perf_counter()
            with suppress(OSError):
                for byte in request(photo)[:60]:
                    client.send(bytes([byte]))
                    await client.sent()
                    await asyncio.sleep(0.1)
            return time.perf_counter() - begin

    assert error_of(asyncio.run(slow_body())) == (408, "the request did not arrive within 2 s")
    for first in (b"", get("/healthz")):
        assert 1 < asyncio.run(slow_headers(first)) < 4.5


def test_metrics_and_log_have_no_contents(photo: bytes) -> None:
    with running(*FAST) as server:
        body, kind = form([("secret-name.jpg", photo)])
        assert ask(server, request(body, "?skeleton=nose", [kind])).status == 200
        assert ask(server, request(b"secret words")).status == 415
        assert ask(server, get("/secret-path")).status == 404
        text = ask(server, get("/metrics")).body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['posedet_requests_total{path="/v1/poses",status="200"}'] == "1.0"
    assert values['posedet_errors_total{kind="format"}'] == values['posedet_errors_total{kind="path"}'] == "1.0"
    assert values["posedet_photos_total"] == "1.0" and values["posedet_waiting_photos"] == "0.0"
    for stage in ("receive", "check", "wait", "decode", "model", "encode"):
        assert float(values[f'posedet_stage_seconds_count{{stage="{stage}"}}']) >= 1
        assert float(values[f'posedet_stage_seconds_sum{{stage="{stage}"}}']) > 0
    assert [line["message"] for line in server.log] == ["listening", *["request"] * 4, "ended"]
    done = server.log[1]
    assert (done["path"], done["status"], done["photos"], done["bytes"]) == ("/v1/poses", 200, 1, len(body))
    assert [line.get("kind") for line in server.log[2:4]] == ["format", "path"]
    assert "secret" not in f"{server.log}{text}"


def test_too_many_photos_are_told_to_come_later(photo: bytes) -> None:
    async def many(port: int) -> list[Answer]:
        content = request(photo, "?long_side=1280")
        answers = await asyncio.gather(*(ask_once(port, content) for _ in range(12)), ask_once(port, get("/healthz")))
        assert answers.pop().status == 200
        return answers

    with running(*FAST, "--queue", "3") as server:
        answers = asyncio.run(many(server.port))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 4
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.headers["retry-after"] == "2"
        assert error_of(refused)[1] == "too many photos are waiting; try again in 2 s"
        assert ask(server, request(photo)).status == 200


def test_sigterm_finishes_what_runs(photo: bytes) -> None:
    async def ask_and_end(server: Server) -> Answer:
        async with connected(server.port) as client:
            client.send(request(photo, "?long_side=1920"))
            while b"running_photos 1.0" not in (await ask_once(server.port, get("/metrics"))).body:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            answer = await asyncio.wait_for(client.answer(), 60)
        with pytest.raises(OSError):
            await ask_once(server.port, get("/healthz"))
        return answer

    with running(*FAST) as server:
        answer = asyncio.run(ask_and_end(server))
        assert answer.status == 200 and json.loads(answer.body)["photos"]
        assert server.process.wait(30) == 0


def test_a_token_is_asked_for(photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    right = f"Authorization: Bearer {TOKEN}"
    for options, environment in (
        (("--token-file", str(tmp_path / "token")), None),
        ((), {**os.environ, "POSEDET_TOKEN": TOKEN}),
    ):
        with running(*FAST, *options, environment=environment) as server:
            for wrong in ([], ["Authorization: Bearer wrong"], ["Authorization: Bearer \xe9"], [f"X-Token: {TOKEN}"]):
                answer = ask(server, request(photo, headers=wrong))
                assert error_of(answer) == (401, "needs the server's token: Authorization: Bearer TOKEN")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert ask(server, request(photo, headers=[right])).status == 200
            assert ask(server, get("/metrics")).status == 401
            assert ask(server, get("/healthz")).status == ask(server, get("/readyz")).status == 200
            assert TOKEN not in str(server.log)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--host 0.0.0.0", "--host 0.0.0.0: others could use the server; set a token in POSEDET_TOKEN or with "),
        ("--host ::", "--host ::: others could use the server"),
        ("--host example.invalid", "--host example.invalid: others could use the server"),
        ("--token-file none", "--token-file none: cannot be read"),
        ("--token-file short", "--token-file short: expected at least 16 letters, digits and signs without spaces"),
        ("--port TAKEN", "--host 127.0.0.1 --port TAKEN: cannot be used (Address already in use"),
        ("--port 70000", "--port 70000: expected at most 65535"),
        ("--queue 0", "--queue 0: expected at least 1"),
        ("--long-side 9999", "long_side is 9999, expected 32 to 8192 pixels"),
    ],
)
def test_refusals_at_the_start(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSEDET_TOKEN", raising=False)
    (tmp_path / "short").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", *arguments.replace("TAKEN", port).split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"posedet: error: {message.replace('TAKEN', port)}") and error.count("\n") == 1


def test_cors_for_the_origins_that_are_named(photo: bytes) -> None:
    with running(*FAST, "--cors", "https://ours.org") as server:
        for origin, allowed in (("https://ours.org", "https://ours.org"), ("https://theirs.org", None)):
            answer = ask(server, request(photo, headers=[f"Origin: {origin}"]))
            assert answer.headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize("token", [None, TOKEN])
def test_schemathesis_finds_nothing(token: str | None, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(
        # Random bytes fit the schema of a photo, but are none.
        "[checks]\npositive_data_acceptance.expected-statuses = [200, 413, 415, 422]\n"
    )
    environment = {**os.environ, "NO_COLOR": "1"} | ({} if token is None else {"POSEDET_TOKEN": token})
    header = [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    with running(
        *FAST, environment=environment if token is None else {**environment, "POSEDET_TOKEN": token}
    ) as server:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(tmp_path / "schemathesis.toml"),
            "run",
        ]
        options = ["--checks", "all", "--max-examples", "20", "--seed", "1", "--generation-database", "none", *header]
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        done = subprocess.run(
            [*command, address, *options], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"[1-9]\d* generated", done.stdout), done.stdout
    assert not [line for line in server.log if line.get("status") == 500 or "traceback" in line]


# --- parts, in this process ------------------------------------------------------------------------------------------


def answer_of(app: Any, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Ask an ASGI application for a path without a server."""
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # a client that stays, and has no body
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "state": {}}
    asyncio.run(app({**scope, "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": ""}, receive, send))
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], dict(messages[0]["headers"]), body


def test_the_page_is_shown_if_it_was_built(detector: PoseDet, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    page = tmp_path / "page"
    app = create_app(detector.adjusted(long_side=128), Limits(), page=page)
    status, _, body = answer_of(app, "/")
    assert status == 200 and b"/v1/poses" in body and b"make web" in body and body.count(b"\n") == 1
    page.mkdir()
    (page / "index.html").write_text("<title>ours</title>")
    (page / "model.wasm").write_bytes(b"wasm")
    (page / "link").symlink_to(tmp_path / "secret")
    app = create_app(detector.adjusted(long_side=128), Limits(), page=page)
    assert answer_of(app, "/")[2] == b"<title>ours</title>"
    assert answer_of(app, "/model.wasm")[1][b"content-type"] == b"application/wasm"
    assert answer_of(app, "/healthz")[2] == b"alive\n"
    assert answer_of(app, "/v1/poses")[0] == 405  # GET
    for path in ("/../secret", "/link", "/..%2fsecret", "//etc/passwd"):
        assert answer_of(app, path)[0] == 404


def test_uploads_stay_in_memory(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(f"tempfile.{name}", refuse)
    large = photo + bytes(5_000_000)
    body, kind = form([("a/../b.jpg", large)])
    (upload,) = uploads_in(kind.removeprefix("Content-Type: "), body, 1, 10**6)
    assert (upload.name, upload.content, upload.num_pixels) == ("a/../b.jpg", large, 640 * 480)
