"""Lists of labelled videos, class folders, frame folders, and what is said of those that are wrong."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from stvit.datasets.video.class_folders import videos_below
from stvit.datasets.video.class_names import read_class_names
from stvit.datasets.video.list_lines import list_content
from stvit.datasets.video.lists import VideoList, list_class_folders, read_video_list, video_splits
from stvit.errors import UserError


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def videos(root: Path, *names: str) -> None:
    for name in names:
        write(root / name, b"")


def pairs(listed: VideoList) -> list[tuple[str, int]]:
    return [(listed.name(k), int(listed.labels[k])) for k in range(len(listed))]


def refused(path: Path, text: str | bytes, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read_video_list(write(path, text), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4 0\nb/c.avi 12\n", [("a.mp4", 0), ("b/c.avi", 12)]),
        ("a.mp4\t0\nmy b, c.mp4\t1", [("a.mp4", 0), ("my b, c.mp4", 1)]),
        ("a.mp4,0\nmy b.mp4,1", [("a.mp4", 0), ("my b.mp4", 1)]),
        ("a.mp4, 0\nx, b.mp4, 1", [("a.mp4", 0), ("x, b.mp4", 1)]),
        ("x, a.mp4 0\ny, b.mp4 1", [("x, a.mp4", 0), ("y, b.mp4", 1)]),
        ("clip 1,3\nclip 2,4", [("clip 1", 3), ("clip 2", 4)]),
        ("my clip.mp4 0\nb.mp4   1", [("my clip.mp4", 0), ("b.mp4", 1)]),
        (
            "\"my clip.mp4\" 0\n'your clip.mp4' 1\nit's.mp4 2",
            [("my clip.mp4", 0), ("your clip.mp4", 1), ("it's.mp4", 2)],
        ),
        ('"say ""hi"".mp4",1\nb.mp4,0', [('say "hi".mp4', 1), ("b.mp4", 0)]),
        ("\ufeffpath,label\r\na.mp4,0\r\n\r\nb.mp4,1\r\n", [("a.mp4", 0), ("b.mp4", 1)]),
        ("Video Label\na.mp4 0", [("a.mp4", 0)]),
        ("a.mp4 0\n".encode("utf-16"), [("a.mp4", 0)]),
        ("frames/0001 0\nframes/0002 1", [("frames/0001", 0), ("frames/0002", 1)]),
    ],
)
def test_a_list_is_read_by_the_separator_that_fits_it(tmp_path, text, expected):
    assert pairs(read_video_list(write(tmp_path / "train.csv", text))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 air drumming\nmy b.mp4 wave\n",
        "a.mp4,air drumming\nmy b.mp4,wave\n",
        "a.mp4\tair drumming\nmy b.mp4\twave\n",
        'a.mp4 "air drumming"\n"my b.mp4" wave\n',
        'file,class\n"a.mp4","air drumming"\nmy b.mp4,wave\n',
    ],
)
def test_labels_by_name_are_numbered_in_sorted_order(tmp_path, text):
    listed = read_video_list(write(tmp_path / "train.csv", text))
    assert pairs(listed) == [("a.mp4", 0), ("my b.mp4", 1)]
    assert listed.classes == ("air drumming", "wave")
    assert listed.class_name(1) == "wave"


def test_a_label_may_be_a_name_that_ends_in_a_number(tmp_path):
    listed = read_video_list(write(tmp_path / "train.csv", "k/a b.mp4,class 1\nk/b.mp4,class 0\n"))
    assert pairs(listed) == [("k/a b.mp4", 1), ("k/b.mp4", 0)]


def test_a_given_separator_wins_over_what_the_list_looks_like(tmp_path):
    assert pairs(read_video_list(write(tmp_path / "a.csv", "a.mp4;0\nb.mp4;1"), separator=";")) == [
        ("a.mp4", 0),
        ("b.mp4", 1),
    ]
    assert "DATA.PATH_LABEL_SEPARATOR" in refused(tmp_path / "b.csv", "a.mp4 0\n", separator=",")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.mp4 0\nb.mp4\nc.mp4 2", ["train.csv:2: 'b.mp4'", "no label", "a space"]),
        ("a.mp4 0\nb.mp4 x\nc.mp4 2", ["train.csv:2: 'b.mp4 x'", "name", "DATA.LABEL_FILE"]),
        ("a.mp4 x\nb.mp4 y\nc.mp4 2", ["train.csv:3: 'c.mp4 2'", "a number"]),
        ("a.mp4 0\n\nb.mp4 -1\n", ["train.csv:3: 'b.mp4 -1'", "whole number"]),
        ("a.mp4 0.0\nb.mp4 1.0\n", ["train.csv:1", "0.0", "whole number"]),
        ("a.mp4 99999999999999999999\n", ["train.csv:1", "99999999999999999999"]),
        ("a b c\nd e f\n", ["train.csv:1: 'a b c'", "quotes"]),
        ("label,path\n0,a.mp4\n", ["train.csv:1", "path and label", "order"]),
        ("path,label,split\na.mp4,0,train\n", ["train.csv:1", "two"]),
        (
            'label,youtube_id,time_start,time_end,split,is_cc\n"air drumming",_axE99QAhe8,26,36,train,0\n',
            ["train.csv:1", "Kinetics' annotation file", "path"],
        ),
        ("", ["holds no videos"]),
        ("path label\n", ["holds no videos"]),
        (b"\x00\x01\x02", ["not a text file"]),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_with_its_line(tmp_path, text, words):
    message = refused(tmp_path / "train.csv", text)
    for word in words:
        assert word in message


def test_missing_lists_and_folders_in_their_place_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no list"):
        read_video_list(tmp_path / "train.csv")
    with pytest.raises(UserError, match="is a folder"):
        read_video_list(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_video_list(tmp_path / "pipe.csv")


def test_names_of_classes_let_a_list_have_names_and_numbers(tmp_path):
    path, classes = tmp_path / "val.csv", ("run", "wave")
    assert pairs(read_video_list(write(path, "a.mp4 wave\nb.mp4 0"), classes=classes)) == [("a.mp4", 1), ("b.mp4", 0)]
    assert "did you mean 'wave'" in refused(path, "a.mp4 run\nb.mp4 wvae", classes=classes)
    assert "0 to 1" in refused(path, "a.mp4 run\nb.mp4 2", classes=classes)


def test_paths_are_relative_to_the_list_the_prefix_or_home(tmp_path, monkeypatch):
    path = write(tmp_path / "lists/train.csv", "a.mp4 0\n/abs/b.mp4 1\n~/c.mp4 1\n")
    monkeypatch.setenv("HOME", "/home/someone")
    listed = read_video_list(path)
    assert [str(listed.path(k)) for k in range(3)] == [
        f"{tmp_path}/lists/a.mp4",
        "/abs/b.mp4",
        "/home/someone/c.mp4",
    ]
    assert read_video_list(path, root=Path("~/videos")).path(0) == Path("/home/someone/videos/a.mp4")
    assert [listed.where(k) for k in range(3)] == ["train.csv:1", "train.csv:2", "train.csv:3"]


@pytest.mark.skipif(os.name == "nt", reason="backslashes separate folders there")
def test_windows_paths_become_posix_ones_where_the_videos_are_there(tmp_path):
    path = tmp_path / "train.csv"
    videos(tmp_path, "wave/a.mp4")
    assert pairs(read_video_list(write(path, "wave\\a.mp4 0\nwave\\gone.mp4 0"))) == [
        ("wave/a.mp4", 0),
        ("wave/gone.mp4", 0),
    ]
    for text in (r"C:\data\a.mp4 0", "D:/data/a.mp4 0", r"\\server\share\a.mp4 0"):
        assert "path of Windows" in refused(path, text)
    write(tmp_path / r"odd\name.mp4", b"")
    assert pairs(read_video_list(write(path, "odd\\name.mp4 0"))) == [("odd\\name.mp4", 0)]


@pytest.mark.skipif(os.name == "nt", reason="file names are bytes on POSIX only")
def test_file_names_that_are_not_utf8_lead_to_their_files(tmp_path):
    listed = read_video_list(write(tmp_path / "train.csv", b"caf\xe9.mp4 0\n"))
    assert os.fsencode(listed.path(0)).endswith(b"/caf\xe9.mp4")
    assert listed.name(0) == r"caf\xe9.mp4"


def test_a_label_file_is_lines_numbered_lines_or_json(tmp_path):
    path = tmp_path / "names.txt"
    for text in (
        "air drumming\r\nwave\r\n\r\n",
        "0 air drumming\n1 wave\n",
        '{"wave": 1, "\\"air drumming\\"": 0}',
        '{"wave": "1", "air drumming": "0"}',
        '["air drumming", "wave"]',
    ):
        assert read_class_names(write(path, text)) == ("air drumming", "wave")
    assert read_class_names(write(path, "3 pointer\n10 pins\n")) == ("3 pointer", "10 pins")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no class names"),
        ("a\n\nb\n", "names.txt:2"),
        ("a\nb\na\n", "'a' twice, as numbers 0 and 2"),
        ("1 run\n2 wave\n", "numbered from 1"),
        ("1\n2\n", "could mean either"),
        ('{"run": 1, "wave": 2}', "not 0 to 1"),
        ('{"run": 0, "wave": 0}', "not 0 to 1"),
        ('{"run": [0]}', "name: number"),
        ('{"run": 0', "not valid JSON"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_a_label_file_that_leaves_numbers_open_is_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        read_class_names(write(tmp_path / "names.txt", text))


def test_class_folders_hold_videos_in_any_depth_and_folders_of_frames(tmp_path):
    videos(tmp_path, "run/a.MP4", "run/more/b.webm", "run/notes.txt", "run/.hidden.mp4", "wave/c.avi", "wave/d/1.jpg")
    videos(tmp_path, "wave/d/2.jpg")
    listed = list_class_folders(tmp_path)
    assert pairs(listed) == [("run/a.MP4", 0), ("run/more/b.webm", 0), ("wave/c.avi", 1), ("wave/d", 1)]
    assert listed.classes == ("run", "wave")
    assert listed.path(3) == tmp_path / "wave/d"
    assert listed.where(0) == str(tmp_path / "run/a.MP4")
    assert videos_below(tmp_path / "wave") == [b"c.avi", b"d"]


def test_class_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        list_class_folders(tmp_path / "train")
    with pytest.raises(UserError, match="holds no folders"):
        list_class_folders(tmp_path)
    videos(tmp_path, "run/a.mp4", "wave/readme.txt")
    with pytest.raises(UserError, match="wave holds no videos"):
        list_class_folders(tmp_path)
    with pytest.raises(UserError, match="run is none of the 1 classes"):
        list_class_folders(tmp_path, ("wave",))
    assert pairs(list_class_folders(tmp_path, ("jump", "run", "wave"))) == [("run/a.mp4", 1)]
    videos(tmp_path, "wave/1.jpg")
    with pytest.raises(UserError, match="wave holds images"):
        list_class_folders(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    videos(tmp_path, "run/a.mp4")
    real = os.scandir

    def scandir(folder):
        if Path(folder).name == "run":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read everything, and tests may run as root
    with pytest.raises(UserError, match="run may not be read: Permission denied"):
        list_class_folders(tmp_path)


def three_parts(root: Path) -> None:
    videos(root, *(f"{name}.mp4" for name in "abcdef"))
    write(root / "train.csv", "a.mp4 wave\nb.mp4 run\n")
    write(root / "val.csv", "c.mp4 run\n")
    write(root / "test.tsv", "d.mp4\twave\n")


def test_parts_are_lists_whose_classes_the_training_list_decides(tmp_path):
    three_parts(tmp_path)
    splits = video_splits(tmp_path, training=True, testing=True)
    assert [pairs(part) for part in (splits.train, splits.validation, splits.test)] == [
        [("a.mp4", 1), ("b.mp4", 0)],
        [("c.mp4", 0)],
        [("d.mp4", 1)],
    ]
    assert splits.classes == ("run", "wave")
    assert not splits.validation_is_test
    only = video_splits(tmp_path, training=False, testing=True)
    assert only.train is only.validation is None
    assert pairs(only.test) == [("d.mp4", 1)]
    write(tmp_path / "val.csv", "c.mp4 jump\n")
    with pytest.raises(UserError, match=r"val\.csv:1: 'c\.mp4 jump': the class 'jump' is none of the 2"):
        video_splits(tmp_path, training=True, testing=False)


def test_testing_takes_the_validation_part_where_there_is_no_other(tmp_path):
    three_parts(tmp_path)
    (tmp_path / "test.tsv").unlink()
    splits = video_splits(tmp_path, training=True, testing=True)
    assert splits.test is splits.validation
    assert splits.validation_is_test
    assert video_splits(tmp_path, training=False, testing=True).validation_is_test
    write(tmp_path / "test.txt", "c.mp4 run\n")
    assert video_splits(tmp_path, training=True, testing=True).validation_is_test, "the same videos again"
    write(tmp_path / "val.csv", "c.mp4 run\na.mp4 wave\n")
    write(tmp_path / "test.txt", "a.mp4 wave\nc.mp4 run\n")
    assert video_splits(tmp_path, training=True, testing=True).validation_is_test, "in another order"
    (tmp_path / "val.csv").unlink()
    with pytest.raises(UserError, match=r"neither a list val.csv .* nor class folders val/CLASS/"):
        video_splits(tmp_path, training=True, testing=False)


def test_parts_may_be_class_folders_and_lists_come_first(tmp_path):
    videos(tmp_path, "train/run/a.mp4", "train/wave/b.mp4", "val/wave/c.mp4")
    splits = video_splits(tmp_path, training=True, testing=True)
    assert pairs(splits.validation) == [("wave/c.mp4", 1)]
    assert splits.classes == ("run", "wave")
    assert pairs(video_splits(tmp_path, training=False, testing=True).test) == [("wave/c.mp4", 1)]
    write(tmp_path / "train.txt", "train/wave/b.mp4 wave\n")
    assert pairs(video_splits(tmp_path, training=True, testing=False).train) == [("train/wave/b.mp4", 0)]
    write(tmp_path / "train.csv", "train/wave/b.mp4 wave\n")
    with pytest.raises(UserError, match=r"train.csv and train.txt: remove all but one"):
        video_splits(tmp_path, training=True, testing=False)


def test_files_of_the_same_names_in_val_and_test_folders_are_not_the_same_videos(tmp_path):
    for part in ("train", "val", "test"):
        videos(tmp_path / part, "run/1.mp4", "wave/1.mp4")
    assert not video_splits(tmp_path, training=True, testing=True).validation_is_test
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test").symlink_to("val")
    assert video_splits(tmp_path, training=True, testing=True).validation_is_test, "the same folder by another name"


def test_a_label_file_names_the_classes_of_lists_and_folders(tmp_path):
    names = write(tmp_path / "names.txt", "jump\nwave\nrun\n")
    videos(tmp_path, "train/run/a.mp4", "train/wave/b.mp4")
    write(tmp_path / "val.csv", "train/run/a.mp4 2\ntrain/wave/b.mp4 wave\n")
    splits = video_splits(tmp_path, training=True, testing=False, label_file=str(names))
    assert pairs(splits.train) == [("run/a.mp4", 2), ("wave/b.mp4", 1)]
    assert pairs(splits.validation) == [("train/run/a.mp4", 2), ("train/wave/b.mp4", 1)]
    assert splits.classes == ("jump", "wave", "run")
    with pytest.raises(UserError, match="there is no label file"):
        video_splits(tmp_path, training=True, testing=False, label_file=str(tmp_path / "gone.txt"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is not a text file of class names"):
        video_splits(tmp_path, training=True, testing=False, label_file=str(tmp_path / "pipe"))


def test_a_list_file_alone_can_be_tested_but_not_trained_on(tmp_path):
    three_parts(tmp_path)
    splits = video_splits(tmp_path / "val.csv", training=False, testing=True)
    assert pairs(splits.test) == [("c.mp4", 0)]
    with pytest.raises(UserError, match="training needs a folder"):
        video_splits(tmp_path / "val.csv", training=True, testing=True)


def test_a_folder_without_parts_is_refused_by_what_it_looks_like(tmp_path):
    def message(root: Path) -> str:
        with pytest.raises(UserError) as caught:
            video_splits(root, training=True, testing=True)
        return str(caught.value)

    assert "there is no folder" in message(tmp_path / "gone")
    assert "neither a list train.csv" in message(tmp_path)
    videos(tmp_path, "data/train/run/a.mp4", "data/val/run/b.mp4", "classes/run/a.mp4")
    assert f"its parent {tmp_path / 'data'}" in message(tmp_path / "data/train")
    assert "neither train nor val" in message(tmp_path / "classes")


def test_a_list_whose_paths_all_lead_nowhere_is_refused_before_any_work(tmp_path, monkeypatch):
    write(tmp_path / "lists/val.csv", "".join(f"k/{n}.mp4 0\n" for n in range(50)))

    def message() -> str:
        with pytest.raises(UserError) as caught:
            video_splits(tmp_path / "lists", training=False, testing=True)
        return str(caught.value)

    assert f"val.csv:1: {tmp_path}/lists/k/0.mp4 is not there" in message()
    assert "DATA.PATH_PREFIX" in message()
    videos(tmp_path, *(f"k/{n}.mp4" for n in range(50)))
    monkeypatch.chdir(tmp_path)
    assert "DATA.PATH_PREFIX ." in message()
    assert len(video_splits(tmp_path / "lists", training=False, testing=True, prefix=".").test) == 50
    write(tmp_path / "lists/val.csv", "imgs 5 127\n")
    assert "without a number of frames" in message()


def test_identity_is_equal_for_the_same_videos_with_the_same_labels_alone(tmp_path):
    def identity(text: str) -> dict[str, object]:
        return read_video_list(write(tmp_path / "train.csv", text)).identity()

    first = identity("a.mp4 0\nb.mp4 1\n")
    assert identity("path,label\na.mp4,0\nb.mp4,1\n") == first
    assert json.loads(json.dumps(first)) == first
    others = [identity(text) for text in ("a.mp4 0\nb.mp4 0\n", "a.mp4 0\nc.mp4 1\n", "b.mp4 1\na.mp4 0\n")]
    assert len({other["files_sha256"] for other in [first, *others]}) == 4


def test_a_written_list_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "clean.csv"
    for rows in (
        [("a.mp4", "0"), ("b/c.mp4", "1")],
        [("my a.mp4", "air drumming"), ('x, "y".mp4', "wave")],
        [("a.mp4", "opening, closing"), ("b c.mp4", "run")],
    ):
        write(path, list_content([(os.fsencode(name), label) for name, label in rows]))
        listed = read_video_list(path)
        assert [(listed.name(k), listed.class_name(k)) for k in range(len(rows))] == rows
    assert list_content([(b"a.mp4", "0")]) == b"a.mp4 0\n", "as SlowFast reads it"


def test_a_long_list_is_read_in_seconds(tmp_path):
    path = write(tmp_path / "train.csv", "".join(f"k400/a/clip_{k:06d}_000010.mp4 {k % 400}\n" for k in range(60_000)))
    start = time.process_time()
    listed = read_video_list(path)
    assert len(listed) == 60_000
    assert time.process_time() - start < 2, "240,000 lines take a second; this is a quarter of them on a slow machine"
