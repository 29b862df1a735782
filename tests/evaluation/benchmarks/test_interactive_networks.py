from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from algorithms.contracts.errors import DataError
from algorithms.interactive_network import InteractiveNetwork, InteractiveNetworkSpec, from_bytes
from algorithms.interactive_training import PRESETS, click_schedule
from evaluation.benchmarks import interactive_networks as networks
from evaluation.benchmarks import shape_phantoms
from evaluation.benchmarks.image_packs import PACK_TARGETS

PATIENTS = tuple(f"p{i}" for i in range(1, 7))
HELD_BACK = {"p3", "p6"}


def ball(shape: tuple[int, ...] = (4, 32, 32), radius: float = 7.0) -> np.ndarray:
    """A cylinder through all slices, of about pi radius**2 pixels each."""
    y, x = (np.arange(n) - n // 2 for n in shape[-2:])
    return np.broadcast_to(np.add.outer(y**2, x**2) <= radius**2, shape).copy()


def write_case(packs: Path, name: str, patient: str, mask: np.ndarray, code: int = 1, **more):
    """Write a bright target on noise as a case of the pack."""
    target = PACK_TARGETS[name]
    file = packs / target.folder / f"{patient}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(list(file.parent.iterdir()))).normal(0, 20, mask.shape)
    image, label = (noise + 100 * mask).astype(np.int16), mask.astype(np.uint8) * code
    if target.swapped:
        image, label = image.transpose(2, 1, 0), label.transpose(2, 1, 0)
    np.savez(file, image=image, label=label, **more)
    return file


def write_packs(packs: Path, *names: str, patients: tuple[str, ...] = PATIENTS) -> None:
    """Write packs of one target per patient."""
    for name in names:
        for index, patient in enumerate(patients):
            code = PACK_TARGETS[name].codes[0]
            write_case(packs, name, patient, ball(radius=6.0 + 0.5 * index), code)


def make_tiny(monkeypatch: pytest.MonkeyPatch, iterations: int = 6, save_every: int = 2) -> None:
    """Shrink the phantom pools and the networks of the preset 'cpu'."""
    monkeypatch.setattr(networks, "PHANTOMS", {2: 3, 3: 2})
    monkeypatch.setattr(shape_phantoms, "SHAPES", {2: (48, 48), 3: (16, 28, 28)})
    schedule = click_schedule(iterations, batch_size=2, learning_rate=1e-2, save_every=save_every)
    for dimensions, shape in ((2, (16, 16)), (3, (8, 16, 16))):
        spec = InteractiveNetworkSpec(
            dimensions=dimensions, input_shape=shape, base_channels=2, levels=2
        )
        monkeypatch.setitem(PRESETS, ("cpu", dimensions), (spec, schedule))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(monkeypatch)


def assert_same(one: InteractiveNetwork, other: InteractiveNetwork) -> None:
    assert one.spec == other.spec
    for (name, a), (_, b) in zip(
        one.module.state_dict().items(), other.module.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def differ(one: InteractiveNetwork, other: InteractiveNetwork) -> bool:
    weights = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in weights)


# -- one file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_is_trained_into_its_file(tiny, tmp_path, dimensions) -> None:
    file = tmp_path / "deep" / "net.safetensors"
    seen = []
    network = networks.train_network(
        file,
        dimensions=dimensions,
        encoding="box",
        iterations=3,
        progress=lambda *a: seen.append(a),
    )
    assert network.spec.dimensions == dimensions
    assert network.spec.encoding == "box"
    assert not network.module.training
    assert [(i, n) for i, n, _ in seen] == [(2, 3), (3, 3)]
    assert all(0 < loss < 1 for _, _, loss in seen)
    assert_same(from_bytes(file.read_bytes()), network)
    assert [f.name for f in file.parent.iterdir()] == ["net.safetensors"]


def test_a_file_that_is_there_is_read(tiny, tmp_path, monkeypatch) -> None:
    file = tmp_path / "net.safetensors"
    trained = networks.train_network(file, dimensions=2, iterations=3)
    before = file.read_bytes()

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(networks, "train_resumably", never)
    monkeypatch.setattr(networks, "shape_phantoms", never)
    assert_same(networks.train_network(file, dimensions=2, iterations=3), trained)
    assert file.read_bytes() == before
    # What it was trained as has to be what is asked for: figures must not name other settings.
    with pytest.raises(DataError, match="other settings than today's: remove it"):
        networks.train_network(file, dimensions=2, encoding="box")
    assert file.read_bytes() == before


def test_only_the_exponential_map_is_trained_with_its_length_weight(tmp_path, monkeypatch) -> None:
    make_tiny(monkeypatch)
    spec, schedule = PRESETS[("cpu", 2)]
    weighed = spec.model_copy(update={"encoding_length_weight": 0.3})
    monkeypatch.setitem(PRESETS, ("cpu", 2), (weighed, schedule))
    found = {
        encoding: networks.train_network(
            tmp_path / encoding, dimensions=2, encoding=encoding, iterations=1
        ).spec.encoding_length_weight
        for encoding in ("egd", "geodesic")
    }
    assert found == {"egd": 0.3, "geodesic": 0.0}


def test_a_file_that_is_no_network_is_refused(tiny, tmp_path) -> None:
    (tmp_path / "net.safetensors").write_bytes(b"no network")
    with pytest.raises(DataError, match="train-interactive"):
        networks.train_network(tmp_path / "net.safetensors", dimensions=2)
    assert (tmp_path / "net.safetensors").read_bytes() == b"no network"


@pytest.mark.parametrize("name", ["net.checkpoint", "net.part", "net"])
def test_whatever_its_name_the_network_is_kept(tiny, tmp_path, name) -> None:
    try:
        trained = networks.train_network(tmp_path / name, dimensions=2, iterations=1)
    except DataError:
        return  # refusing a name is as good
    assert_same(from_bytes((tmp_path / name).read_bytes()), trained)


def test_seed_and_packs_change_the_weights(tiny, tmp_path) -> None:
    write_packs(tmp_path, "sts")
    one, again, seeded, taught = (
        networks.train_network(tmp_path / f"{i}.safetensors", dimensions=2, iterations=2, **more)
        for i, more in enumerate(({}, {}, {"seed": 1}, {"packs": tmp_path, "names": ["sts"]}))
    )
    assert_same(one, again)
    assert differ(one, seeded)
    assert differ(one, taught)


# -- killed and run again ---------------------------------------------------------------------


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_after(iteration: int):
    def progress(done: int, _: int, __: float) -> None:
        if done == iteration:
            raise KilledError

    return progress


@pytest.mark.parametrize(("dimensions", "after"), [(2, 2), (2, 4), (2, 6), (3, 2)])
def test_a_killed_run_ends_in_the_same_weights(tiny, tmp_path, dimensions, after) -> None:
    write_packs(tmp_path, "la")
    ask = {"dimensions": dimensions, "packs": tmp_path, "names": ["la"], "seed": 3}
    whole = networks.train_network(tmp_path / "whole" / "net.safetensors", **ask)
    folder = tmp_path / "killed"
    file = folder / "net.safetensors"
    with pytest.raises(KilledError):
        networks.train_network(file, **ask, progress=killed_after(after))
    assert [f.name for f in folder.iterdir()] == ["net.safetensors.checkpoint"]
    seen = []
    went_on = networks.train_network(file, **ask, progress=lambda i, *_: seen.append(i))
    assert seen == [i for i in (2, 4, 6) if i > after]
    assert_same(went_on, whole)
    assert [f.name for f in folder.iterdir()] == ["net.safetensors"]


def test_twice_killed(tiny, tmp_path) -> None:
    whole = networks.train_network(tmp_path / "whole.safetensors", dimensions=2)
    file = tmp_path / "net.safetensors"
    for after in (2, 4):
        with pytest.raises(KilledError):
            networks.train_network(file, dimensions=2, progress=killed_after(after))
    assert_same(networks.train_network(file, dimensions=2), whole)


@pytest.mark.parametrize("other", [{"seed": 1}, {"encoding": "box"}, {"dimensions": 3}])
def test_a_checkpoint_of_other_settings_is_not_mixed_in(tiny, tmp_path, other) -> None:
    file = tmp_path / "net.safetensors"
    with pytest.raises(KilledError):
        networks.train_network(file, dimensions=2, progress=killed_after(2))
    ask = {"dimensions": 2, **other}
    try:
        found = networks.train_network(file, **ask)
    except DataError:
        return  # refusing is as good
    assert_same(found, networks.train_network(tmp_path / "fresh.safetensors", **ask))


# -- what is learned from ---------------------------------------------------------------------


def test_every_third_patient_is_held_back(tmp_path) -> None:
    write_packs(tmp_path, "acdc-lv", patients=())
    for name in ("c_frame01", "b_frame09", "a_frame01", "c_frame02", "d_frame01"):
        write_case(tmp_path, "acdc-lv", name, ball(), 3)
    assert networks.held_back_patients(tmp_path, "acdc-lv") == {"c"}
    write_packs(tmp_path, "sts")
    assert networks.held_back_patients(tmp_path, "sts") == HELD_BACK


def test_training_never_reads_held_back_patients(tiny, tmp_path) -> None:
    write_packs(tmp_path, "sts", "la")
    for folder in ("sts", "la"):
        for patient in HELD_BACK:
            (tmp_path / folder / f"{patient}.npz").write_bytes(b"not to be read")
    for dimensions in (2, 3):
        networks.train_network(
            tmp_path / f"{dimensions}.safetensors",
            dimensions=dimensions,
            packs=tmp_path,
            names=["sts", "la"],
            iterations=1,
        )
    assert len(networks.training_targets(tmp_path, ["sts", "la"], 3)) == 2 * 4
    assert len(networks.training_targets(tmp_path, ["sts", "la"], 2)) == 2 * 4 * 4
    (tmp_path / "sts" / "p1.npz").write_bytes(b"read, and broken")
    with pytest.raises(DataError, match=r"p1\.npz"):
        networks.training_targets(tmp_path, ["sts"], 2)


def test_flat_targets_are_single_pieces_of_some_size(tmp_path) -> None:
    mask = np.zeros((6, 40, 40), dtype=bool)
    mask[0, 2:10, 2:10] = True
    mask[0, 20:30, 20:30] = True
    mask[1, 5:12, 5:12] = True  # 49 pixels
    mask[2, 5:10, 5:15] = True  # 50 pixels
    mask[4, ::4, ::4] = True  # 100 pieces
    mask[5, 0:20, 0:20] = mask[5, 20:39, 20:39] = True  # touch at a corner only
    write_case(tmp_path, "sts", "p1", mask)
    targets = networks.training_targets(tmp_path, ["sts"], 2)
    assert [int(t.mask.sum()) for t in targets] == [100, 50, 400]
    assert networks.SMALLEST_TARGET_PIXELS == 50
    for target in targets:
        assert ndimage.label(target.mask)[1] == 1
        assert target.image.shape == target.mask.shape
        assert target.image.dtype == np.float32
        assert target.image[target.mask].mean() > 80
    (volume,) = networks.training_targets(tmp_path, ["sts"], 3)
    assert volume.mask.sum() == mask.sum()


def test_single_slices_are_no_volumes(tmp_path) -> None:
    write_packs(tmp_path, "scd", patients=("p1",))
    assert networks.training_targets(tmp_path, ["scd"], 3) == []
    assert len(networks.training_targets(tmp_path, ["scd"], 2)) == 4


def test_largest_piece() -> None:
    mask = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], dtype=bool)
    assert np.argwhere(networks.largest_piece(mask)).tolist() == [[0, 2], [0, 3], [1, 2]]
    assert not networks.largest_piece(np.zeros((3, 3), dtype=bool)).any()
    assert networks.largest_piece(ball()).sum() == ball().sum()


# -- mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packs", "names", "expected"),
    [
        (False, ["sts"], "--packs"),
        (True, ["sts"], "no .npz files"),
        (True, ["liver"], "'liver' is unknown"),
    ],
)
def test_sets_that_are_not_there_are_refused(tiny, tmp_path, packs, names, expected) -> None:
    file = tmp_path / "net.safetensors"
    with pytest.raises(DataError, match=expected):
        networks.train_network(
            file, dimensions=2, packs=tmp_path if packs else None, names=names, iterations=1
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dimensions", [2, 3])
def test_sets_without_a_target_to_learn_from_are_refused(tiny, tmp_path, dimensions) -> None:
    # Single slices teach no 3-D network, and what is tiny teaches no 2-D network.
    write_case(tmp_path, "scd", "p1", ball(radius=2.0), 3)
    with pytest.raises(DataError):
        networks.train_network(
            tmp_path / "net.safetensors",
            dimensions=dimensions,
            packs=tmp_path,
            names=["scd"],
            iterations=1,
        )
