"""Moving MNIST: the published motion to the bit, and sequences that depend on their key alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from stvit.datasets import DeviceMovingMNIST, Digits, EpochBatchSampler, MovingMNIST, MovingMNISTSpec, batch_loader
from stvit.datasets.moving_mnist import TEST_STREAM, VALIDATION_STREAM, Draws, corners, render
from stvit.errors import UserError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "moving_mnist_motion.npz"


@pytest.fixture(scope="module")
def digits() -> Digits:
    images = np.random.default_rng(0).integers(1, 256, (50, 28, 28), dtype=np.uint8)
    return Digits.of(images, "noise-train")


def small_digits(side: int, count: int = 7) -> Digits:
    return Digits.of(np.random.default_rng(1).integers(1, 256, (count, side, side), dtype=np.uint8), "small")


def published_draw() -> tuple[float, float, float]:
    """Start and direction in the published order: x, y, angle from Python's ``random``."""
    return random.random(), random.random(), random.random() * 2 * np.pi


def as_draws(start: list, angle: list, image: list) -> Draws:
    angles = np.array([angle])
    heading = np.stack([np.cos(angles), np.sin(angles)], 2)
    return Draws(np.array([len(angle)]), np.array([image]), np.array([start]), heading)


def naive_frames(draws: Draws, images: np.ndarray, spec: MovingMNISTSpec) -> np.ndarray:
    """Paste digit by digit and frame by frame, at the corners."""
    top, left = corners(draws, spec)
    frames = np.zeros((len(draws.shown), spec.frames, *spec.canvas), np.uint8)
    side = spec.digit_size
    for b, shown in enumerate(draws.shown):
        for k in range(shown):
            for t in range(spec.frames):
                box = frames[b, t, top[b, k, t] : top[b, k, t] + side, left[b, k, t] : left[b, k, t] + side]
                np.maximum(box, images[draws.image[b, k]], out=box)
    return frames


class TestPublishedFixture:
    def test_trajectories_are_reproduced_exactly(self):
        expected = np.load(FIXTURE)["trajectories"]
        for seed, trajectory in enumerate(expected):
            random.seed(seed)
            x, y, angle = published_draw()
            top, left = corners(as_draws([(x, y)], [angle], [0]), MovingMNISTSpec(n_digits=(1,)))
            assert np.array_equal(np.stack([top[0, 0], left[0, 0]], 1), trajectory), f"seed {seed}"

    def test_video_is_reproduced_exactly(self):
        fixture = np.load(FIXTURE)
        assert "random.seed(123)" in json.loads(str(fixture["meta"]))["rule"]
        k, i, j = np.ogrid[:10, :28, :28]
        images = ((11 * k + 7 * i + 3 * j) % 256).astype(np.uint8)
        random.seed(123)
        shown = random.choice([2])
        drawn = [(*published_draw(), random.randint(0, len(images) - 1)) for _ in range(shown)]
        draws = as_draws([d[:2] for d in drawn], [d[2] for d in drawn], [d[3] for d in drawn])
        assert np.array_equal(render(draws, images, MovingMNISTSpec())[0], fixture["video"])


class TestMotion:
    def test_a_digit_steps_before_it_is_recorded_and_bounces_at_the_edge(self):
        spec = MovingMNISTSpec(n_digits=(1,), image_size=(14, 24), digit_size=4, frames=5, step=0.25)
        draws = Draws(np.array([1]), np.zeros((1, 1), int), np.array([[[0.375, 0.5]]]), np.array([[[1.0, 0.0]]]))
        top, left = corners(draws, spec)
        assert left[0, 0].tolist() == [12, 17, 20, 15, 10]  # 20 pixels of travel: .625, .875, 1 (clamped), .75, .5
        assert top[0, 0].tolist() == [5] * 5

    def test_digits_stay_on_the_canvas(self, digits: Digits):
        spec = MovingMNISTSpec(image_size=(40, 70), frames=60, step=0.9)
        dataset = MovingMNIST(digits, spec, 100, seed=3)
        assert dataset.generate(0, np.arange(50)).shape == (50, 60, 40, 70)

    @pytest.mark.parametrize("image_size", [(64, 64), (48, 80), (28, 28), (28, 41), 37])
    @pytest.mark.parametrize("n_digits", [(1,), (2,), (1, 3)])
    def test_rendering_equals_pasting_one_by_one(self, digits: Digits, image_size, n_digits):
        spec = MovingMNISTSpec(n_digits=n_digits, image_size=image_size, frames=6)
        rng, n = np.random.default_rng(2), max(n_digits)
        angle = rng.uniform(0, 7, (9, n))
        draws = Draws(
            rng.choice(n_digits, 9),
            rng.integers(0, 50, (9, n)),
            rng.random((9, n, 2)),
            np.stack([np.cos(angle), np.sin(angle)], 2),
        )
        assert np.array_equal(render(draws, digits.images, spec), naive_frames(draws, digits.images, spec))


