"""Hub: upload the folder of a result to huggingface.co, and fetch it."""

from __future__ import annotations

from pathlib import Path

from surgery.errors import BadFile, BadValue, SurgeryError
from surgery.serialization.model_folder import STEPS, WEIGHTS, read_steps, steps_file

CARD = "README.md"
# Only these files are uploaded and fetched.
FILES = (WEIGHTS, STEPS, "masks.safetensors", "recipe.toml", "result.json", CARD)


def push_to_hub(folder: str | Path, repo: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload a saved folder to the repository `repo` ("user/name") of the hub; returns its address.

    The repository is created if needed, private unless `private=False`. One commit uploads the weights,
    `surgery.json`, the masks, `recipe.toml` and `result.json` if present, and a card: the folder's, or a new one.
    Nothing else in the folder is uploaded. `token` needs write access; by default it is that of `hf auth login`.

    Raises:
        BadFile: `folder` was not written by `surgery.save`, or does not contain the name of its model.
        BadValue: the repository exists and is public, although `private` is True; or an invalid name.
        SurgeryError: the hub cannot be reached, or rejects the request.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HFValidationError

    source = Path(folder)
    if read_steps(source)["model"] is None:
        raise BadFile(
            f"{source} does not say which model it is, so it could not be loaded.", try_="surgery.save(..., name=...)"
        )
    additions = [
        CommitOperationAdd(
            path_in_repo=name, path_or_fileobj=str(steps_file(source) if name == STEPS else source / name)
        )
        for name in FILES
        if name != CARD and (name == STEPS or (source / name).is_file())
    ]
    additions.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=_card(source).encode()))
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        # An existing repository keeps its visibility.
        if private and not api.repo_info(made.repo_id).private:
            raise BadValue(f"{made.repo_id} is public.", try_="another repository, or private=False")
        api.create_commit(made.repo_id, additions, commit_message="A result of activation-surgery")
    except HFValidationError as error:
        raise BadValue(
            f"{repo!r} is not the name of a repository.", asked=_first_line(error), try_="user/name"
        ) from error
    except OSError as error:
        raise _refused(repo, error) from error
    return str(made)


def check_repo(repo: str) -> None:
    """Check the name of a repository, without a request to the hub.

    Raises:
        BadValue: an invalid name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadValue(
            f"{repo!r} is not the name of a repository.", asked=_first_line(error), try_="user/name"
        ) from error


def pull(repo: str) -> Path:
    """Fetch the files of a result from the repository "user/name" or "user/name@revision"; returns their folder.

    Files are cached by huggingface_hub, and reused, even offline.

    Raises:
        BadValue: an invalid name.
        SurgeryError: the hub cannot be reached, or rejects the request.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = repo.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise BadValue(
            f"{repo!r} is not the name of a repository.", asked=_first_line(error), try_="user/name"
        ) from error
    except OSError as error:
        raise _refused(repo, error) from error


def _card(folder: Path) -> str:
    from recipes.runs.model_card import MARK, card

    file = folder / CARD
    there = file.read_text(encoding="utf-8") if file.is_file() else ""
    # A card may have been edited; a README that is not a card is not published.
    return there if MARK in there else card(folder)


def _refused(repo: str, error: OSError) -> SurgeryError:
    return SurgeryError(
        f"the request to the hub for {repo} failed.", asked=_first_line(error), try_="hf auth login, or token="
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
