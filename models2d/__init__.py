if not __name__.startswith("stvit."):
    raise ImportError(
        "import stvit.models2d, not models2d: the repository root is on sys.path; run from elsewhere or with python -P"
    )

from stvit.models2d import mixformer as mixformer
from stvit.models2d import mixvit as mixvit
from stvit.models2d import mpvit as mpvit
from stvit.models2d import mvitv2 as mvitv2
