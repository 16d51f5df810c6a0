"""The frames that were sent to a client that confirms, and that it has not confirmed."""

from __future__ import annotations

from collections import deque


class Window:
    """Begins with the first confirmation; the frames before it count, with unknown sizes."""

    __slots__ = ("_bytes", "_confirmed", "_max_bytes", "_max_frames", "_sent", "_sizes")

    def __init__(self, sent: int, max_frames: int, max_bytes: int) -> None:
        self._sent = sent
        self._confirmed = 0
        self._sizes: deque[int] = deque()
        """Of the last frames: at most of the unconfirmed ones."""
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes

    def frame_sent(self, size: int) -> None:
        self._sent += 1
        self._sizes.append(size)
        self._bytes += size

    def confirm(self, frames: int) -> None:
        """The client has received `frames` frames in all. Less than before is ignored, more than were sent is all."""
        self._confirmed = max(self._confirmed, min(frames, self._sent))
        while len(self._sizes) > self._sent - self._confirmed:
            self._bytes -= self._sizes.popleft()

    @property
    def is_full(self) -> bool:
        return self._sent - self._confirmed >= self._max_frames or self._bytes >= self._max_bytes

    @property
    def has_room(self) -> bool:
        """Whether to resume after it was full: at half, so that a client is not paused and resumed at each frame."""
        return self._sent - self._confirmed <= self._max_frames // 2 and self._bytes <= self._max_bytes // 2
