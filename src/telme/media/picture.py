"""The moving picture of a file, as small upright squares."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from telme.media.clip import FRAME_SIZE, FRAMES, Half
from telme.media.container import open_media, video_stream
from telme.media.track import Timed, Track

LONGEST_EDGE = 16 * FRAME_SIZE  # of a scaled picture, whatever its aspect ratio


class Picture(Track[VideoFrame]):
    """The moving picture of a file."""

    def __init__(self, file: Path) -> None:
        self._scaler = VideoReformatter()
        super().__init__(file)

    def frames(self, start: float, end: float, half: Half | None) -> list[tuple[float, NDArray[np.uint8]]]:
        """Time stamps and (224, 224, 3) RGB of the eight frames on screen; empty where there is nothing to see."""
        frames: list[tuple[float, NDArray[np.uint8]]] = []
        shown: Timed[VideoFrame] | None = None
        times = [start + (part + 0.5) * (end - start) / FRAMES for part in range(FRAMES)]
        has_skipped = bool(self.wanted)
        self.wanted = {self._stamp_on_screen(time) for time in times} if self.stamps else set()
        if has_skipped:  # what was not wanted then may be now
            self._seek(times[0])
        for time in times:
            self.move(time)
            frame = self.now or self.next
            if frame is None:
                return []
            pixels = frames[-1][1] if frame is shown else self._pixels(frame.frame, half)
            frames.append((frame.start, pixels))
            shown = frame
        return frames

    def _open(self, file: Path) -> InputContainer:
        container = open_media(file)
        if "mp4" in container.format.name:  # its index tells how far pictures are out of order
            return container
        container.close()
        return open_media(file, look=True)

    def _choose(self, container: InputContainer) -> VideoStream:
        stream = video_stream(container)
        assert stream is not None
        return stream

    def _stamp_on_screen(self, time: float) -> int:
        return self.stamps[max(bisect_right(self.stamps, time, key=self._time) - 1, 0)]

    def _pixels(self, frame: VideoFrame, half: Half | None) -> NDArray[np.uint8]:
        """(224, 224, 3) RGB: upright, the speaker's half, the shortest edge scaled to 224, the centre."""
        quarters = round(frame.rotation / 90)
        height, width = (frame.width, frame.height) if quarters % 2 else (frame.height, frame.width)
        parts = 1 if half is None else 2
        scale = FRAME_SIZE / min(height, width / parts)
        height = min(max(round(height * scale), FRAME_SIZE), LONGEST_EDGE)
        width = min(max(round(width * scale / parts), FRAME_SIZE), LONGEST_EDGE) * parts
        small = self._scaler.reformat(
            frame,
            width=height if quarters % 2 else width,
            height=width if quarters % 2 else height,
            format="rgb24",
            interpolation=Interpolation.BILINEAR,  # swscale widens the filter when it shrinks: no aliasing
            threads=1,
        )
        pixels = np.rot90(small.to_ndarray(), quarters)
        top = (height - FRAME_SIZE) // 2
        left = (width // parts - FRAME_SIZE) // 2 + (width // 2 if half == "right" else 0)
        return np.ascontiguousarray(pixels[top : top + FRAME_SIZE, left : left + FRAME_SIZE])
