if not __name__.startswith("stvit."):
    raise ImportError(
        "import stvit.datasets, not datasets: the repository root is on sys.path; run from elsewhere or with python -P"
    )

from stvit.datasets.digits import Digits, load_digits
from stvit.datasets.frame_sequences import FrameSequences, open_frame_sequences
from stvit.datasets.image_folder import ImageBatch, ImageFolder, ImageList, list_images, read_image
from stvit.datasets.moving_mnist import MovingMNIST, MovingMNISTSpec, SequenceBatch
from stvit.datasets.moving_mnist_device import DeviceMovingMNIST
from stvit.datasets.moving_mnist_splits import Splits, moving_mnist_splits
from stvit.datasets.sampling import EpochBatchSampler, batch_loader

__all__ = [
    "DeviceMovingMNIST",
    "Digits",
    "EpochBatchSampler",
    "FrameSequences",
    "ImageBatch",
    "ImageFolder",
    "ImageList",
    "MovingMNIST",
    "MovingMNISTSpec",
    "SequenceBatch",
    "Splits",
    "batch_loader",
    "list_images",
    "load_digits",
    "moving_mnist_splits",
    "open_frame_sequences",
    "read_image",
]
