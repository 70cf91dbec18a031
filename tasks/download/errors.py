"""Why a URL gave no image: the classes of failure, and which of them another try could cure."""

from dataclasses import dataclass
from typing import Final, Literal

from tasks.errors import TaskError

ErrorKind = Literal["permanent", "transient"]
"""Whether another try could help."""

_LONGEST_MESSAGE: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One class of failure."""

    kind: ErrorKind
    summary: str
    """One line for users."""


FAILURES: Final[dict[str, Failure]] = {
    "bad_url": Failure(kind="permanent", summary="not a URL, or one with a user name or a password"),
    "blocked_address": Failure(kind="permanent", summary="not http(s), not a port of the web, or a private address"),
    "redirect_loop": Failure(kind="permanent", summary="redirects in a circle, or too many of them"),
    "not_found": Failure(kind="permanent", summary="404"),
    "gone": Failure(kind="permanent", summary="410"),
    "forbidden": Failure(kind="permanent", summary="401, 403 or 451"),
    "client_error": Failure(kind="permanent", summary="another status from 400 to 499"),
    "bad_response": Failure(kind="permanent", summary="an answer that is no HTTP, or has no meaning here"),
    "bad_certificate": Failure(kind="permanent", summary="the server cannot prove that it is the host"),
    "refused_by_robots": Failure(kind="permanent", summary="X-Robots-Tag forbids the use of the image"),
    "too_many_bytes": Failure(kind="permanent", summary="a body above the limit"),
    "too_many_pixels": Failure(kind="permanent", summary="an image above the limit, seen before it was decoded"),
    "too_costly": Failure(kind="permanent", summary="an image whose decoding takes too much time or memory"),
    "not_an_image": Failure(kind="permanent", summary="bytes that cannot be decoded as an image"),
    "too_small": Failure(kind="permanent", summary="a side below the limit"),
    "bad_aspect": Failure(kind="permanent", summary="too long and narrow"),
    "hash_mismatch": Failure(kind="permanent", summary="not the bytes that the metadata promised"),
    "taken_down": Failure(kind="permanent", summary="an image that was purged, at another address"),
    "timeout": Failure(kind="transient", summary="no answer, or not the whole of it, in time"),
    "throttled": Failure(kind="transient", summary="425 or 429"),
    "server_error": Failure(kind="transient", summary="a status from 500 to 599"),
    "dns": Failure(kind="transient", summary="the host's name has no address now"),
    "connection": Failure(kind="transient", summary="refused, reset, or no secure connection"),
    "incomplete": Failure(kind="transient", summary="the connection closed before the end of the body"),
}
"""Every class; a failed row of the download log has exactly one of them."""


class FetchError(TaskError):
    """One URL gave no image; the row says so, and the shard goes on."""

    retryable = True

    def __init__(
        self, error_class: str, message: str, *, http_status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """Keep the class, the message and what the answer said.

        Args:
            error_class: a key of ``FAILURES``.
            message: what happened, without anything that differs from run to run; cut and cleaned here, because parts
                of it may be external.
            http_status: status of the answer, if there was one.
            retry_after_s: how long the server asks to wait, seconds.
        """
        self.failure = FAILURES[error_class]
        self.error_class = error_class
        self.message = "".join(letter if letter.isprintable() else "?" for letter in message[:_LONGEST_MESSAGE])
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        super().__init__(f"{error_class}: {self.message}")

    @classmethod
    def from_text(cls, text: str) -> "FetchError":
        """Return the error whose ``str`` this is; status and wait are not in it."""
        error_class, _, message = text.partition(": ")
        return cls(error_class, message)

    @property
    def is_transient(self) -> bool:
        """Whether another try could help."""
        return self.failure.kind == "transient"
