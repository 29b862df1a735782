"""A real PACS: Orthanc on loopback, with free ports and a folder and configuration of its own."""

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

BINARY = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE = "ORTHANC"


def free_ports(count: int) -> list[int]:
    """Ask the system for ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Orthanc:
    """One archive: started when entered, killed in the end.

    `modalities` are those it knows by AE title and port; it sends to and takes commands from them.
    """

    def __init__(
        self, folder: Path, modalities: Mapping[str, int], **settings: Any
    ) -> None:
        if BINARY is None or not DICOMWEB.exists():
            pytest.skip("Orthanc is not installed (Debian: orthanc orthanc-dicomweb)")
        self.folder = folder
        self.dicom_port, self.http_port = free_ports(2)
        self.web_url = f"http://127.0.0.1:{self.http_port}/dicom-web"
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
        url = f"http://127.0.0.1:{self.http_port}/{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    def upload(self, folder: Path) -> None:
        """Put every file below `folder` into the archive, past the DICOM network."""
        for file in sorted(folder.rglob("*.dcm")):
            url = f"http://127.0.0.1:{self.http_port}/instances"
            request = urllib.request.Request(url, data=file.read_bytes())
            urllib.request.urlopen(request, timeout=30).close()

    def instances(self) -> int:
        """Count what it holds."""
        return int(self.get("statistics")["CountInstances"])

    def file_of(self, sop_instance_uid: str) -> bytes:
        """Return an instance as it is stored."""
        url = f"http://127.0.0.1:{self.http_port}/tools/lookup"
        request = urllib.request.Request(url, data=sop_instance_uid.encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            (found,) = json.load(answer)
        url = f"http://127.0.0.1:{self.http_port}{found['Path']}/file"
        with urllib.request.urlopen(url, timeout=30) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def orthanc(folder: Path, modalities: Mapping[str, int], **settings: Any) -> Iterator[Orthanc]:
    """Run an archive for a while."""
    with Orthanc(folder, modalities, **settings) as archive:
        yield archive
