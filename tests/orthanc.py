"""A real PACS: Orthanc on loopback, with free ports and a folder and configuration of its own."""

import base64
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pydicom

from tests.debian_packages import absent
from tests.ports import free_ports

BINARY = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE = "ORTHANC"


class Orthanc:
    """One archive: started when entered, killed in the end.

    `modalities` are those it knows by AE title and port; it sends to and takes commands from them.
    `login` is for settings that ask for one.
    """

    def __init__(
        self,
        folder: Path,
        modalities: Mapping[str, int],
        *,
        login: tuple[str, str] | None = None,
        **settings: Any,
    ) -> None:
        if BINARY is None or not DICOMWEB.exists():
            absent("Orthanc", "orthanc orthanc-dicomweb")
        self.folder = folder
        self._headers = {}
        if login is not None:
            basic = base64.b64encode(":".join(login).encode()).decode()
            self._headers["Authorization"] = f"Basic {basic}"
        self.dicom_port, self.http_port = free_ports(2)
        self._url = f"http://127.0.0.1:{self.http_port}"
        self.web_url = f"{self._url}/dicom-web"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        configuration = {
            "Name": "fedgtv test",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(DICOMWEB)],
            "DicomAet": AE_TITLE,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {
                title: [title, "127.0.0.1", port] for title, port in modalities.items()
            },
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomScuTimeout": 10,
            **settings,
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration), "utf-8")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert BINARY is not None
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, str(self.folder / "orthanc.json")], stdout=log, stderr=log
            )
        for _ in range(600):
            try:
                self.get("system")
                return
            except OSError:
                assert self._process.poll() is None, (self.folder / "log.txt").read_text()
                time.sleep(0.05)
        raise AssertionError("Orthanc does not answer")

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """Ask its own interface."""
        return json.loads(self._ask(path))

    def upload(self, folder: Path) -> None:
        """Put every file below `folder` into the archive, past the DICOM network."""
        for file in sorted(folder.rglob("*.dcm")):
            self._ask("instances", file.read_bytes())

    def instances(self) -> int:
        """Count what it holds."""
        return int(self.get("statistics")["CountInstances"])

    def file_of(self, sop_instance_uid: str) -> bytes:
        """Return an instance as it is stored."""
        (found,) = json.loads(self._ask("tools/lookup", sop_instance_uid.encode()))
        return self._ask(f"{found['Path']}/file".lstrip("/"))

    def send(self, modality: str, folder: Path) -> None:
        """Send what the files below `folder` hold to a modality, by C-STORE, and wait for it."""
        uids = [pydicom.dcmread(file).SOPInstanceUID for file in sorted(folder.rglob("*.dcm"))]
        found = [json.loads(self._ask("tools/lookup", str(uid).encode())) for uid in uids]
        body = json.dumps([one["ID"] for (one,) in found])
        self._ask(f"modalities/{modality}/store", body.encode())

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self._url}/{path}", data=body, headers=self._headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content
