"""Videos as training data: decoding, lists of labelled files, which frames make a clip, and augmentation of clips."""

from stvit.datasets.video.clip_sampling import ClipSampling
from stvit.datasets.video.clip_transforms import ClipAugmentation
from stvit.datasets.video.clips import ClipBatch, EvaluationViews, TrainingClips, ViewBatch
from stvit.datasets.video.lists import VideoList, read_video_list, video_splits
from stvit.datasets.video.reading import VideoReader, open_video

__all__ = [
    "ClipAugmentation",
    "ClipBatch",
    "ClipSampling",
    "EvaluationViews",
    "TrainingClips",
    "VideoList",
    "VideoReader",
    "ViewBatch",
    "open_video",
    "read_video_list",
    "video_splits",
]
