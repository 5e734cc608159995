"""Prediction from files, arrays and tensors, with stand-ins for the networks."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stvit.datasets.image_transforms import evaluation_transform
from stvit.engine.classify_images import classify_image
from stvit.engine.predict import predict
from stvit.engine.predict_frames import predict_frames
from stvit.errors import UserError
from stvit.preprocessing import Preprocessing


class AddsATenth(nn.Module):
    """Predicts the last frame, brighter by 0.1 in every further frame; takes 3 frames and predicts 2."""

    model_name = "adds_a_tenth"

    def __init__(self, task: str = "prediction") -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(0.1))
        self.dropout = nn.Dropout(0.5)
        self.preprocessing = Preprocessing(task, (8, 8), 1, (0.0,), (1.0,), "bilinear", 1.0, 3, 2)

    def forward(self, frames: Tensor, out_frames: int | None = None) -> Tensor:
        assert frames.shape[1:] == (3, 1, 8, 8)
        assert frames.dtype == self.step.dtype
        steps = torch.arange(1, out_frames + 1)[:, None, None, None]
        return self.dropout(frames[:, -1:] + self.step * steps)


FRAMES = np.repeat(np.linspace(0, 0.7, 8, dtype=np.float32), 64).reshape(8, 1, 8, 8)  # frame t is 0.1 t everywhere


def values(frames: np.ndarray) -> list[float]:
    return frames[:, 0, 0, 0].tolist()


def test_the_last_frames_are_the_input_and_there_is_no_truth():
    result = predict(FRAMES, AddsATenth())
    assert values(result.past) == pytest.approx([0.5, 0.6, 0.7])
    assert values(result.predicted) == pytest.approx([0.8, 0.9])
    assert result.truth is None
    assert result.model_name == "adds_a_tenth"
    assert result.past.dtype == result.predicted.dtype == np.float32


def test_with_a_start_the_frames_after_the_input_are_the_truth():
    result = predict(torch.from_numpy(FRAMES), AddsATenth(), start=1)
    assert values(result.past) == pytest.approx([0.1, 0.2, 0.3])
    assert values(result.predicted) == pytest.approx([0.4, 0.5])
    assert values(result.truth) == pytest.approx([0.4, 0.5])


def test_the_truth_ends_with_the_source():
    result = predict(FRAMES, AddsATenth(), start=4, out_frames=3)
    assert len(result.predicted) == 3
    assert values(result.truth) == pytest.approx([0.7])
    assert predict(FRAMES, AddsATenth(), start=5).truth is None


def test_predictions_are_clipped_to_what_frames_can_be():
    assert values(predict(FRAMES, AddsATenth(), out_frames=5).predicted)[2:] == pytest.approx([1, 1, 1])


def test_a_file_gives_what_its_array_gives(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    assert np.array_equal(predict(tmp_path / "x.npy", AddsATenth()).predicted, predict(FRAMES, AddsATenth()).predicted)


def test_one_sequence_of_several_is_predicted():
    batch = np.stack([FRAMES, FRAMES[::-1]])
    assert values(predict(batch, AddsATenth(), sequence=1).past) == pytest.approx([0.2, 0.1, 0.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_frames_are_cast_to_the_precision_of_the_model(dtype):
    result = predict(FRAMES, AddsATenth().to(dtype))
    assert result.past.dtype == result.predicted.dtype == np.float32
    assert values(result.predicted) == pytest.approx([0.8, 0.9], abs=0.01)


def test_the_number_of_frames_may_be_numpy_s():
    assert len(predict(FRAMES, AddsATenth(), out_frames=np.int64(3)).predicted) == 3


@pytest.mark.parametrize("source", [None, [FRAMES[0], FRAMES[1]], 3])
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(UserError, match=f"a numpy array or a tensor, not from a {type(source).__name__}"):
        predict(source, AddsATenth())


def test_every_module_stays_in_the_mode_it_was_in():
    model = AddsATenth().train()
    model.dropout.eval()
    predict(FRAMES, model)
    assert model.training
    assert not model.dropout.training


def test_the_caller_s_array_is_left_alone():
    frames = FRAMES.copy()
    predict(frames, AddsATenth()).past[:] = 0
    assert np.array_equal(frames, FRAMES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 6}, "the array has 2 frames from frame 6 on; the model needs 3"),
        ({"start": -1}, "counts from 0; -1 is before it"),
        ({"out_frames": 0}, "out_frames must be a whole number of at least 1, not 0"),
        ({"out_frames": 2.0}, r"at least 1, not 2\.0"),
        ({"out_frames": "2"}, "at least 1, not '2'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        predict(FRAMES, AddsATenth(), **settings)


def test_a_source_that_is_too_short_is_refused():
    with pytest.raises(UserError, match="the array has 2 frames; the model needs 3"):
        predict(FRAMES[:2], AddsATenth())


def test_models_that_do_not_predict_frames_are_refused():
    with pytest.raises(UserError, match="'prediction'; this one's is 'classification'"):
        predict_frames(FRAMES, AddsATenth("classification"))
    with pytest.raises(UserError, match="Linear has no preprocessing"):
        predict(FRAMES, nn.Linear(1, 1))


def test_predictions_that_are_not_finite_are_refused():
    model = AddsATenth()
    model.step.data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite for the array"):
        predict(FRAMES, model)


def test_a_device_that_is_not_there_is_refused():
    for device in ("abacus", "meta"):
        with pytest.raises(UserError, match=f"device '{device}' cannot be used here: choose 'cpu'"):
            predict(FRAMES, AddsATenth(), device=device)


def test_a_checkpoint_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"there is no checkpoint nowhere\.pt"):
        predict(FRAMES, "nowhere.pt")


class SumsColours(nn.Module):
    """Its logits are ten times the mean of each colour, as it sees it; the fourth class is the least."""

    model_name = "sums_colours"

    def __init__(self, channels: int = 3, labels: tuple[str, ...] | None = ("red", "green", "blue"), logits: int = 4):
        super().__init__()
        self.scale, self.logits = nn.Parameter(torch.tensor(10.0)), logits
        self.preprocessing = Preprocessing(
            "classification", (8, 8), channels, (0.5,) * channels, (0.25,) * channels, labels=labels
        )

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (self.preprocessing.channels, 8, 8)
        colours = images.mean(dim=(2, 3)) * self.scale
        return nn.functional.pad(colours, (0, self.logits - colours.shape[1]), value=-99.0)


def coloured(H: int = 20, W: int = 30) -> np.ndarray:
    """Mostly green, then blue, then red; with a gradient so that resizing matters."""
    slope = np.linspace(0, 60, W)[None, :, None]
    return (np.broadcast_to([40, 180, 120], (H, W, 3)) + slope).astype(np.uint8)


def test_an_image_gets_its_most_probable_classes_with_names():
    result = predict(coloured(), SumsColours())
    assert result.labels == ("green", "blue", "red", "class 3")
    assert result.indices == (1, 2, 0, 3)
    assert list(result.probabilities) == sorted(result.probabilities, reverse=True)
    assert sum(result.probabilities) == pytest.approx(1)
    assert result.model_name == "sums_colours"
    assert predict(coloured(), SumsColours(), top_k=2).labels == ("green", "blue")


def test_probabilities_are_those_of_the_image_as_evaluation_prepares_it():
    model = SumsColours()
    prepared = evaluation_transform(model.preprocessing)(Image.fromarray(coloured()))
    expected = model(prepared[None])[0].softmax(dim=0).sort(descending=True).values
    assert list(predict(coloured(), model).probabilities) == pytest.approx(expected.tolist(), abs=1e-6)


def test_an_image_is_prepared_in_the_model_s_crop_mode():
    model, image = SumsColours(), coloured()
    image[:, :5] = 255  # cut off by a centre crop, kept where the image is squashed
    model.preprocessing = dataclasses.replace(model.preprocessing, crop_fraction=1.0)
    centre = predict(image, model).probabilities
    model.preprocessing = dataclasses.replace(model.preprocessing, crop_mode="squash")
    assert predict(image, model).probabilities != centre
    assert predict(image, model).probabilities[0] < centre[0]  # white is no colour more than another


def test_a_file_an_image_an_array_and_a_tensor_are_the_same(tmp_path):
    array = coloured()
    Image.fromarray(array).save(tmp_path / "x.png")
    expected = predict(tmp_path / "x.png", SumsColours()).probabilities
    channel_first = np.moveaxis(array, -1, 0)
    for source in (str(tmp_path / "x.png"), Image.fromarray(array), array, channel_first, torch.from_numpy(array)):
        assert predict(source, SumsColours()).probabilities == expected
    for source in (channel_first / 255, torch.from_numpy(channel_first.copy()).float() / 255):
        assert list(predict(source, SumsColours()).probabilities) == pytest.approx(list(expected), abs=0.02)


def test_grey_and_colours_are_made_into_what_the_model_takes():
    grey = coloured()[..., 0]
    assert predict(grey, SumsColours()).probabilities[:3] == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-3)
    one = SumsColours(channels=1, labels=("bright", "dark"), logits=2)
    for source in (coloured(), grey, Image.fromarray(coloured()), np.moveaxis(coloured() / 255, -1, 0)):
        assert predict(source, one).labels[0] == "bright"


def test_a_thousand_classes_without_names_are_those_of_imagenet():
    result = predict(coloured(), SumsColours(labels=None, logits=1000), top_k=1)
    assert result.labels == ("goldfish, Carassius auratus",)
    by_id = SumsColours(labels=("n01440764", "n01443537", "x"))
    assert predict(coloured(), by_id).labels == ("goldfish, Carassius auratus", "x", "tench, Tinca tinca", "class 3")


def test_a_classifier_of_another_precision_stays_in_its_mode():
    model = SumsColours().to(torch.float64).train()
    assert predict(coloured(), model).labels[0] == "green"
    assert model.training


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"has shape \(2, 3, 8, 8\): an image is \(H, W\)"),
        (np.zeros((3, 8, 3), np.uint8), r"has shape \(3, 8, 3\)"),
        (np.zeros((8, 8), np.int32), "holds int32: an image is uint8"),
        (np.full((8, 8), 1.5), r"floats from 1\.5 to 1\.5, not in \[0, 1\]"),
        (np.full((8, 8), np.nan), "floats from nan to nan"),
        ([1, 2], "not from a list"),
        ("nowhere.png", r"there is no image nowhere\.png"),
    ],
)
def test_what_is_no_image_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        predict(source, SumsColours())


@pytest.mark.parametrize(
    ("source", "model", "settings", "message"),
    [
        (coloured(), SumsColours(), {"start": 0}, "start=0 is for frame prediction"),
        (FRAMES, AddsATenth(), {"top_k": 3}, "top_k=3 is for classification"),
        (coloured(), SumsColours(), {"top_k": 0}, "top_k must be a whole number of at least 1, not 0"),
    ],
)
def test_settings_of_the_other_task_and_impossible_ones_are_refused(source, model, settings, message):
    with pytest.raises(UserError, match=message):
        predict(source, model, **settings)


def test_a_predictor_does_not_classify():
    with pytest.raises(UserError, match="adds_a_tenth predicts frames: this is for networks that classify images"):
        classify_image(coloured(), AddsATenth())


def test_a_video_given_to_a_network_of_images_is_named(tmp_path):
    (tmp_path / "x.mp4").write_bytes(bytes(100))
    with pytest.raises(UserError, match=r"x\.mp4 is a video by its name, and the network classifies images: give an"):
        predict(tmp_path / "x.mp4", SumsColours())


def test_logits_that_are_not_finite_are_refused():
    model = SumsColours()
    model.scale.data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite for the array; its weights may be broken"):
        predict(coloured(), model)
