"""The hub: a closed list of files is uploaded, privately by default, and what is downloaded loads."""

import getpass
import os
import re
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

import recipes
import surgery
from recipes.models.build import build
from recipes.runs.hub import FILES, pull, push_to_hub
from surgery.errors import BadFile, BadValue, SurgeryError
from tests.asserts import assert_raises


class FakeHub:
    """A hub in memory that replaces HfApi."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.token: str | None = None
        self.error: Exception | None = None

    def __call__(self, *, token: str | None = None) -> "FakeHub":
        self.token = token
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        self.calls.append("create_repo")
        if self.error:
            raise self.error
        assert exist_ok
        self.private = private if self.private is None else self.private  # one that was there stays as it was
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str) -> None:
        self.calls.append("create_commit")
        assert len({operation.path_in_repo for operation in operations}) == len(operations)
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, _ = surgery.transform(build("cifar/resnet20"), surgery.erase_relu(share=0.5))
    surgery.save(model, tmp_path / "out", name="cifar/resnet20")
    (tmp_path / "out" / "recipe.toml").write_text("format = 1\n")
    for name in ("run.json", "log.csv", "last.pt", ".env", "model.safetensors.part"):
        (tmp_path / "out" / name).write_text("not for others")
    (tmp_path / "out" / "more").mkdir()
    (tmp_path / "out" / "more" / "model.safetensors").write_text("not for others")
    return tmp_path / "out"


def test_only_the_listed_files_are_uploaded(hub: FakeHub, folder: Path) -> None:
    address = push_to_hub(folder, "somebody/net", token="hf_x")
    assert address == "https://huggingface.co/somebody/net" and hub.token == "hf_x"
    assert set(hub.files) == {"model.safetensors", "surgery.json", "recipe.toml", "README.md"} < set(FILES)
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert b"# cifar/resnet20" in hub.files["README.md"]
    assert hub.calls == ["create_repo", "create_commit"]


def test_what_is_uploaded_names_no_path_no_user_and_no_machine(hub: FakeHub, folder: Path) -> None:
    push_to_hub(folder, "somebody/net")
    secrets = {str(folder), os.getcwd(), str(Path.home()), getpass.getuser(), socket.gethostname(), "not for others"}
    weights = hub.files.pop("model.safetensors")
    header = weights[8 : 8 + int.from_bytes(weights[:8], "little")]  # the rest is numbers, and may say anything
    for content in (header, *hub.files.values()):
        assert not [word for word in secrets if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", content.decode())]


def test_a_repository_is_private_unless_asked(hub: FakeHub, folder: Path) -> None:
    push_to_hub(folder, "somebody/net")
    assert hub.private is True
    hub.private = None
    push_to_hub(folder, "somebody/net", private=False)
    assert hub.private is False


def test_nothing_goes_into_a_public_repository_unasked(hub: FakeHub, folder: Path) -> None:
    hub.private = False
    assert_raises(BadValue, lambda: push_to_hub(folder, "somebody/net"), "somebody/net is public", "private=False")
    assert not hub.files
    push_to_hub(folder, "somebody/net", private=False)
    assert hub.files


def test_a_card_is_uploaded_as_it_was_edited_but_no_other_readme(hub: FakeHub, folder: Path) -> None:
    (folder / "README.md").write_text("# my diary")
    push_to_hub(folder, "somebody/net")
    assert b"diary" not in hub.files["README.md"] and b"library_name: activation-surgery" in hub.files["README.md"]
    (folder / "README.md").write_bytes(hub.files["README.md"] + b"\nA remark.\n")
    push_to_hub(folder, "somebody/net")
    assert hub.files["README.md"].endswith(b"A remark.\n")


@pytest.mark.slow
def test_a_folder_that_nobody_could_load_is_not_uploaded(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    assert_raises(BadFile, lambda: push_to_hub(tmp_path, "somebody/net"), "surgery.json")
    model, _ = surgery.transform(build("cifar/resnet20"), surgery.erase_relu())
    surgery.save(model, folder)
    assert_raises(BadFile, lambda: push_to_hub(folder, "somebody/net"), "which model it is", "name=")
    assert not hub.calls


def test_a_refusal_is_one_sentence(hub: FakeHub, folder: Path) -> None:
    hub.error = HFValidationError("a name has one slash\nand more")
    assert_raises(BadValue, lambda: push_to_hub(folder, "a/b/c"), "'a/b/c' is not the name", "one slash")
    hub.error = OSError("no route to host\nand more")
    caught = assert_raises(SurgeryError, lambda: push_to_hub(folder, "somebody/net"), "no route to host", "hf auth")
    assert "and more" not in str(caught)
    assert issubclass(HfHubHTTPError, OSError)  # errors of the hub itself are reported in the same way


@pytest.mark.slow
def test_a_result_is_loaded_from_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        (tmp_path / "cache").mkdir(exist_ok=True)
        for name in allow_patterns:
            if (folder / name).is_file():
                shutil.copy(folder / name, tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    x = torch.rand(2, 3, 32, 32)
    expected = recipes.load_model(folder).eval()(x)
    assert torch.equal(recipes.load_model("hf-hub:somebody/net").eval()(x), expected)
    assert torch.equal(build("hf-hub:somebody/net@v1").eval()(x), expected)
    assert {request[:2] for request in asked} == {("somebody/net", None), ("somebody/net", "v1")}
    assert all(request[2] == list(FILES) for request in asked)


def test_a_snapshot_in_the_cache_needs_no_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert_raises(SurgeryError, lambda: pull("somebody/net"), "the request to the hub")
    assert_raises(BadValue, lambda: pull("some body"), "not the name of a repository")
    snapshot = tmp_path / "cache" / "models--somebody--net" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    assert pull("somebody/net") == snapshot
