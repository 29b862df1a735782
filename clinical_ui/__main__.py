"""Serve the pages of one site: `python -m clinical_ui --home DIR [--port 8501]`."""

import argparse
import os
import sys
from pathlib import Path

from algorithms.contracts.errors import DataError
from clinical_ui import launch, warm_up
from site_agent import accounts, demo_account
from site_agent.config import SiteHome, open_home
from site_agent.database import open_database, utc_now


def main() -> None:
    """Start the server and stay; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m clinical_ui",
        description="Pages for oncologists. Research use only, not a medical device.",
    )
    parser.add_argument("--home", type=Path, required=True, help="the site's home directory")
    parser.add_argument("--port", type=int, default=launch.DEFAULT_PORT, help="on 127.0.0.1")
    arguments = parser.parse_args()
    try:
        site = open_home(arguments.home)
        wanted = launch.environment(site.folder, os.environ)
        for name in os.environ.keys() - wanted.keys():
            del os.environ[name]
        os.environ.update(wanted)
        sys.stdout.write(greeting(site, arguments.port))
        sys.stdout.flush()
        warm_up.in_background()
        launch.serve(site, arguments.port)
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def greeting(site: SiteHome, port: int) -> str:
    """Say where the pages are and who may sign in; on a demonstration, with which password."""
    engine = open_database(site.database_url)
    try:
        password = demo_account.prepare(site, engine, now=utc_now())
        known = any(not account.disabled for account in accounts.listed(engine))
    finally:
        engine.dispose()
    url = site.config.sign_in.origin or f"http://{launch.ADDRESS}:{port}"
    lines = [f"{site.config.name}: {url} (research use only, not a medical device; Ctrl+C stops)"]
    if password is not None:
        lines.append(f"demonstration: sign in as {demo_account.USERNAME} with password {password}")
    elif not known:
        lines.append(
            "nobody may sign in yet: fedgtv-site account add USER "
            f'--home {site.folder} --name "Dr Name" --role reviewer'
        )
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
