"""Averages the collected model updates into the study's next package, when the study lead says so.

FedAvg: the package's weights plus the mean of the updates, weighted by training patients. Reference
points stay as they are. The single updates are deleted once the next package is the study's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from safetensors.numpy import load, save

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import DataError, ProtocolError
from algorithms.contracts.messages import UPDATE_FILE, ModelUpdateOffer
from algorithms.contracts.model_package import (
    MANIFEST_FILE,
    MODEL_FILE,
    REFERENCE_POINTS_FILE,
    FileEntry,
    Manifest,
    SourceValidation,
)
from algorithms.federated_averaging import Tensors, average
from algorithms.update_file import float_tensors
from coordinator.config import CoordinatorHome
from coordinator.package_publisher import publish
from coordinator.study_store import StudyStore
from coordinator.update_collection import (
    UpdateRecords,
    forget_averaged,
    read_kept,
    update_file,
)

FEWEST = 2  # of one site alone, an average is its update


@dataclass(frozen=True)
class Averaging:
    """What would be averaged.

    Attributes:
        package_id: of the package that the updates are of.
        offers: what the sites said of them, in order of site.
        missing: target sites whose update is not here.
    """

    package_id: str
    offers: tuple[ModelUpdateOffer, ...]
    missing: tuple[str, ...]

    def weight(self, offer: ModelUpdateOffer) -> float:
        """Return how much an update counts, a fraction."""
        return offer.training_patients / sum(one.training_patients for one in self.offers)


def plan_averaging(home: CoordinatorHome, store: StudyStore) -> Averaging:
    """Say which updates of the study's package are here; whatever else is left over is deleted.

    Raises:
        DataError: fewer than two are.
    """
    forget_averaged(home, store)
    package_id, records = store.current_package(), UpdateRecords(store)
    rows = records.all(package_id) if package_id is not None else []
    revoked = store.revoked_sites()
    offers = tuple(
        ModelUpdateOffer.model_validate(row.offer) for row in rows if row.site not in revoked
    )
    here = {offer.site for offer in offers}
    missing = tuple(site for site in home.config.target_sites if site not in here)
    if package_id is None or len(offers) < FEWEST:
        raise DataError(
            f"{len(offers)} model updates are here and {FEWEST} are needed: of "
            f"{', '.join(missing)} there is none: tick again when they have been released there"
        )
    return Averaging(package_id, offers, missing)


def publish_average(
    home: CoordinatorHome, store: StudyStore, averaging: Averaging, model_version: str
) -> str:
    """Sign the average as the next package, make it the study's, and delete the single updates.

    What a kill leaves undone, the same command does; the same updates make the same package.

    Returns:
        The id of the next package.

    Raises:
        DataError: the version is that of the parent or none, or an update was changed since it
            came.
    """
    manifest, files = _next_package(home, averaging, model_version)
    package_id = publish(home, manifest, files)
    UpdateRecords(store).mark_averaged(
        [offer.site for offer in averaging.offers], averaging.package_id, package_id
    )
    store.add_package(manifest, from_site="")
    forget_averaged(home, store)
    return package_id


def _next_package(
    home: CoordinatorHome, averaging: Averaging, model_version: str
) -> tuple[Manifest, dict[str, bytes]]:
    folder = home.packages / averaging.package_id
    parent = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    if model_version == parent.model_version:
        raise DataError(f"--model-version {model_version}: is that of the package: give a new one")
    weights = (folder / MODEL_FILE).read_bytes()
    updates = [_read(home, offer) for offer in averaging.offers]
    patients = [offer.training_patients for offer in averaging.offers]
    averaged = average(float_tensors(weights), updates, patients)
    files = {
        MODEL_FILE: save(load(weights) | averaged),
        REFERENCE_POINTS_FILE: (folder / REFERENCE_POINTS_FILE).read_bytes(),
    }
    changes = {
        "model_version": model_version,
        "parent_version": parent.model_version,
        # Nobody has measured the average: the source hospital's figures are of its parent.
        "source_validation": SourceValidation(
            validation_patients=0, validation_dsc=None, test_patients=0, test_dsc=None
        ),
        "files": {
            name: FileEntry(sha256=sha256_hex(data), size_bytes=len(data))
            for name, data in files.items()
        },
    }
    try:
        manifest = Manifest.model_validate({**parent.model_dump(), **changes})
    except ValueError:
        raise DataError(
            f"--model-version {model_version}: use lower-case letters, digits, '.', '+' and '-'"
        ) from None
    return manifest, files


def _read(home: CoordinatorHome, offer: ModelUpdateOffer) -> Tensors:
    file = update_file(home, offer.site, offer.package_id)
    content = file.read_bytes() if file.is_file() else b""
    if sha256_hex(content) != offer.files[UPDATE_FILE].sha256:
        raise DataError(f"{file}: the update is gone or changed: restore it from backup")
    try:
        return read_kept(home, offer, content)
    except ProtocolError as error:
        raise DataError(f"{file}: {error}: restore the package from backup") from None


def in_words(averaging: Averaging) -> Sequence[str]:
    """Say what would be averaged, one line per site, for the study lead to decide."""
    lines = [
        f"{offer.site}: {offer.training_patients} training patients, weight "
        f"{averaging.weight(offer):.0%}, "
        + (
            "no privacy promised"
            if offer.epsilon is None
            else f"epsilon {offer.epsilon:.3g} at delta {offer.delta:.0e}"
        )
        for offer in averaging.offers
    ]
    return [*lines, *(f"{site}: no update here" for site in averaging.missing)]
