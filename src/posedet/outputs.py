"""Write outputs: never over an input, nor over a file that the same command did not write.

Every output names its command where its format has room for that: a key, a comment, a text in a picture. So the next
run of the command recognises the file and may replace it.
"""

import io
import json
import os
import re
import secrets
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from posedet.errors import ConfigError, PoseDetError
from posedet.files import one_line

# The mark is at the beginning of a file, or of ONNX and PDF files at the end.
MARKED_BYTES = 1 << 16
_MARK = re.compile(
    rb"""(?sx) (?:
        \A \s* \[? \s* \{ \s* "generator": \s* "        # JSON, JSON Lines, lists of results
      | \A (?: <\?xml [^>]* > \s* )? <!--\ generator:\   # Markdown, XML
      | \A \#\ generator:\                              # text with comments
      | \A \s* <!doctype\ html> .{0,99} <meta\ name="generator"\ content="
      | \A \xff\xd8\xff\xe0 .{16} \xff\xfe ..           # JPEG: a comment
      | \A \x89PNG .{29} .{0,99}? tEXtSoftware\0
      | \A <\?xml .*? <dc:title>                        # SVG
      | \A %PDF .* /Creator\ \(
      | \A .{8} \{"__metadata__":\{"posedet":"\{\\"generator\\":\ \\"  # safetensors
      | \A PK\x03\x04 .* generator:\                  # ZIP: its comment
      | \A .{4} ftyp .* \0 generator:\                  # MP4
      | \A PAR1 .* generator .{1,4}?                    # Parquet
      | \A PathFileType\t4\t\(X/Y/Z\)\t                # TRC
      | \A \x08 .* \n\x07posedet\x12 .{1,4}? \{"generator":\ "     # ONNX
    ) ( (?:posedet\ |lab\.) [a-z_]+ (?:\ [a-z_]+)* )"""
)
# What has no mark: lists without results, logs of training, and what version 0.1 wrote. "posedet": any of its commands.
_UNMARKED = (
    (re.compile(rb"\[\n\]\n\Z"), "posedet"),
    (re.compile(rb"frame,time,id,score,x1,y1,x2,y2,"), "posedet track"),
    (re.compile(rb"photo,height,width,score,x1,y1,x2,y2,"), "posedet"),
    (re.compile(rb'\{"step": \d+, "(?:loss|validation)": '), "posedet train"),
    (re.compile(rb'\{\s*"config": \{\s*"model": \{'), "posedet train"),
    (re.compile(rb'(?s).{8}\{"__metadata__":\{"posedet":'), "posedet train"),
    (re.compile(rb"(?s)\x08.*\n\x07posedet\x12"), "posedet export"),
)

_given_up: set[tuple[int, ...]] = set()  # versions of files that `overwrite` allowed this process to replace


class ForeignFileError(ConfigError):
    """An output exists already, and the same command did not write it."""


def generator_of(path: Path) -> str | None:
    """Return which command wrote a file, as its mark says; None for a link, and for a file of anybody else."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        with path.open("rb") as file:
            content = file.read(MARKED_BYTES)
            file.seek(max(len(content), os.fstat(file.fileno()).st_size - MARKED_BYTES))
            content += file.read(MARKED_BYTES)
    except OSError:
        return None
    if found := _MARK.search(content):
        return found[1].decode()
    return next((generator for pattern, generator in _UNMARKED if pattern.match(content)), None)


def check_outputs(
    outputs: Sequence[Path], generator: str, *, reads: Iterable[Path] = (), overwrite: bool = False
) -> None:
    """Refuse outputs that would replace a file of somebody else; call this before any work.

    Args:
        outputs: All files that will be written.
        generator: The command that writes them.
        reads: The files that it reads. They are looked at only if some output exists.
        overwrite: Allow outputs to replace files that another program or command wrote, but never one of `reads`.

    Raises:
        ConfigError: If an output is a file that is read, whatever the spelling of its path, if it is no regular file,
            or if two outputs are the same file.
        ForeignFileError: If `generator` did not write an existing output.
    """
    taken: set[str] = set()
    read: set[tuple[int, int] | None] | None = None
    for path in outputs:
        # Some folders may not exist yet: `new/../a.json` is a.json nevertheless.
        real = Path(os.path.realpath(path.parent), path.name)
        if (plain := plain_name(str(real))) in taken:
            raise ConfigError(f"{one_line(path)}: would be written twice by this command; name another output")
        taken.add(plain)
        if not os.path.lexists(real):
            continue
        if read is None:
            read = {_identity(each) for each in reads} - {None}
        if _identity(real) in read:
            raise ConfigError(f"{one_line(path)}: is read by this command and never replaced; name another output")
        if not (os.path.islink(real) or os.path.isfile(real)):
            kind = "a folder" if os.path.isdir(real) else "not a regular file"
            raise ConfigError(f"{one_line(path)}: is {kind}; name another output")
        if overwrite:
            _given_up.add(_version(real))
        else:
            _check_replaceable(real, generator, path)


def plain_name(name: str) -> str:
    """Equal for names that are the same file on some file systems, such as a.jpg and A.jpg."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_replaceable(path: Path, generator: str, spelling: Path | None = None) -> None:
    """Raise ForeignFileError if a file is there that neither `generator` wrote nor the user gave up."""
    if not os.path.lexists(path) or _version(path) in _given_up:
        return
    writer = generator_of(path)
    if writer is None or not f"{generator} ".startswith(f"{writer} "):
        shown = one_line(spelling or path)
        raise ForeignFileError(f"{shown}: exists, and `{generator}` did not write it; name another output")


