"""What can go wrong with a server: one try of a request, and all of them."""

from __future__ import annotations


class RemoteError(RuntimeError):
    """A request was not answered, whatever was tried.

    Attributes:
        url: Who was asked: one base URL, or several with commas between them.
        num_tries: How often.
        reason: What went wrong, the last time.
        status: HTTP status by which a server refused it; 0 if none did.
    """

    def __init__(self, url: str, num_tries: int, reason: str, status: int = 0) -> None:
        super().__init__(url, num_tries, reason, status)
        self.url, self.num_tries, self.reason, self.status = url, num_tries, reason, status

    def __str__(self) -> str:
        tries = "1 try" if self.num_tries == 1 else f"{self.num_tries} tries"
        return f"{self.url} did not answer in {tries}: {self.reason}"


class TryError(Exception):
    """One try failed. It carries a text only: an HTTP library's errors hold the API key.

    Attributes:
        reason: What went wrong.
        is_final: Whether another try would fail too, as with a request that the server refuses.
        retry_after: Seconds for which the server asked not to be called.
        status: HTTP status by which the server refused; 0 if it did not.
    """

    def __init__(
        self, reason: str, *, is_final: bool = False, retry_after: float = 0.0, status: int = 0
    ) -> None:
        super().__init__(reason)
        self.reason, self.is_final = reason, is_final
        self.retry_after, self.status = retry_after, status
