import hashlib
import os

import pytest
import torch

from algorithms.contracts.errors import DataError
from algorithms.contracts.model_package import NetworkSpec
from algorithms.networks import build_network
from algorithms.training import TrainingState
from site_agent.checkpoints import file_sha256, load_state, load_weights, save_state, save_weights


def weights(seed: int) -> dict[str, torch.Tensor]:
    return build_network(NetworkSpec(base_channels=2, levels=2), seed=seed).state_dict()


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one)


def test_weights_come_back_bit_by_bit_whatever_their_memory_layout(tmp_path) -> None:
    laid_out = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in weights(1).items()
    }
    for name, stored in (("a", weights(1)), ("b", laid_out)):
        save_weights(stored, tmp_path / name)
        assert_same(load_weights(tmp_path / name), weights(1))
    assert file_sha256(tmp_path / "a") == file_sha256(tmp_path / "b")


def test_a_training_state_comes_back_whole(tmp_path) -> None:
    state = TrainingState(17, weights(1), {"head.weight": torch.ones(2, 2)}, weights(2), 1 / 3)
    save_state(state, tmp_path / "new" / "checkpoint")
    found = load_state(tmp_path / "new" / "checkpoint")
    assert found is not None
    assert (found.iteration, found.best_score) == (17, 1 / 3)
    for part in ("weights", "moments", "best_weights"):
        assert_same(getattr(found, part), getattr(state, part))


def test_a_state_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path) -> None:
    for iteration in (1, 2):
        save_state(TrainingState(iteration, weights(iteration)), tmp_path / "checkpoint")
    found = load_state(tmp_path / "checkpoint")
    assert found is not None
    assert found.iteration == 2
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_the_content_is_on_the_disk_before_the_name_is_given(tmp_path, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    save_weights(weights(1), tmp_path / "a")
    assert synced == [(tmp_path / "a").stat().st_ino]


def test_without_a_file_there_is_no_state(tmp_path) -> None:
    assert load_state(tmp_path / "checkpoint") is None


def test_a_damaged_checkpoint_counts_as_none(tmp_path, caplog) -> None:
    file = tmp_path / "checkpoint"
    save_state(TrainingState(17, weights(1)), file)
    whole = file.read_bytes()
    for damaged in (b"", whole[:-5], whole.replace(b"progress", b"prograss")):
        file.write_bytes(damaged)
        assert load_state(file) is None
    assert caplog.text.count("starts anew") == 3


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04pickle?"])
def test_a_file_of_another_kind_is_named(tmp_path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_weights(file)


def test_the_hash_of_a_file(tmp_path) -> None:
    content = bytes(range(256)) * 9
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
