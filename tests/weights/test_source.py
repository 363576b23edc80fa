"""Names: a path stays a path, a hub id goes to the hub, and a typing error gets a hint."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from frog.errors import ModelError
from frog.weights import hub
from frog.weights.source import is_hub_id, list_tensors


@pytest.fixture
def no_network(monkeypatch):
    """Fails where anything is asked of the hub."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the hub was asked for {args}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)


@pytest.mark.parametrize(
    "name", ["gpt2", "org/name", "org/name@main", "org/name@refs/pr/1", "a-b/c.d_e-1B", "x@v1.0"]
)
def test_hub_ids(name):
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "./model",
        "/model",
        "../model",
        "~/model",
        "a/b/c",
        "a\\b",
        "model.safetensors",
        "org/model.safetensors",
        "weights.pt",
        "model.safetensors.index.json",
        "-x",
        "name with blanks",
        "org/",
        "@main",
    ],
)
def test_names_that_are_no_hub_ids(name):
    assert not is_hub_id(name)


def test_a_local_path_never_asks_the_hub(tmp_path, monkeypatch, no_network):
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    assert len(list_tensors(tmp_path.name).tensors) == 1
    with pytest.raises(ModelError, match="no such file or folder"):
        list_tensors(f"{tmp_path.name}/absent")
    with pytest.raises(ModelError, match=r"Did you mean '[^']+'\? A model is"):
        list_tensors(f"{tmp_path.name}/model.safetensor")


def test_missing_path_gets_the_nearest_name(tmp_path, no_network):
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"Did you mean '.*model\.safetensors'") as caught:
        list_tensors(tmp_path / "modle.safetensors")
    assert caught.value.exit_code == 4
    with pytest.raises(ModelError, match="nor is there a folder"):
        list_tensors(tmp_path / "no" / "where.pt")
    with pytest.raises(ModelError, match="no such file"):
        list_tensors("")


@pytest.mark.parametrize("name", ["x" * 5000 + "/y/z", "~nobody-at-all/model", "a\0b", "/", "."])
def test_strange_names_are_refused(name, tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        list_tensors(name)


def test_file_of_an_unknown_kind(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match=r"notes\.txt is not a file that FROG reads"):
        list_tensors(tmp_path / "notes.txt")


def fake_hub(monkeypatch, folder, files):
    """A hub that holds ``files`` (name -> bytes); returns the calls that were made."""
    calls = []

    def download(repository, *, revision, allow_patterns, ignore_patterns):
        calls.append((repository, revision, tuple(allow_patterns)))
        for name, content in files.items():
            path = Path(name)
            if any(path.match(p) for p in allow_patterns) and not any(
                path.match(p) for p in ignore_patterns
            ):
                (folder / name).write_bytes(content)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_hub_model_is_listed_under_its_name(tmp_path, monkeypatch):
    source = tmp_path / "source.safetensors"
    save_file({"w": torch.zeros(2, 2)}, source)
    folder = tmp_path / "cache"
    folder.mkdir()
    files = {"model.safetensors": source.read_bytes(), "config.json": b"{}"}
    files |= {"pytorch_model.bin": b"not fetched", "consolidated.safetensors": b"not fetched"}
    calls = fake_hub(monkeypatch, folder, files)
    listed = list_tensors("org/name@v2")
    assert listed.path == "org/name@v2"
    assert [x.name for x in listed.tensors] == ["w"]
    assert calls == [("org/name", "v2", ("*.json", "*.safetensors"))]
    assert sorted(x.name for x in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_hub_model_without_safetensors_comes_as_bin(tmp_path, monkeypatch):
    torch.save({"w": torch.zeros(2, 2)}, tmp_path / "source")
    folder = tmp_path / "cache"
    folder.mkdir()
    files = {"pytorch_model.bin": (tmp_path / "source").read_bytes(), "training_args.bin": b"x"}
    calls = fake_hub(monkeypatch, folder, files)
    assert [x.name for x in list_tensors("org/name").tensors] == ["w"]
    assert [x[2][1] for x in calls] == ["*.safetensors", "*.safetensors", "*.bin"]


def test_hub_model_without_weights(tmp_path, monkeypatch):
    fake_hub(monkeypatch, tmp_path, {"config.json": b"{}"})
    with pytest.raises(ModelError, match="no weights at its top level"):
        list_tensors("org/name")


def answer(kind):
    """An error of the hub's client as it raises them."""
    if issubclass(kind, errors.HfHubHTTPError):
        response = SimpleNamespace(headers={}, request=None, status_code=404)
        return kind("no", response=response)
    return kind("no")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.RepositoryNotFoundError, "neither a file or folder here nor a model on the hub"),
        (errors.GatedRepoError, "accept its terms"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
        (errors.LocalEntryNotFoundError, "hf download org/name"),
        (errors.OfflineModeIsEnabled, "hf download org/name"),
        (ConnectionError, "hf download org/name"),
    ],
)
def test_hub_errors_say_what_to_do(monkeypatch, kind, words):
    def download(*args, **kwargs):
        raise answer(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=words) as caught:
        hub.fetch("org/name@v9")
    assert caught.value.exit_code == 4


def test_offline_and_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        hub.fetch("org/surely-not-cached")


def test_files_are_read_without_importing_torch(tmp_path):
    """A cold start is a tenth of a second without torch and seconds with it."""
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    program = (
        "import sys; from frog.weights.source import list_tensors; "
        f"t = list_tensors({str(tmp_path)!r}).tensors[0]; t.decode(t.codes()); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
