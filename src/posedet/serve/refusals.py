"""What the server refuses: the status, a kind that metrics and logs count, and one line for the client."""

from posedet.errors import (
    ConfigError,
    DataError,
    PhotoError,
    PhotoFormatError,
    PhotoSizeError,
    PoseDetError,
)

RETRY_SECONDS = 2  # half of what a full queue takes on two cores


class Refusal(PoseDetError):
    """A request that is not answered with poses."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind = status, kind


def busy(what: str) -> Refusal:
    return Refusal(503, "busy", f"{what}; try again in {RETRY_SECONDS} s")


def refusal_of(error: PoseDetError) -> Refusal:
    """Return the refusal for an error of the library."""
    if isinstance(error, Refusal):
        return error
    for kind_of_error, status, kind in (
        (PhotoFormatError, 415, "format"),
        (PhotoSizeError, 413, "size"),
        (PhotoError, 422, "damaged"),
        (ConfigError, 422, "parameter"),
        (DataError, 422, "parameter"),
    ):
        if isinstance(error, kind_of_error):
            return Refusal(status, kind, str(error))
    return Refusal(500, "internal", "the model failed; the server's log says why")
