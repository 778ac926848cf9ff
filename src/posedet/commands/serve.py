"""The command `posedet serve`."""

import argparse
import ipaddress
import os
from pathlib import Path

from posedet.commands.options import AddCommand, add_detector_options, add_number, open_detector
from posedet.errors import ConfigError
from posedet.extras import needs
from posedet.files import one_line

LEAST_TOKEN = 16  # characters


def add_commands(add: AddCommand) -> None:
    serve = add("serve", "photos over HTTP -> poses (needs posedet[serve])", "serve --port 8000")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add_number(serve, "--port", "port to listen on; 0: any free one (default: %(default)s)", least=0, default=8000)
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the token that clients must send (default: the variable POSEDET_TOKEN, or no token)",
    )
    serve.add_argument(
        "--no-token", action="store_true", help="listen without a token on addresses that others can reach, too"
    )
    serve.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of this origin read the answers, such as https://example.org; repeatable",
    )
    add_number(serve, "--max-mb", "megabytes of a request (default: %(default)s)", default=20, metavar="MB")
    add_number(serve, "--max-megapixels", "million pixels of a photo (default: %(default)s)", default=16, metavar="MP")
    add_number(
        serve,
        "--seconds",
        "time for the headers of a request to arrive, and for its photos (default: %(default)s)",
        default=30,
    )
    add_number(
        serve,
        "--queue",
        "photos that may wait; then requests are refused (default: %(default)s)",
        default=128,
        metavar="PHOTOS",
    )
    add_detector_options(serve)
    serve.set_defaults(command=_serve)


def _serve(options: argparse.Namespace) -> int:
    needs("posedet serve", "serve", ("fastapi", "prometheus_client", "python_multipart", "uvicorn"))
    from posedet.runtime.bulk import MOST_AT_ONCE, best_at_once
    from posedet.serve.app import Limits, create_app
    from posedet.serve.run import serve

    if options.port > 65535:
        raise ConfigError(f"--port {options.port}: expected at most 65535")
    token = _token(options.token_file)
    if token is None and not options.no_token and not _is_loopback(options.host):
        raise ConfigError(
            f"--host {one_line(options.host)}: others could use the server; set a token in POSEDET_TOKEN or with "
            "--token-file, or allow everybody with --no-token"
        )
    detector = open_detector(options, at_once=best_at_once(MOST_AT_ONCE, options.threads))
    limits = Limits(options.max_mb * 10**6, options.seconds, options.max_megapixels * 10**6, options.queue)
    serve(create_app(detector, limits, token=token, origins=options.cors), options.host, options.port, options.seconds)
    return 0


def _token(file: Path | None) -> str | None:
    """Return the token of a file or of the environment; the command line would show it to every user of the machine."""
    if file is None:
        name, token = "POSEDET_TOKEN", os.environ.get("POSEDET_TOKEN")
    else:
        name = f"--token-file {one_line(file)}"
        try:
            with file.open(encoding="utf-8") as opened:
                token = opened.read(10_000)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: cannot be read ({one_line(error)})") from None
    if token is None:
        return None
    token = token.strip()
    if len(token) < LEAST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise ConfigError(f"{name}: expected at least {LEAST_TOKEN} letters, digits and signs without spaces")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
