"""How many bytes requests may hold together while they arrive and wait."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from realfake.space.batching import Busy


class Room:
    """Room for the bodies of requests.

    Args:
        max_bytes: Of all bodies together.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.taken = 0

    @contextmanager
    def counted(self, receive: Receive) -> Iterator[Receive]:
        """Count what a request receives as taken, until it is done with.

        Raises:
            Busy: From what is yielded, where there is no room for the next bytes.
        """
        own = 0

        async def counting() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            if self.taken + size > self.max_bytes:
                raise Busy
            own += size
            self.taken += size
            return message

        try:
            yield counting
        finally:
            self.taken -= own
