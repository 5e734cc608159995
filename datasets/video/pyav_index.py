"""What a video file holds, told from its packets without decoding them: which frames, when, and where decoding starts.

The list is kept per file, because making it reads the whole file once. It is right for files that are as they should
be; :mod:`stvit.datasets.video.pyav_reader` checks every frame that it decodes against it, and counts where it is not.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from stvit.datasets.video.reading import UndecodableVideoError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Of a process: room for the lists of so many files, and of so many frames (16 bytes each).
_FILES, _FRAMES = 2000, 1_000_000
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")  # of an .mp4 or .mov
# Bytes. DivX and Xvid pack a B-frame into the packet of another frame, and leave an empty one in its place.
_PLACEHOLDER = 16
_SOUGHT_EXACTLY = ("mov", "matroska", "avi", "flv")  # containers with an index of key frames


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a video in the order in which they are shown."""

    times: NDArray[np.float64]  # (N,) seconds, increasing from 0
    stamps: NDArray[np.int64] | None  # (N,) their presentation timestamps; None: they are told by counting from 0
    keys: NDArray[np.int64]  # timestamps of the frames where decoding can start, in order, those never shown too
    rate: float  # frames a second that the file declares; 1 if it does not
    stream: int  # number of the stream in the file
    streams: int  # how many video streams the file has
    size: tuple[int, int]  # (H, W) as shown
    mirrored: bool  # the file asks for mirroring
    container: str  # FFmpeg's name, its first one: mov, matroska, avi, mpegts, ...
    reordered: bool  # frames are coded in another order than shown (B-frames)
    leading: bool  # some frames coded after a key frame are shown before it (open GOP)
    interlaced: bool  # its frames are two fields each
    bits: int  # of a sample
    recovering: bool  # of H.264: after some key frames the first ones shown may still refer to what was before


Source = tuple["InputContainer", "VideoStream"]
_Key = tuple[str, int, int]  # path, time of change and size


class _Kept:
    """The lists of the files used last, so many as there is room for."""

    def __init__(self) -> None:
        self._indices: OrderedDict[_Key, VideoIndex] = OrderedDict()
        self._frames = 0

    def get(self, key: _Key) -> VideoIndex | None:
        index = self._indices.get(key)
        if index is not None:
            self._indices.move_to_end(key)
        return index

    def put(self, key: _Key, index: VideoIndex) -> None:
        before = self._indices.pop(key, None)
        self._indices[key] = index
        self._frames += len(index.times) - (len(before.times) if before else 0)
        while len(self._indices) > 1 and (len(self._indices) > _FILES or self._frames > _FRAMES):
            self._frames -= len(self._indices.popitem(last=False)[1].times)

    def clear(self) -> None:
        self._indices.clear()
        self._frames = 0


_kept = _Kept()


def video_index(path: Path, source: Source | None = None, *, counted: bool = False) -> VideoIndex:
    """The list of a file's frames, from its packets or, if ``counted``, by decoding all of it; kept for later calls.

    Args:
        path: the file.
        source: the same file, open; its packets may be used up.
        counted: do not trust the packets.

    Raises:
        UndecodableVideoError: it is no video, has no frame, is encrypted, or ends before its header says.
    """
    key = _key(path)
    index = _kept.get(key)
    if index is not None and not (counted and index.stamps is not None):
        return index
    if source is None:
        with opened(path) as source:
            return video_index(path, source, counted=counted)
    index = None if counted else _from_packets(path, *source)
    if index is None:
        with opened(path) as anew:
            index = _from_frames(path, *anew)
    _kept.put(key, index)
    return index


def keep_index(path: Path, index: VideoIndex) -> None:
    """For later calls of :func:`video_index`: a better one than the packets told."""
    _kept.put(_key(path), index)


def forget_indices() -> None:
    """Let go of what is kept of files, so that the next look at each is like the first."""
    _kept.clear()


def _key(path: Path) -> _Key:
    state = path.stat()
    return os.path.abspath(path), state.st_mtime_ns, state.st_size


def all_pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Every frame as it is shown, ``(H, W, 3)`` RGB, by decoding from the beginning."""
    return map(picture, all_frames(path))


def all_frames(path: Path) -> Iterator[VideoFrame]:
    """Every frame as it is stored, by decoding from the beginning."""
    import av

    with opened(path) as (container, stream):
        for packet in packets(path, container, stream):
            try:
                yield from stream.decode(packet)
            except av.FFmpegError as error:
                raise undecodable(path, error) from error


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The file and its video stream, ready to be decoded by one thread; closed at the end of the block."""
    container, stream = open_stream(path)
    try:
        yield container, stream
    finally:
        container.close()