def _identity(path: Path) -> tuple[int, int] | None:
    """Identifies a file whatever its name; None if it does not exist."""
    status = _status(path)
    return status and (status.st_dev, status.st_ino)


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change: tells whether a file is still the same; None if it does not exist."""
    status = _status(path)
    return status and (status.st_size, status.st_mtime_ns)


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _version(path: Path) -> tuple[int, ...]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def make_folder(folder: Path) -> None:
    """Create an output folder and its parents. Raises ConfigError if that fails or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # finds out before hours of work
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{one_line(folder)}: cannot be written to ({reason}); choose another folder") from None


def replace(partial: Path, path: Path, generator: str) -> None:
    """Give a finished file its name. Raises ForeignFileError if a file of somebody else has that name by now.

    The name of a link is replaced, and the file that it points to stays as it is.
    """
    _check_replaceable(path, generator)
    os.replace(partial, path)


def discard(partial: Path) -> None:
    """Remove an unfinished file, if there is one. If that fails, there was an error before, which says more."""
    with suppress(OSError):
        partial.unlink()


def write_atomically(path: Path, generator: str, content: bytes | Iterable[bytes]) -> None:
    """Write a temporary file in the same folder, then rename it.

    Several threads and processes may write the same file: the result is one complete version.

    Args:
        path: The file to write.
        generator: The command that writes it.
        content: The content, whole or in parts, with the mark of `generator`.

    Raises:
        PoseDetError: If the file cannot be written. An existing file is then unchanged.
        ForeignFileError: If a file is there that `generator` did not write.
    """
    # A random name, because `path` may have the maximum length already. Mode "x" never follows a planted link.
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        try:
            with partial.open("xb") as file:
                for part in [content] if isinstance(content, bytes) else content:
                    file.write(part)
            replace(partial, path, generator)
        except BaseException:
            discard(partial)
            raise
    except OSError as error:
        raise PoseDetError(f"{one_line(path)}: could not be written ({error.strerror or error})") from None


def write_json(path: Path, generator: str, content: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write a table as JSON. Raises as `write_atomically`, and ValueError for a number that is not finite."""
    text = json.dumps({"generator": generator, **content}, indent=indent, allow_nan=False)
    write_atomically(path, generator, f"{text}\n".encode())


def write_results(path: Path, generator: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Write results in COCO's format: a list, so that each entry has the mark. Raises as `write_atomically`."""
    lines = [json.dumps({"generator": generator, **result}) for result in results]
    write_atomically(path, generator, "\n".join(["[", ",\n".join(lines), "]\n"] if lines else ["[", "]\n"]).encode())


def write_markdown(path: Path, generator: str, text: str) -> None:
    """Write Markdown. Raises as `write_atomically`."""
    write_atomically(path, generator, f"<!-- generator: {generator} -->\n{text.rstrip()}\n".encode())


def write_figure(path: Path, generator: str, figure: Any, *, dpi: int = 110) -> None:
    """Write a matplotlib figure in the format of the suffix: .png, .svg or .pdf. Raises as `write_atomically`."""
    picture, kind = io.BytesIO(), path.suffix.lower().removeprefix(".")
    metadata = {"Software": f"{generator}\n"} if kind == "png" else {"Creator": generator}
    figure.savefig(picture, format=kind, dpi=dpi, metadata=metadata)
    write_atomically(path, generator, picture.getvalue())


class LineFile:
    """A file of JSON lines that is complete after each of them, whatever ends the process.

    Lines are appended to a file that `generator` wrote, after its last complete line. With `anew`, the first line
    replaces it. It is opened with the first line.
    """

    def __init__(self, path: Path, generator: str, *, anew: bool = False) -> None:
        self.path, self._generator, self._anew = path, generator, anew
        self._file: io.FileIO | None = None

    def add(self, line: object) -> None:
        """Append a line. Raises PoseDetError if it cannot be written, and ForeignFileError as `write_atomically`."""
        rest = f"{json.dumps(line)}\n".encode()
        if self._file is None and (self._anew or generator_of(self.path) != self._generator):
            # All of it or nothing, because it has the mark: half a mark would make it nobody's file.
            write_atomically(self.path, self._generator, rest)
            self._anew, rest = False, b""
        try:
            self._file = self._file or self._opened()
            begin = self._file.tell()
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(begin)
                raise
        except OSError as error:
            raise PoseDetError(f"{one_line(self.path)}: could not be written ({error.strerror or error})") from None

    def close(self) -> None:
        """Raises PoseDetError if the system refuses the last lines only now, as network folders do."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            raise PoseDetError(f"{one_line(self.path)}: could not be written ({error.strerror or error})") from None

    def _opened(self) -> io.FileIO:
        file = self.path.open("r+b", buffering=0)
        begin = max(0, os.fstat(file.fileno()).st_size - MARKED_BYTES)
        file.seek(begin)
        file.truncate(begin + file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        return file
