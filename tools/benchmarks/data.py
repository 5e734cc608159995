"""What a core makes of videos: decoding by each backend, augmentation, and the whole loader, in turns."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from benchmarks.timing import median_seconds
from numpy.typing import NDArray

from stvit.datasets.image_transforms import AUGMENTATION_STREAM, sample_seed, seeded
from stvit.datasets.video.clip_sampling import ClipSampling, random_clip
from stvit.datasets.video.clip_transforms import ClipAugmentation, training_clip
from stvit.datasets.video.clips import SAMPLING_STREAM, TrainingClips
from stvit.datasets.video.lists import VideoList, read_video_list
from stvit.datasets.video.pyav_index import forget_indices
from stvit.datasets.video.reading import open_video
from stvit.errors import UserError

PLAIN = ClipAugmentation((224, 224), auto_augment="", color_jitter=0.0)
RECIPE = ClipAugmentation((224, 224))
# Height, width and frames from key frame to key frame of the files that are made.
MADE = [(256, 340, 250), (256, 340, 12), (720, 1280, 250), (720, 1280, 12)]
FRAMES, FPS = 300, 30


class Clip(NamedTuple):
    """A clip of a video, as training draws it."""

    path: Path
    numbers: NDArray[np.int64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", type=Path, metavar="FILE", help="videos to decode (path label); default: made ones")
    parser.add_argument("--clips", nargs="+", default=["16x4", "32x3"], metavar="FRAMESxRATE")
    parser.add_argument("--decoders", nargs="+", default=["auto", "decord", "torchcodec"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=11, help="alternations; each decodes other clips")
    parser.add_argument("--small", action="store_true", help="of the made files only those of 340x256")


def measure(args: argparse.Namespace) -> None:
    """Videos: clips per second and core of decoding by each backend, of augmentation, and of the whole loader."""
    samplings = [clip_sampling(clip) for clip in args.clips]
    print(
        f"clips a second of one core (CPU time, medians of {args.rounds} in turns; every file is opened as a new one)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, videos in workloads(args.list, Path(folder), args.small):
            for sampling in samplings:
                report(name, videos, sampling, args.decoders, args.rounds)


def clip_sampling(clip: str) -> ClipSampling:
    frames, _, rate = clip.partition("x")
    if not (frames.isdigit() and rate.isdigit() and int(frames) and int(rate)):
        raise UserError(f"--clips takes frames and rate like 16x4, not {clip!r}")
    return ClipSampling(int(frames), rate=int(rate))


def workloads(list_file: Path | None, folder: Path, small: bool) -> Iterator[tuple[str, VideoList]]:
    """Names and lists of what is decoded."""
    if list_file is not None:
        yield str(list_file), read_video_list(list_file)
        return
    for height, width, gop in MADE[: 2 if small else None]:
        file = folder / f"{height}_{gop}.mp4"
        write_moving_texture(file, height, width, gop)
        listed = folder / f"{height}_{gop}.csv"
        listed.write_text(f"{file.name} 0\n")
        yield f"{width}x{height}, a key frame every {gop} frames", read_video_list(listed)


def write_moving_texture(path: Path, height: int, width: int, gop: int) -> None:
    """Blocks that move, with sharp noise on a quarter of the picture: about as hard to decode as a filmed scene."""
    import av

    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (height // 16 + 8, width // 16 + 24, 3), dtype=np.uint8)
    ground = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    noise = draw.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(
            "libx264", rate=Fraction(FPS), options={"g": str(gop), "preset": "veryfast", "crf": "23"}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for t in range(FRAMES):
            picture = ground[t // 3 : t // 3 + height, t : t + width].copy()
            spot = picture[height // 4 : height // 4 + len(noise), width // 4 : width // 4 + noise.shape[1]]
            spot[:] = spot // 2 + np.roll(noise, (t, 2 * t), (0, 1)) // 4
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def report(name: str, videos: VideoList, sampling: ClipSampling, decoders: list[str], rounds: int) -> None:
    """Print the table of one list and one kind of clip."""
    first = training_clip_of(videos, sampling, 0)
    with open_video(first.path) as reader:
        frames = reader.read(first.numbers)
    contestants: dict[str, Callable[[], object]] = {}
    for decoder in decoders:
        contestants[f"decode {decoder}"] = each_clip(partial(decode, videos, sampling, decoder))
    if "decord" in decoders:
        contestants["decord alone"] = each_clip(partial(decord_alone, videos, sampling))
    for kind, augmentation in (("crop and flip", PLAIN), ("RandAugment", RECIPE)):
        contestants[kind] = each_clip(partial(augment, frames, augmentation, len(videos)))
        for decoder in decoders:
            clips = TrainingClips(videos, sampling, augmentation, decoder=decoder)
            contestants[f"loader {decoder}, {kind}"] = each_clip(partial(load, clips, videos))
    seconds = median_seconds(contestants, rounds)
    print(f"{name}; clips of {sampling.frames}x{sampling.rate}")
    for contestant, value in seconds.items():
        kind, _, rest = contestant.partition(" ")
        share = ""
        if kind == "loader":
            share = f"{seconds['decode ' + rest.split(',')[0]] / value:8.0%} of decoding alone"
        elif contestant.startswith("decode") and "decord alone" in seconds:
            share = f"{seconds['decord alone'] / value:8.2f} times decord alone"
        print(f"  {contestant:34}{1 / value:8.1f}{1000 * value:8.1f} ms{share}")


def each_clip(work: Callable[[int], object]) -> Callable[[], object]:
    """``work`` on clip 0, 1, 2, ... of one call after the other, so that all contestants see the same clips."""
    counter = itertools.count()
    return lambda: work(next(counter))


def training_clip_of(videos: VideoList, sampling: ClipSampling, k: int) -> Clip:
    """The ``k``-th clip that TrainingClips draws with seed 0."""
    epoch, index = divmod(k, len(videos))
    path = videos.path(index)
    with open_video(path) as reader, seeded(sample_seed(0, SAMPLING_STREAM, epoch, index, 0)):
        return Clip(path, random_clip(sampling, reader.times, reader.fps))


def decode(videos: VideoList, sampling: ClipSampling, decoder: str, k: int) -> object:
    epoch, index = divmod(k, len(videos))
    path = videos.path(index)
    forget_indices()
    with open_video(path, decoder) as reader:
        with seeded(sample_seed(0, SAMPLING_STREAM, epoch, index, 0)):
            numbers = random_clip(sampling, reader.times, reader.fps)
        return reader.read(numbers)


def decord_alone(videos: VideoList, sampling: ClipSampling, k: int) -> object:
    """decord without any check."""
    import decord

    epoch, index = divmod(k, len(videos))
    reader = decord.VideoReader(str(videos.path(index)), num_threads=1)
    fps = reader.get_avg_fps()
    with seeded(sample_seed(0, SAMPLING_STREAM, epoch, index, 0)):
        numbers = random_clip(sampling, np.arange(len(reader)) / fps, fps)
    return reader.get_batch(numbers.tolist()).asnumpy()


def augment(frames: NDArray[np.uint8], augmentation: ClipAugmentation, videos: int, k: int) -> object:
    with seeded(sample_seed(0, AUGMENTATION_STREAM, *divmod(k, videos), 0)):  # what the loader draws for that clip
        return training_clip(frames, augmentation)


def load(clips: TrainingClips, videos: VideoList, k: int) -> object:
    epoch, index = divmod(k, len(videos))
    forget_indices()
    batch = clips[(epoch, index)]
    if isinstance(batch, UserError):
        raise batch
    return batch
