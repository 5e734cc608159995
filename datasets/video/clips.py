"""Labelled videos as clips: augmented ones for training, all views of a video for evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stvit.datasets.image_transforms import AUGMENTATION_STREAM, sample_seed, seeded
from stvit.datasets.video.bad_videos import ON_BAD_VIDEO, BadVideo
from stvit.datasets.video.clip_sampling import ClipSampling, random_clip, view_clip
from stvit.datasets.video.clip_transforms import ClipAugmentation, training_clip, view_crops
from stvit.datasets.video.lists import VideoList
from stvit.datasets.video.reading import UndecodableVideoError, VideoReader, open_video
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing

# A clip's key: the video's number, or (epoch, number) in training.
Key = int | tuple[int, int]

# Of one seed, beside the streams of stvit.datasets.image_transforms: which frames, and which video for a bad one.
SAMPLING_STREAM = 2

_REPLACEMENTS = 10  # videos tried in the place of a bad one
_DECODED_BYTES = 128 * 2**20  # of frames in memory at once; more are decoded and cropped in parts


class ClipBatch(NamedTuple):
    """Augmented clips and where they came from."""

    clips: Tensor  # uint8 (B, 3, T, h, w)
    labels: Tensor  # int64 (B,)
    epoch: int
    indices: Tensor  # int64 (B,), numbers in the list; of a replaced video that of the one which is shown
    views: Tensor  # int64 (B,), which of the epoch's clips of its video each is, from 0
    bad: tuple[BadVideo, ...]


class ViewBatch(NamedTuple):
    """All test views of some videos."""

    clips: Tensor  # uint8 (n, views * crops, 3, T, h, w) of the n videos that could be decoded; the crops of a view
    # follow each other
    labels: Tensor  # int64 (n,)
    indices: Tensor  # int64 (n,), numbers in the list
    bad: tuple[BadVideo, ...]  # the other videos


class _Videos:
    """A list of videos and the decoder, and what is to be done about bad ones."""

    def __init__(self, videos: VideoList, decoder: str, on_bad: str, folder_fps: float) -> None:
        """``folder_fps``: of folders of frames, which say nothing of times, as in prediction."""
        if on_bad not in ON_BAD_VIDEO:
            raise UserError(f"DATA.ON_BAD_VIDEO is one of {', '.join(ON_BAD_VIDEO)}, not {on_bad!r}")
        self.videos, self.decoder, self.on_bad, self.folder_fps = videos, decoder, on_bad, folder_fps

    def open(self, index: int) -> VideoReader:
        """Raises :class:`UndecodableVideoError` also for what is not there or may not be read."""
        path = self.videos.path(index)
        try:
            return open_video(path, self.decoder, folder_fps=self.folder_fps)
        except UndecodableVideoError:
            raise
        except UserError as error:
            if _may_be_read(path):  # then it is about the decoder, and no video's fault
                raise
            raise UndecodableVideoError(str(error)) from error

    def bad(self, index: int, error: UndecodableVideoError) -> BadVideo:
        return BadVideo(index, self.videos.name(index), " ".join(str(error).split()))

    def refusal(self, index: int, error: UndecodableVideoError) -> UserError:
        where = self.videos.where(index)
        line = str(error) if where in str(error) else f"{where}: {error}"
        return UserError(
            f"{line}; with DATA.ON_BAD_VIDEO skip or replace training does without such videos and a test counts them "
            "as mistakes; tools/check_data.py finds them all"
        )


def _may_be_read(path: Path) -> bool:
    folder = path.is_dir()
    return (folder or path.is_file()) and os.access(path, os.R_OK | (os.X_OK if folder else 0))


class TrainingClips(Dataset[ClipBatch | UserError]):
    """The videos of a list as random clips, a video's ``views`` after each other.

    Keys are ``(epoch, index)``, and a loader gets whole batches. What is drawn at random is a function of (seed, epoch,
    index, view), so that workers, processes and a resumed run all see the same clips. The views of a video show the
    same frames, decoded once (SlowFast's AUG.NUM_SAMPLE). A loader's index may go on above the number of videos: there
    they come again, in other clips.
    """

    def __init__(
        self,
        videos: VideoList,
        sampling: ClipSampling,
        augmentation: ClipAugmentation,
        *,
        seed: int = 0,
        views: int = 1,
        decoder: str = "auto",
        on_bad: str = "raise",
    ) -> None:
        """``on_bad``: what a video that cannot be decoded does (DATA.ON_BAD_VIDEO).

        ``raise``: the batch is the mistake, a :class:`UserError`. ``skip``: the batch does without it, down to an empty
        one. ``replace``: others of the list, chosen at random, are tried in its place. Either way the batch tells of
        it.
        """
        self._videos = _Videos(videos, decoder, on_bad, sampling.target_fps)
        self.sampling, self.augmentation, self.seed, self.views = sampling, augmentation, seed, views

    def __len__(self) -> int:
        return len(self._videos.videos)

    def __getitem__(self, key: Key) -> ClipBatch | UserError:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> ClipBatch | UserError:
        """A batch; or the mistake that a video is, which a loader's worker hands over instead of a traceback."""
        clips: list[Tensor] = []
        indices: list[int] = []
        views: list[int] = []
        bad: list[BadVideo] = []
        epoch = 0
        for key in keys:
            epoch, index = key if isinstance(key, tuple) else (0, key)
            repeat, index = divmod(index, len(self))
            try:
                found = self._sample(epoch, repeat, index, bad)
            except UserError as error:
                return error
            if found is not None:
                clips += found[0]
                indices += [found[1]] * self.views
                views += range(repeat * self.views, (repeat + 1) * self.views)
        shown = torch.tensor(indices, dtype=torch.int64)
        labels = torch.from_numpy(self._videos.videos.labels)[shown]
        pixels = _stacked(clips, (self.sampling.frames, *self.augmentation.size))
        return ClipBatch(pixels, labels, epoch, shown, torch.tensor(views, dtype=torch.int64), tuple(bad))

    def _sample(self, epoch: int, repeat: int, index: int, bad: list[BadVideo]) -> tuple[list[Tensor], int] | None:
        """The views of a video, and the number of the video that they show."""
        shown = index
        first: UserError | None = None
        for trial in range(1 + _REPLACEMENTS):
            try:
                return self._views(epoch, repeat, index, shown), shown
            except UndecodableVideoError as error:
                if self._videos.on_bad == "raise":
                    raise self._videos.refusal(shown, error) from error
                bad.append(self._videos.bad(shown, error))
                if self._videos.on_bad == "skip":
                    return None
                first = first or error
            draw = sample_seed(self.seed, SAMPLING_STREAM, epoch, index, repeat * (1 + _REPLACEMENTS) + trial + 1)
            shown = draw % len(self)
        raise UserError(
            f"{self._videos.videos.where(index)}: {first}; and {_REPLACEMENTS} others of the list in its place could "
            "not be used either (DATA.ON_BAD_VIDEO replace): tools/check_data.py says what is wrong with the list"
        )

    def _views(self, epoch: int, repeat: int, index: int, shown: int) -> list[Tensor]:
        """Augmented clips ``(3, T, h, w)`` of video ``shown``, with the random numbers of video ``index``."""
        with self._videos.open(shown) as reader:
            with seeded(sample_seed(self.seed, SAMPLING_STREAM, epoch, index, repeat * (1 + _REPLACEMENTS))):
                numbers = random_clip(self.sampling, reader.times, reader.fps)
            first = repeat * self.views
            seeds = [
                sample_seed(self.seed, AUGMENTATION_STREAM, epoch, index, view)
                for view in range(first, first + self.views)
            ]
            parts: list[list[Tensor]] = [[] for _ in seeds]
            for frames in _in_parts(reader, numbers):
                for seed, view in zip(seeds, parts, strict=True):
                    with seeded(seed):  # the same draws for every part
                        view.append(training_clip(frames, self.augmentation))
        return [torch.cat(view, dim=1) if len(view) > 1 else view[0] for view in parts]


class EvaluationViews(Dataset[ViewBatch | UserError]):
    """The videos of a list, each with all its test views; keys are numbers of videos, and a loader gets batches.

    Another video never takes the place of a bad one: with ``on_bad`` other than ``raise`` the batch names it in
    ``bad``, and who evaluates has to count it.
    """

    def __init__(
        self,
        videos: VideoList,
        sampling: ClipSampling,
        preprocessing: Preprocessing,
        *,
        decoder: str = "auto",
        on_bad: str = "raise",
    ) -> None:
        """Views and crops are ``preprocessing.test_views`` and ``test_crops``."""
        self._videos = _Videos(videos, decoder, on_bad, sampling.target_fps)
        self.sampling, self.preprocessing = sampling, preprocessing

    def __len__(self) -> int:
        return len(self._videos.videos)

    def __getitem__(self, index: int) -> ViewBatch | UserError:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ViewBatch | UserError:
        """A batch; or the mistake that a video is."""
        clips: list[Tensor] = []
        decoded: list[int] = []
        bad: list[BadVideo] = []
        for index in indices:
            try:
                clips += self._views(index)
                decoded.append(index)
            except UndecodableVideoError as error:
                if self._videos.on_bad == "raise":
                    return self._videos.refusal(index, error)
                bad.append(self._videos.bad(index, error))
            except UserError as error:
                return error
        numbers = torch.tensor(decoded, dtype=torch.int64)
        labels = torch.from_numpy(self._videos.videos.labels)[numbers]
        batch = _stacked(clips, (self.sampling.frames, *self.preprocessing.input_size))
        views = self.preprocessing.test_views * self.preprocessing.test_crops
        return ViewBatch(batch.unflatten(0, (len(decoded), views)), labels, numbers, tuple(bad))

    def _views(self, index: int) -> list[Tensor]:
        """Clips ``(3, T, h, w)``, the crops of a view after each other; each frame is decoded and resized once."""
        views = self.preprocessing.test_views
        with self._videos.open(index) as reader:
            numbers = [view_clip(self.sampling, reader.times, reader.fps, view, views) for view in range(views)]
            distinct, places = np.unique(np.stack(numbers), return_inverse=True)
            parts = [view_crops(frames, self.preprocessing) for frames in _in_parts(reader, distinct)]
        crops = torch.cat(parts, dim=2)  # (crops, 3, distinct frames, h, w)
        chosen = torch.from_numpy(places.reshape(views, -1))
        return [crop[:, view] for view in chosen for crop in crops]


def _in_parts(reader: VideoReader, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The frames of these numbers, so many at once as memory should hold."""
    H, W = reader.size
    each = max(1, _DECODED_BYTES // (3 * H * W))
    for first in range(0, len(numbers), each):
        yield reader.read(numbers[first : first + each])


def _stacked(clips: list[Tensor], size: tuple[int, int, int]) -> Tensor:
    """Clips ``(3, T, h, w)`` to a batch, whose channels stay innermost in memory, as pictures have them; to move them
    is left to the device that the batch goes to.
    """
    if not clips:
        return torch.empty(0, 3, *size, dtype=torch.uint8)
    return torch.stack([clip.permute(1, 2, 3, 0) for clip in clips]).permute(0, 4, 1, 2, 3)
