"""How uploads come in: files alone, a request of them within bounds, and all that is kept for visitors within so much of the disk.

Gradio keeps whatever is sent for a day, holds what is no file in memory, and leaves a file behind where the client breaks
off; its parser of uploads is replaced by one that does none of it.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from gradio import route_utils
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from studio.disk_room import OWN_DISK, PUBLIC_DISK, DiskRoom
from studio.errors import StudioBusy
from studio.machine import in_words
from tabs.parts.uploads import upload_folder

__all__ = ["receive_within", "upload_room", "require_disk"]

# One request may bring so much of what is kept in all, in files of which launch() bounds each.
SHARE = 8
# Room is made for so many bytes at a time.
AHEAD = 4 * 2**20
# A picture that Gradio writes itself.
PICTURE = 2**20
NO_FILE = "An upload takes files, each with its name; anything else is not read."
BROKEN_OFF = "The upload was broken off."


def upload_room(studio: Any) -> DiskRoom:
    """The room for uploads to this studio, and for the files that it hands out: they lie together."""
    return DiskRoom(upload_folder(), PUBLIC_DISK if studio.public else OWN_DISK)


def receive_within(room: DiskRoom) -> None:
    """Have this process take uploads as long as the room has place for them."""
    OwnParser.room = room
    route_utils.GradioMultiPartParser = OwnParser  # type: ignore[misc]


def require_disk(size: int = 0) -> None:
    """Have room for files of `size` bytes and a picture, which are handed out now. Raises StudioBusy."""
    if OwnParser.room is not None:
        OwnParser.room.make(size + PICTURE)


class OwnParser(route_utils.GradioMultiPartParser):
    """Takes files and nothing else, within the room; where it fails, nothing is left of the request."""

    room: DiskRoom | None = None

    async def parse(self) -> Any:
        if self.room is not None:
            self.stream = within(self.room, self.stream)  # type: ignore[assignment]  # all that is asked of it is to be read
        try:
            return await super().parse()
        except BaseException as error:
            for file in self._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            if isinstance(error, ClientDisconnect):
                raise MultiPartException(BROKEN_OFF) from None
            if isinstance(error, FormParserError):
                raise MultiPartException(f"The upload is no form that can be read: {error}.") from None
            raise

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if self._current_part.file is None:
            raise MultiPartException(NO_FILE)


async def within(room: DiskRoom, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What comes in, as long as there is room. Raises MultiPartException, which is answered in its own words."""
    came, room_for, most = 0, 0, room.most // SHARE
    async for chunk in stream:
        came += len(chunk)
        if came > most:
            raise MultiPartException(f"One upload has a maximum allowed size of {in_words(most)} in all; send the files in several.")
        if came > room_for:
            room_for = came + AHEAD
            try:
                await anyio.to_thread.run_sync(room.make, AHEAD)
            except StudioBusy as error:
                raise MultiPartException(str(error)) from None
        yield chunk
