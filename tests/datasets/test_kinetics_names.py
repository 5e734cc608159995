"""The names of Kinetics-400's classes, against what is published of them."""

import hashlib

from stvit.datasets.video.kinetics import kinetics400_names


def test_the_names_are_those_of_the_published_list_in_its_order():
    """The digest is of a published label file, small letters and digits alone, so that spelling does not count."""
    names = kinetics400_names()
    assert len(names) == len(set(names)) == 400
    assert (names[0], names[399]) == ("abseiling", "zumba")
    bare = ["".join(c for c in name.lower() if c.isalnum()) for name in names]
    digest = hashlib.sha256("\n".join(bare).encode()).hexdigest()
    assert digest == "5fadbe2d1fcb0b5f6cb98de4f2231810c2a8262f8b79f0bc5fc4c363dd140623"