class TestSequencesDependOnTheirKeyAlone:
    def test_batch_composition_does_not_matter(self, digits: Digits):
        dataset = MovingMNIST(digits, MovingMNISTSpec(n_digits=(1, 2, 3)), 1000, seed=5)
        together = dataset.__getitems__([(4, i) for i in (9, 500, 3)])
        for position, index in enumerate((9, 500, 3)):
            alone = dataset[(4, index)]
            assert torch.equal(alone.frames[0], together.frames[position])
        assert together.epoch == 4
        assert together.indices.tolist() == [9, 500, 3]
        assert together.frames.shape == (3, 20, 1, 64, 64)
        assert together.frames.dtype == torch.uint8

    def test_pixels_of_a_key_never_change(self):
        """A change here needs a new GENERATOR_VERSION, or old cached test sets would pass for new ones."""
        images = np.arange(3 * 28 * 28, dtype=np.int64).reshape(3, 28, 28) % 251
        dataset = MovingMNIST(Digits.of(images.astype(np.uint8), "ramp"), MovingMNISTSpec(), 10, seed=42)
        assert Digits.of(dataset.generate(3, np.array([7]))[0], "frames").digest.startswith("56a67a5e1d4b7ee4")

    def test_epochs_seeds_and_streams_differ(self, digits: Digits):
        spec = MovingMNISTSpec(frames=2)
        sets = [
            MovingMNIST(digits, spec, 64, seed=0).generate(0, np.arange(64)),
            MovingMNIST(digits, spec, 64, seed=0).generate(1, np.arange(64)),
            MovingMNIST(digits, spec, 64, seed=1).generate(0, np.arange(64)),
            MovingMNIST(digits, spec, 64, seed=0, stream=VALIDATION_STREAM).generate(0, np.arange(64)),
            MovingMNIST(digits, spec, 64, seed=0, stream=TEST_STREAM).generate(0, np.arange(64)),
        ]
        sequences = {frames.tobytes() for group in sets for frames in group}
        assert len(sequences) == 5 * 64

    def test_fixed_sets_ignore_the_epoch(self, digits: Digits):
        dataset = MovingMNIST(digits, MovingMNISTSpec(), 10, seed=0, stream=VALIDATION_STREAM)
        assert torch.equal(dataset[(0, 3)].frames, dataset[(8, 3)].frames)

    def test_numbers_of_digits_are_chosen_evenly(self):
        spec = MovingMNISTSpec(n_digits=(1, 2), image_size=(60, 60), digit_size=1, frames=1)
        dots = Digits.of(np.full((1, 1, 1), 255, np.uint8), "dot")
        frames = MovingMNIST(dots, spec, 4000, seed=0).generate(0, np.arange(4000))
        share = (np.count_nonzero(frames, axis=(1, 2, 3)) == 2).mean()
        assert 0.46 < share < 0.54

    def test_starts_cover_the_canvas_evenly(self):
        spec = MovingMNISTSpec(n_digits=(1,), image_size=(8, 8), digit_size=1, frames=1, step=1e-9)
        dots = Digits.of(np.full((1, 1, 1), 1, np.uint8), "dot")
        counts = MovingMNIST(dots, spec, 49_000, seed=0).generate(0, np.arange(49_000)).astype(int).sum((0, 1))
        assert abs(counts[:7, :7] - 1000).max() < 150  # the last row and column are reached only on the edge itself
        assert counts[7].sum() + counts[:, 7].sum() == 0


