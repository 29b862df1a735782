"""Nothing of what a coordinator or a hospital runs tries to reach anybody but the other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.debian_packages import absent

pytestmark = pytest.mark.journey


def test_in_a_network_that_leads_nowhere_nothing_tries_to_leave(tmp_path: Path) -> None:
    if shutil.which("nginx") is None and shutil.which("nginx", path="/usr/sbin") is None:
        absent("nginx", "nginx")
    if shutil.which("ip") is None:
        absent("ip", "iproute2")
    alone = ["unshare", "--net"] + (["--map-root-user"] if os.geteuid() != 0 else [])
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        # Without one nothing can be counted. CI runs as root and has to have it; a person without
        # root, or in a container that forbids it, goes without this test and is told.
        assert not os.environ.get("CI"), "the kernel gives no network namespace"
        pytest.skip("the kernel gives this user no network namespace: run it as root")
    done = subprocess.run(
        [*alone, sys.executable, "-m", "tests.journeys.without_egress", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    counted = json.loads(done.stdout.splitlines()[-1])
    everything = ["executor", "nginx", "superlink", "supernode", "ticker", "ui", "worker"]
    assert counted["programs"] == everything
    served, four, six, name = counted["attempts"]
    assert served == 0
    assert served < four < six < name  # each kind of attempt is seen
