"""A throw-away PostgreSQL server: its own folder, a socket in it, no network, nothing kept."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def binaries() -> Path | None:
    """Return the folder of the newest server here that is whole, or None."""
    return next((folder for folder in BINARIES if (folder / "initdb").is_file()), None)


class Cluster:
    """A running server; every database of it is empty when it is given out."""

    def __init__(self, socket_folder: Path) -> None:
        self.socket_folder = socket_folder
        self._made = 0
        self._used: list[str] = []

    def new_database(self) -> str:
        """Return the URL of an empty database: made anew, or emptied, which takes a tenth of it."""
        if self._used:
            name = self._used.pop()
            self.execute("DROP SCHEMA public CASCADE", name)
            self.execute("CREATE SCHEMA public", name)
        else:
            self._made += 1
            name = f"site_{self._made}"
            self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql://postgres@/{name}?host={self.socket_folder}"

    def give_back(self, url: str) -> None:
        """Let a database be given out again; whoever is still connected is thrown out."""
        name = url.split("?")[0].rsplit("/", 1)[-1]
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}"
        self.execute(sql.SQL(others).format(sql.Literal(name)))
        self._used.append(name)

    def execute(self, statement: Any, database: str = "postgres") -> None:
        """Run a statement, on the server's own database if no other is named."""
        with psycopg.connect(
            host=str(self.socket_folder), user="postgres", dbname=database, autocommit=True
        ) as connection:
            connection.execute(statement)


@contextmanager
def running_cluster(folder_of_binaries: Path) -> Iterator[Cluster]:
    """Start a server as a user without privileges, and stop and remove it afterwards."""
    as_user: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="fedgtv-pg-"))
    if os.geteuid() == 0:  # the server refuses root
        names = {entry.pw_name for entry in pwd.getpwall()}
        entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    # Sorting by language shows where we rely on the order of bytes.
    make = [folder_of_binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"]
    make += ["-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
    serve = [folder_of_binaries / "postgres", "-D", data, "-k", folder]
    if setpriv := shutil.which("setpriv"):  # tests that are killed leave no server behind
        serve = [setpriv, "--pdeathsig", "QUIT", *serve]
    settings = ("listen_addresses=", "timezone=Asia/Tokyo", "fsync=off", "full_page_writes=off")
    for setting in settings:
        serve += ["-c", setting]
    try:
        subprocess.run(
            make, check=True, capture_output=True, cwd=folder, env=environment, **as_user
        )
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                serve, stdout=log, stderr=log, cwd=folder, env=environment, **as_user
            )
        try:
            cluster = Cluster(folder)
            _wait_for(cluster, server)
            yield cluster
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(cluster: Cluster, server: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            return cluster.execute("SELECT 1")
        except psycopg.OperationalError:
            if server.poll() is not None:
                raise RuntimeError((cluster.socket_folder / "log").read_text("utf-8")) from None
            time.sleep(0.1)
    raise RuntimeError("PostgreSQL does not answer")
