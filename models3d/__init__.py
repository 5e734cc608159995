if not __name__.startswith("stvit."):
    raise ImportError(
        "import stvit.models3d, not models3d: the repository root is on sys.path; run from elsewhere or with python -P"
    )

from stvit.models3d import mixformer as mixformer
from stvit.models3d import mixvit as mixvit
from stvit.models3d import mpvit as mpvit
from stvit.models3d import mvitv2 as mvitv2
from stvit.models3d import predictors as predictors
