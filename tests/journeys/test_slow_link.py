"""A hospital behind a slow line that is cut, beside one that is not, over real Flower processes."""

import random
from pathlib import Path

import pytest

from algorithms.contracts.package_stream import stream_bytes
from coordinator.config import open_home as open_coordinator_home
from coordinator.flower_transport import FlowerTransport
from coordinator.package_publisher import publish
from coordinator.study_store import StudyStore
from coordinator.study_workflow import Goal, SiteProgress
from site_agent.config import open_home
from site_agent.package_store import load_package
from tests.simulated_site import file_entry, make_study, tiny_package
from tests.throttling_proxy import ThrottlingProxy

SLOW, QUICK = "hospital-b", "hospital-c"
PACKAGE_BYTES = 4_000_000
pytestmark = pytest.mark.journey


class _SlowFlower(FlowerTransport):
    """The Flower transport, with a proxy before one of the hospitals."""

    proxy: ThrottlingProxy

    def _start_site(self, name: str, home: Path) -> int:
        if name != SLOW:
            return super()._start_site(name, home)
        port = self._deployment.port
        self.proxy = ThrottlingProxy(
            port, bytes_per_s=1e6, cut_at_bytes=(PACKAGE_BYTES // 3, 2 * PACKAGE_BYTES // 3)
        ).__enter__()
        self._deployment.port = self.proxy.port
        try:
            return super()._start_site(name, home)
        finally:
            self._deployment.port = port


def test_a_package_gets_through_a_slow_line_that_is_cut_twice(tmp_path: Path) -> None:
    coordinator, homes = make_study(tmp_path, SLOW, QUICK)
    settings = coordinator.folder / "coordinator.toml"
    settings.write_text(
        settings.read_text("utf-8") + "largest_part_bytes = 1000000\nmessage_ttl_s = 60.0\n"
    )
    coordinator = open_coordinator_home(coordinator.folder)
    manifest, files = tiny_package()
    files["model.onnx"] = random.Random(1).randbytes(PACKAGE_BYTES)
    entries = {name: file_entry(data) for name, data in files.items()}
    manifest = manifest.model_copy(update={"files": entries})
    publish(coordinator, manifest, files)
    with StudyStore(coordinator.database_url, coordinator.config) as store:
        store.add_package(manifest, from_site="hospital-a")

    with _SlowFlower(coordinator, homes, site_executor="site_agent.site_executor") as transport:
        summary = transport.tick(Goal.DELIVERED, patience_s=240)
        proxy = transport.proxy
        down, cuts = proxy.bytes_down, proxy.cuts_made
    proxy.__exit__(None, None, None)

    assert [site.progress for site in summary.sites[1:]] == [SiteProgress.DELIVERED] * 2
    for site in (SLOW, QUICK):
        assert load_package(open_home(homes[site]), manifest.package_id)[0] == manifest
    assert cuts == 2
    # Each cut costs a part at most, and Flower asks again for what it was amid.
    assert PACKAGE_BYTES < down < stream_bytes(manifest.files) + 3_000_000
