"""Models in folders and on the Hugging Face Hub, as ``huggingface_hub.PyTorchModelHubMixin`` keeps them.

A folder holds ``model.safetensors``, ``config.json`` and ``README.md``, the model card. The configuration has what
builds the model again: ``model`` (``name`` and ``args``) and ``preprocessing``.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from torch import nn

from stvit.builtin import is_builtin
from stvit.checkpoint.load import load_into, unwrap_model
from stvit.checkpoint.model_file import describe_model, described_model, model_from_checkpoint
from stvit.checkpoint.reader import read_checkpoint
from stvit.checkpoint.save import save_safetensors
from stvit.errors import UserError
from stvit.model import Model

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def save_pretrained(model: nn.Module, folder: str | PathLike[str]) -> Path:
    """Write a model into a folder, for :func:`from_pretrained` and for the Hub.

    Args:
        model: built by :func:`stvit.create_model`; also wrapped by DistributedDataParallel or torch.compile.
        folder: made if missing. The model's files in it are replaced; a model card that is there already stays.

    Returns:
        The folder.

    Raises:
        UserError: a module that create_model did not build, or a file where the folder should be.
        OSError: the folder cannot be written.
    """
    described = describe_model(model)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder for the model")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # so that no moment joins one model's description to another's weights
    save_safetensors(folder / WEIGHTS, unwrap_model(model).state_dict())
    (folder / CONFIG).write_text(json.dumps({"library_name": "stvit", **described}, indent=2) + "\n", encoding="utf-8")
    if not (folder / CARD).exists():
        (folder / CARD).write_text(_card(described), encoding="utf-8")
    return folder


def from_pretrained(
    source: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Model:
    """The model of a folder, of a Hub repository, of one of stvit's own checkpoints or the one that stvit ships.

    It is in evaluation mode.

    Args:
        source: a folder that :func:`save_pretrained` wrote, a Hub id such as ``"name/model"``, a checkpoint file
            that stvit wrote, as :func:`stvit.checkpoint.model_from_checkpoint` takes it, or ``"builtin"``
            (:mod:`stvit.builtin`; your own folder of this name is ``"./builtin"``).
        revision: branch, tag or commit of the Hub repository; with the others, as in ``huggingface_hub``.
        cache_dir: where downloads are kept.
        force_download: download even if it is there already.
        local_files_only: use what has been downloaded before.
        token: for private repositories; None for the one of ``hf auth login``.

    Raises:
        UserError: none of these, files that are missing, damaged or not stvit's, or a model that this stvit does not
            know.
        OSError: the network or the disk failed.
    """
    folder = Path(source).expanduser()
    if is_builtin(source) or folder.is_file():
        model = model_from_checkpoint(source)
        assert isinstance(model, Model)
        return model
    if not folder.is_dir():
        folder = _downloaded(
            str(source),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{source} holds no {name}: it is not a folder that save_pretrained wrote")
    config = _read_config(folder / CONFIG)
    model = described_model(config.get("model"), config.get("preprocessing"), str(folder / CONFIG))
    load_into(model, read_checkpoint(folder / WEIGHTS), str(folder / WEIGHTS))
    assert isinstance(model, Model)
    return model.eval()


def is_pretrained(source: str | PathLike[str]) -> bool:
    """Whether a source is a folder that holds what :func:`save_pretrained` writes."""
    folder = Path(source).expanduser()
    return not is_builtin(source) and all((folder / name).is_file() for name in (CONFIG, WEIGHTS))


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str = "Push model using stvit",
    branch: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a model to a Hub repository, which is made if missing.

    Returns:
        The address of the commit.

    Raises:
        UserError: a module that create_model did not build, an impossible id, or a refusal by the Hub.
        OSError: the network failed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    describe_model(model)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=save_pretrained(model, folder),
                commit_message=commit_message,
                revision=branch,
            )
        except (HfHubHTTPError, HFValidationError) as error:
            raise UserError(f"{repo_id} cannot be written to the Hub: {_line(error)}") from error
    return str(commit)


def _downloaded(
    repo_id: str,
    *,
    revision: str | None,
    cache_dir: str | PathLike[str] | None,
    force_download: bool,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    if not _HUB_ID.fullmatch(repo_id):
        raise UserError(
            f"there is no folder or checkpoint {repo_id}, and it is no id of the Hub, which looks like name/model"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            repo_id,
            allow_patterns=[CONFIG, WEIGHTS],
            revision=revision,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{repo_id} is neither a folder or checkpoint nor a model on the Hub: {_line(error)}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise OSError(f"{repo_id} is no folder and cannot be had from the Hub: {_line(error)}") from error
    return Path(folder)


def _read_config(file: Path) -> dict[str, object]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # also bytes that are not text
        raise UserError(f"{file} is no JSON ({_line(error)}): copy or download it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a {type(config).__name__}, not what save_pretrained wrote")
    return config


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _card(described: Mapping[str, object]) -> str:
    header = described["model"]
    name = header["name"] if isinstance(header, Mapping) else ""
    return (
        "---\nlibrary_name: stvit\ntags:\n- pytorch_model_hub_mixin\n- model_hub_mixin\n---\n\n"
        f"`{name}` of stvit, which is installed from a copy of its repository: `pip install /path/to/stvit`.\n\n"
        '```python\nimport stvit\n\nmodel = stvit.from_pretrained("this folder or its Hub id")\n```\n'
    )
