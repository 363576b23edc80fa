"""Models of the Hugging Face hub: a name becomes a folder in its cache."""

from __future__ import annotations

from pathlib import Path

from frog.errors import ModelError

_ATTEMPTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # "consolidated" is a second copy of the same weights in its maker's own names.
    ("*.safetensors", ("*/*", "consolidated*")),
    ("*.safetensors", ("*/*",)),
    ("*.bin", ("*/*", "training_args.bin")),
)


def fetch(name: str) -> Path:
    """The folder with the files of ``org/name[@revision]``, fetched where they are not cached.

    Only JSON and safetensors are fetched, ``.bin`` where there are no safetensors.
    ``HF_HUB_OFFLINE=1`` uses the cache alone. :class:`ModelError` where there is no such model,
    it needs a token, or it is not cached and the hub cannot be reached.
    """
    # The hub's client takes a while to import: only who names a hub id waits for it.
    from huggingface_hub import errors, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        for weights, ignored in _ATTEMPTS:
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision or None,
                    allow_patterns=["*.json", weights],
                    ignore_patterns=list(ignored),
                )
            )
            if any(folder.glob(weights)):
                return folder
    except errors.GatedRepoError as error:
        raise ModelError(
            f"'{name}' asks for a login: accept its terms on the hub, then run 'hf auth login'"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"'{repository}' has no revision '{revision}': name a branch, tag or commit"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ModelError(
            f"'{name}' is neither a file or folder here nor a model on the hub "
            "(a private one needs 'hf auth login')"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"'{name}' is no file or folder here, is not in the cache of the hub, and the hub "
            f"could not be reached ({_mode()}): fetch it where there is a network with "
            f"'hf download {repository}', or name a folder"
        ) from error
    raise ModelError(
        f"'{name}' has no weights at its top level (expected *.safetensors or *.bin): download it "
        "and name the folder that holds the weights"
    )


def _mode() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection"
