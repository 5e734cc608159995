"""Published weights, by the address that a model's row carries."""

from __future__ import annotations

from collections.abc import Sequence

from stvit.checkpoint import fetch
from stvit.checkpoint.fit import model_title
from stvit.checkpoint.load import load_into
from stvit.checkpoint.reader import read_checkpoint
from stvit.checkpoint.report import LoadReport
from stvit.errors import UserError
from stvit.model import Model
from stvit.registry import Weights


def load_pretrained(model: Model, weights: Sequence[Weights]) -> LoadReport:
    """Load the first of a model's published weights, downloaded once into torch.hub's folder.

    A model that was created with a ``num_classes`` of its own keeps its fresh head where the published one has another
    number of classes.

    Raises:
        UserError: no weights are published for it, or only behind a page that needs a browser; the message then says
            where to put the file. Also a file that is not what its digest says, or that does not fit.
        OSError: the network or the disk failed.
    """
    if not weights:
        raise UserError(f"no weights are published for {model_title(model)}: give checkpoint= a file")
    chosen = weights[0]
    path = fetch.cached_file(chosen.url)
    if chosen.browser_only and not path.exists():
        raise UserError(
            f"the weights of {model_title(model)} need a browser: open {chosen.url} and save the file as {path}"
        )
    path = fetch.fetch(chosen.url, chosen.sha256)
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        path.unlink()  # what came is no checkpoint; the next try must not find it
        raise UserError(f"{chosen.url} gave no checkpoint: {error}") from error
    return load_into(model, checkpoint, chosen.url, allow_new_head=bool(model.model_args.get("num_classes")))
