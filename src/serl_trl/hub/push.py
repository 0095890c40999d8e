"""Push a finished run to the Hub: serl-trl push outputs/mine

It takes the run's folder only, so that a push that failed after training is repeated by one command.
"""

import os
import shlex
import sys
import tempfile
from pathlib import Path

import httpx  # what huggingface_hub >= 1 speaks with, and whose errors it lets through
from huggingface_hub import HfApi, get_token
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..cli import COMMANDS, command_parser, one_sentence
from ..self_play.ledger import LEDGER_FOLDER
from ..training.checkpoints import TRAINER_STATE_FILE
from .card import add_repositories
from .instructions import read_instructions, write_dataset
from .privacy import PUBLIC_ONLY


_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors")

# Of huggingface_hub this package uses HfApi.whoami, HfApi.create_repo and HfApi.upload_folder, and the cards ModelCard
# and DatasetCard. These are the errors in which the first two end.
HUB_ERRORS = (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.TransportError)


def check_run(run: str | os.PathLike) -> None:
    """Raise `ValueError` if a folder holds no finished run."""
    path = Path(run)
    if not path.is_dir():
        raise ValueError(f"There is no folder {str(run)!r}. Name the output_dir of a run.")
    has_model = any(file for pattern in _WEIGHTS for file in path.glob(pattern))
    if has_model and (path / TRAINER_STATE_FILE).is_file():
        if (path / "README.md").is_file():
            return
        raise ValueError(
            f"{str(run)!r} has a model, but no card. Name the output_dir of the whole run; in Python, call "
            "trainer.create_model_card() after training."
        )
    if (path / LEDGER_FOLDER).is_dir():
        raise ValueError(
            f"The run in {str(run)!r} is not finished: it has no model yet. Train on with --resume_from_checkpoint "
            "true, and push then."
        )
    raise ValueError(f"{str(run)!r} holds no run: no model, card and trainer_state.json. Name the output_dir of one.")


def check_account(token: str | None = None) -> None:
    """Raise `ValueError` if the Hub is not reached or does not know the token, by default that of the environment."""
    try:
        HfApi(token=token).whoami()
    except HUB_ERRORS as error:
        raise ValueError(f"push_to_hub is True, but {reason(error)}") from error


def push(
    run: str | os.PathLike,
    hub_model_id: str | None = None,
    private: bool | None = True,
    push_instructions: bool = False,
    revision: str | None = None,
) -> str:
    """Push the model of a finished run with its card, and its instructions before it, if asked for.

    A repository that exists keeps its visibility. What has not changed since an earlier push is not sent again. Returns
    the URL of the model.

    Args:
        run (`str` or `PathLike`): The run's folder.
        hub_model_id (`str`, *optional*): The repository, e.g. `"me/mine"`; by default the name of the folder.
        private (`bool`, *optional*): Whether new repositories are private; `None` asks the account.
        push_instructions (`bool`): Whether to push the ledger without the seeds' text, as `hub_model_id-instructions`.
        revision (`str`, *optional*): The branch of the model's repository, `main` by default.

    Raises:
        ValueError: As in [`check_run`] and [`read_instructions`], before anything is pushed.
        Exception: whatever the Hub, the network, the disk or Xet may bring; see [`reason`].
    """
    check_run(run)
    record, rows = read_instructions(run) if push_instructions else (None, [])
    api = HfApi(library_name="serl-trl")
    url = api.create_repo(hub_model_id or Path(run).resolve().name, private=private, exist_ok=True)
    dataset_id = None
    if push_instructions:
        dataset_id = f"{url.repo_id}-instructions"
        api.create_repo(dataset_id, repo_type="dataset", private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(record, rows, folder, url.repo_id)
            api.upload_folder(
                repo_id=dataset_id, repo_type="dataset", folder_path=folder, commit_message="Instructions"
            )
    add_repositories(Path(run) / "README.md", url.repo_id, dataset_id)
    api.upload_folder(
        repo_id=url.repo_id,
        folder_path=run,
        commit_message="End of training",
        revision=revision,
        **PUBLIC_ONLY,
    )
    return str(url)


def push_command(
    run: str | os.PathLike,
    hub_model_id: str | None,
    private: bool | None = True,
    push_instructions: bool = False,
    revision: str | None = None,
) -> str:
    """Return the command that does the same as [`push`]; a repository is private unless `private` is `False`."""
    options = ["--hub_model_id", hub_model_id] if hub_model_id else []
    options += ["--hub_revision", revision] if revision else []
    options += ["--push_instructions"] if push_instructions else []
    options += ["--public"] if private is False else []
    return shlex.join(["serl-trl", "push", str(run), *options])


def push_or_exit(run: str | os.PathLike, hub_model_id: str | None, **settings) -> None:
    """Push as [`push`] does and say where to; a failure ends in the reason and the command that repeats the push."""
    try:
        url = push(run, hub_model_id, **settings)
    except (Exception, KeyboardInterrupt) as error:  # a run of hours is behind it: the command is said in any case
        command = push_command(run, hub_model_id, **settings)
        said = f"error: The model is saved in {run}, but not pushed: {reason(error)}\nTo push it: {command}"
        sys.exit(f"\n{said}")  # below a progress bar that was not closed
    print(f"Pushed to {url}")


def reason(error: BaseException) -> str:
    """Return in one sentence why a push failed, and what to do."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # huggingface_hub wraps what happened to a large file
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or (status == 401 and get_token() is None):
        return "there is no token of the Hub. Run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted."
    if isinstance(error, HFValidationError):
        return f"that is no name of a repository. Add --hub_model_id. ({error})"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set. Unset it."
    if status == 401:
        return "the Hub does not know the token (401). Run `hf auth login`, or set HF_TOKEN to one that may write."
    if status == 403:
        return "the token may not write there (403). Use one that may, or set hub_model_id to a repository of yours."
    if status is not None and status >= 500:
        return f"the Hub answered {status}. Try again later."
    if isinstance(error, httpx.TransportError):
        return f"{ENDPOINT} is not reached ({type(error).__name__}: {error}). Check the network."
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def run(arguments: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the arguments (`sys.argv` by default) and push."""
    parser = command_parser(prog=prog, usage="%(prog)s RUN [...]", description=COMMANDS["push"][1])
    parser.add_argument("run", metavar="RUN", help="The output_dir of a finished run.")
    parser.add_argument("--hub_model_id", help="The repository, e.g. me/mine. If unset, the folder's name.")
    parser.add_argument("--hub_revision", help="The branch of the model's repository. If unset, main.")
    parser.add_argument(
        "--push_instructions",
        action="store_true",
        help="Also push the ledger, without the seeds' text, as a dataset HUB_MODEL_ID-instructions.",
    )
    parser.add_argument("--public", action="store_true", help="Make new repositories public; they are private else.")
    args = parser.parse_args(arguments)
    with one_sentence():
        check_run(args.run)
        if args.push_instructions:
            read_instructions(args.run)
    settings = {"push_instructions": args.push_instructions, "revision": args.hub_revision}
    push_or_exit(args.run, args.hub_model_id, private=not args.public, **settings)