def open_stream(path: Path) -> Source:
    """The file and its video stream: the first one marked as default, else the first; cover pictures are none."""
    import av
    import av.logging

    _refuse_incomplete(path)
    av.logging.set_level(None)  # FFmpeg's own lines say nothing about which file; what matters becomes an exception
    try:
        # An absolute path is never taken for a URL, and a playlist cannot fetch anything from the network. (Before
        # version 17 PyAV crashes at this option in MPEG files.)
        options = {"protocol_whitelist": "file"} if _version() >= 17 else {}
        container = av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise undecodable(path, error) from error
    streams = shown_streams(container)
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise UndecodableVideoError(f"{path} has no video stream (it holds {kinds})")
    stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        container.close()
        raise UndecodableVideoError(f"{path} cannot be decoded: FFmpeg has no decoder for its video stream")
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return container, stream


def shown_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams that are no cover pictures."""
    import av

    return [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]


def undecodable(path: Path, error: Exception, where: str = "") -> UndecodableVideoError:
    """One line with the file and the cause; ``where`` is a frame, with a blank before it."""
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return UndecodableVideoError(f"{path} cannot be decoded{where}: {reason}")


def packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The stream's packets from here on, and at the end the empty one that empties the decoder."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is None:  # an empty one in the middle is a frame that AVI left out
                yield packet
    except av.FFmpegError as error:
        raise undecodable(path, error) from error


def _from_packets(path: Path, container: InputContainer, stream: VideoStream) -> VideoIndex | None:
    """None where packets do not tell which frames there are."""
    stamps: list[int] = []
    keys: list[int] = []  # places in stamps
    hidden: list[bool] = []  # by the edit list of the file
    packed = container.format.name == "avi" and stream.codec_context.name == "mpeg4"
    h264, recovering = stream.codec_context.name == "h264", False
    first: VideoFrame | None = None
    for packet in packets(path, container, stream):
        first = first or _first_frame(stream, packet)
        if not packet.size:
            continue
        if packet.pts is None or (not stamps and not packet.is_keyframe) or (packed and packet.size < _PLACEHOLDER):
            return None
        stamps.append(packet.pts)
        hidden.append(packet.is_discard)
        if packet.is_keyframe:
            keys.append(len(stamps) - 1)
            recovering = recovering or (h264 and not _begins_anew(bytes(packet), stream.codec_context.extradata))
    coded = np.array(stamps, np.int64)
    shown = np.sort(coded[~np.array(hidden, bool)])
    if first is None or not len(shown) or (np.diff(shown) <= 0).any() or coded.min() < coded[0]:
        return None
    latest_key = coded[keys][np.searchsorted(keys, np.arange(len(coded)), side="right") - 1]
    return VideoIndex(
        times=_times(shown, stream),
        stamps=shown,
        keys=np.unique(coded[keys]),
        # .avi gives H.264 the times of coding, in which B-frames do not show
        reordered=bool((np.diff(coded) < 0).any()) or (h264 and bool(stream.codec_context.has_b_frames)),
        leading=bool((coded < latest_key).any()),
        recovering=recovering,
        **_constant(container, stream, first),
    )


_IDR, _TYPE = 5, 0b11111  # ITU-T H.264, table 7-1: a picture after which none refers to one before it


def _begins_anew(content: bytes, extradata: bytes | None) -> bool:
    """Whether an H.264 packet holds an IDR picture; its units follow start codes, or their lengths (ISO 14496-15)."""
    if not extradata or extradata[0] != 1:
        return any(unit[:1] and unit[0] & _TYPE == _IDR for unit in content.split(b"\0\0\1")[1:])
    width, at = (extradata[4] & 3) + 1, 0
    while at + width < len(content):
        if content[at + width] & _TYPE == _IDR:
            return True
        at += width + int.from_bytes(content[at : at + width], "big")
    return False


def _first_frame(stream: VideoStream, packet: Packet) -> VideoFrame | None:
    import av

    try:
        return next(iter(stream.decode(packet)), None)
    except av.FFmpegError:  # whoever wants that frame will be told
        return None


def _from_frames(path: Path, container: InputContainer, stream: VideoStream) -> VideoIndex:
    import av

    stamps: list[int | None] = []
    first: VideoFrame | None = None
    failure: av.FFmpegError | None = None
    for packet in packets(path, container, stream):
        if failure is not None and packet.size:  # not the last one
            raise undecodable(path, failure, f" after frame {len(stamps) - 1}" if stamps else "") from failure
        try:
            for frame in stream.decode(packet):
                first = first or frame
                stamps.append(frame.pts)
        except av.FFmpegError as error:
            failure = error
    if first is None:
        raise undecodable(path, failure or ValueError("it has no frame"))
    # Frames come out in the order in which they are shown, even where the timestamps of B-frames (in AVI) are mixed up.
    known = np.sort(np.array([s for s in stamps if s is not None], np.int64))
    # Timestamps that are missing or doubled say nothing: the frames then follow each other evenly.
    trusted = len(known) == len(stamps) and bool((np.diff(known) > 0).all())
    times = _times(known, stream) if trusted else np.arange(len(stamps)) / _rate(stream)
    none = np.zeros(0, np.int64)
    constant = _constant(container, stream, first)
    return VideoIndex(times, None, none, reordered=False, leading=False, recovering=False, **constant)


class _Constant(TypedDict):
    rate: float
    stream: int
    streams: int
    size: tuple[int, int]
    mirrored: bool
    container: str
    interlaced: bool
    bits: int


def _constant(container: InputContainer, stream: VideoStream, first: VideoFrame) -> _Constant:
    turns, mirrored = orientation(first)
    return _Constant(
        rate=_rate(stream),
        stream=stream.index,
        streams=len(shown_streams(container)),
        size=(first.width, first.height) if turns % 2 else (first.height, first.width),
        mirrored=mirrored,
        container=container.format.name.split(",")[0],
        interlaced=bool(first.interlaced_frame),
        bits=max((component.bits for component in first.format.components), default=8),
    )


def _times(stamps: NDArray[np.int64], stream: VideoStream) -> NDArray[np.float64]:
    base = stream.time_base or Fraction(1)
    return (stamps - stamps[0]) * base.numerator / base.denominator


def _rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else 1.0


def refuse_for(decoder: str, path: Path, index: VideoIndex) -> None:
    """Files in which backends without a list of their own were seen to show wrong frames, without an error."""
    reason = ""
    if index.stamps is None:
        reason = "its timestamps do not tell its frames apart"
    elif index.container not in _SOUGHT_EXACTLY:
        reason = f"it does not find key frames in {index.container} files"
    elif index.container == "avi" and index.reordered:
        reason = ".avi files say nothing of the order in which B-frames are shown"
    elif index.leading or index.recovering:
        reason = "its groups of pictures are open"
    elif index.interlaced or index.bits > 8:
        kind = "interlaced frames" if index.interlaced else f"{index.bits} bits"
        reason = f"it turns {kind} into other colours"
    if reason:
        raise UndecodableVideoError(f"{path} is not for {decoder}: {reason}; use auto")


def _refuse_incomplete(path: Path) -> None:
    """Encrypted files decode to noise, and a download that broke off to a part of the video."""
    size = path.stat().st_size
    if size == 0:
        raise UndecodableVideoError(f"{path} cannot be decoded: it is empty (0 bytes)")
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith((b"#EXTM3U", b"ffconcat")):
            raise UndecodableVideoError(f"{path} cannot be decoded: it is a list of other files")
        if head[4:8] in _FIRST_BOXES:
            end, encrypted = _boxes(file, size)
        elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
            length = struct.unpack("<I", head[4:8])[0]  # 0 of recorders that broke off
            end, encrypted = (length + 8 if length < 2**31 else 0), False
        else:
            return
    if encrypted:
        raise UndecodableVideoError(f"{path} is encrypted (Common Encryption); decrypt it first")
    if end > size:
        raise UndecodableVideoError(f"{path} is cut off: it has {size} of {end} bytes; fetch it again")


def _boxes(file: BinaryIO, size: int) -> tuple[int, bool]:
    """Of an .mp4 or .mov (ISO 14496-12): where its pictures and their index end, and whether a track is encrypted."""
    end, position, encrypted = 0, 0, False
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length == 1:
            length = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0]
        if kind == b"moov":
            content = file.read(min(length or size, size))
            at = content.find(b"stsd")
            while at >= 0 and not encrypted:  # version, flags, count and size of the first entry, then its name
                encrypted = content[at + 16 : at + 20] == b"encv"
                at = content.find(b"stsd", at + 4)
        if length < 8:  # 0: up to the end of the file
            break
        position += length
        if kind in (b"mdat", b"moov"):
            end = max(end, position)
    return end, encrypted


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """How a frame is to be shown: mirrored left and right if so, then turned clockwise by so many quarters.

    From the display matrix of its file: a point (x, y), y down, goes to (a x + c y, b x + d y).
    """
    from av.sidedata.sidedata import Type

    data = cast("Mapping[Type, Buffer]", frame.side_data).get(Type.DISPLAYMATRIX)
    if data is None:
        return 0, False
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.atan2(b - c, a + d) / (math.pi / 2)) % 4, mirrored


def picture(frame: VideoFrame) -> NDArray[np.uint8]:
    """A decoded frame as it is shown, ``(H, W, 3)`` RGB."""
    turns, mirrored = orientation(frame)
    pixels: NDArray[np.uint8] = np.asarray(frame.to_ndarray(format="rgb24", **_one_thread()), np.uint8)
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.rot90(pixels, k=-turns) if turns else pixels


@functools.cache
def _one_thread() -> dict[str, Any]:
    """From version 17 on PyAV starts threads for every frame, which takes longer than to convert a small one."""
    return {"threads": 1} if _version() >= 17 else {}


@functools.cache
def _version() -> int:
    """The first number of PyAV's version."""
    import av

    return int(av.__version__.split(".")[0])
