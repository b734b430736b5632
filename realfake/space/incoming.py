"""A request that knows whether all of it has come: to read on behind a refusal, and to notice a client that hangs up."""

import asyncio

from fastapi import Request
from starlette.types import Message, Receive, Scope

# Seconds for what is still on its way of a request that is refused.
DRAIN = 5.0


class Incoming(Request):
    """An HTTP request whose end is noticed."""

    def __init__(self, scope: Scope, receive: Receive):
        super().__init__(scope, self._noted)
        self._from, self.ended = receive, False

    async def _noted(self) -> Message:
        message = await self._from()
        self.ended = self.ended or not message.get("more_body", False)
        return message

    async def drain(self, limit: int) -> None:
        """Throw away what is still coming, within bounds of bytes and time.

        A connection that is closed while its client is still sending shows a reset there instead of the answer.
        """
        try:
            async with asyncio.timeout(DRAIN):
                while not self.ended and limit > 0:
                    limit -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass

    async def left(self) -> None:
        """Wait until the client hangs up; all of the request must have come."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