class TestDevice:
    @pytest.mark.parametrize(
        "spec",
        [
            MovingMNISTSpec(),
            MovingMNISTSpec(n_digits=(1, 3), image_size=(40, 72), digit_size=28, frames=9),
            MovingMNISTSpec(n_digits=(1,), image_size=28, frames=3),
        ],
    )
    def test_tensor_operations_give_the_same_sequences(self, digits: Digits, spec: MovingMNISTSpec):
        dataset = MovingMNIST(digits, spec, 1000, seed=-7)
        device = DeviceMovingMNIST(digits, spec, seed=-7, device="cpu")
        for epoch in (0, 5):
            indices = torch.tensor([0, 999, 17, 3])
            batch = device.batch(epoch, indices)
            assert torch.equal(batch.frames, dataset.__getitems__([(epoch, i) for i in indices.tolist()]).frames)
            assert (batch.epoch, batch.indices.tolist()) == (epoch, indices.tolist())

    @pytest.mark.parametrize("sequences", [1, 6, 7, 1000])
    def test_batches_that_are_made_together_are_those_of_the_workers(self, digits, monkeypatch, sequences):
        spec = MovingMNISTSpec(n_digits=(1, 2), image_size=32, frames=4)
        monkeypatch.setattr("stvit.datasets.moving_mnist_device.PORTION", sequences * 2 * 4 * 32 * 32)
        sampler = EpochBatchSampler(23, 3)
        sampler.set_epoch(4, 2)  # as a run goes on inside an epoch
        device, asked = DeviceMovingMNIST(digits, spec, seed=5, device="cpu"), []
        make = device.batch
        monkeypatch.setattr(device, "batch", lambda epoch, indices: asked.append(len(indices)) or make(epoch, indices))
        made = list(device.batches(4, ([index for _, index in keys] for keys in sampler)))
        wanted = list(batch_loader(MovingMNIST(digits, spec, 23, seed=5), sampler, 0, False))
        assert len(made) == len(wanted) == 5
        assert asked == {1: [3] * 5, 6: [6, 6, 3], 7: [6, 6, 3], 1000: [15]}[sequences]
        for batch, other in zip(made, wanted, strict=True):
            assert torch.equal(batch.frames, other.frames)
            assert (batch.epoch, batch.indices.tolist()) == (4, other.indices.tolist())

    @pytest.mark.gpu
    def test_a_gpu_gives_the_same_sequences_without_waiting(self, digits: Digits):
        device = DeviceMovingMNIST(digits, MovingMNISTSpec(n_digits=(1, 2)), seed=1, device="cuda")
        indices = torch.arange(512, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            frames = device.batch(2, indices).frames
        finally:
            torch.cuda.set_sync_debug_mode("default")
        dataset = MovingMNIST(digits, MovingMNISTSpec(n_digits=(1, 2)), 512, seed=1)
        assert np.array_equal(frames.cpu().numpy()[:, :, 0], dataset.generate(2, np.arange(512)))

    def test_a_device_without_float64_is_refused(self, digits: Digits):
        with pytest.raises(UserError, match="mps"):
            DeviceMovingMNIST(digits, MovingMNISTSpec(), seed=0, device="mps")


class TestLoading:
    def test_workers_do_not_matter_and_need_not_be_told_of_the_epoch(self, digits: Digits):
        dataset = MovingMNIST(digits, MovingMNISTSpec(frames=4), 40, seed=5)
        sampler = EpochBatchSampler(40, batch_size=8, seed=5, shuffle=True)
        alone, workers = batch_loader(dataset, sampler), batch_loader(dataset, sampler, workers=2)
        first_frames = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            batches = list(zip(alone, workers, strict=True))
            assert len(batches) == 5
            for ours, theirs in batches:
                assert ours.epoch == theirs.epoch == epoch
                assert torch.equal(ours.indices, theirs.indices)
                assert torch.equal(ours.frames, theirs.frames)
            first_frames.append(batches[0][0].frames)
        assert not torch.equal(*first_frames)

    def test_loading_leaves_the_global_random_state_alone(self, digits: Digits):
        loader = batch_loader(MovingMNIST(digits, MovingMNISTSpec(frames=2), 8, seed=5), 4)
        state = torch.get_rng_state()
        assert [batch.indices.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert torch.equal(torch.get_rng_state(), state)


class TestMistakes:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"n_digits": ()}, "n_digits"),
            ({"n_digits": (0, 2)}, "at least 1"),
            ({"image_size": 20}, "28 pixels do not fit"),
            ({"image_size": (64, 20)}, "28 pixels do not fit"),
            ({"frames": 0}, "frames is 0"),
            ({"step": 0.0}, "step is 0.0"),
        ],
    )
    def test_impossible_settings_are_named(self, settings: dict, message: str):
        with pytest.raises(UserError, match=message) as error:
            MovingMNISTSpec(**settings)
        assert "\n" not in str(error.value)

    def test_digits_of_another_size_are_refused(self):
        with pytest.raises(UserError, match="20 pixels wide but the spec says 28"):
            MovingMNIST(small_digits(20), MovingMNISTSpec(), 10, seed=0)

    def test_an_index_past_the_end_ends_iteration(self, digits: Digits):
        dataset = MovingMNIST(digits, MovingMNISTSpec(frames=1), 3, seed=0)
        assert len(list(dataset)) == len(dataset) == 3
        with pytest.raises(IndexError, match="sequence 3 of 3"):
            dataset[3]

    def test_a_batch_of_two_epochs_is_refused(self, digits: Digits):
        with pytest.raises(ValueError, match="one epoch"):
            MovingMNIST(digits, MovingMNISTSpec(), 10, seed=0).__getitems__([(0, 1), (1, 1)])
