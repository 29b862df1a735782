"""Serve the pages of one site: `python -m clinical_ui --home DIR [--port 8501]`."""

import argparse
import os
import sys
from pathlib import Path

from algorithms.contracts.errors import DataError
from clinical_ui import launch
from site_agent.config import open_home


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
    except DataError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    wanted = launch.environment(site.folder, os.environ)
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)

    from streamlit.web import cli  # after the environment: it is read on import

    launch.forbid_address_lookup()
    sys.stdout.write(
        f"{site.config.name}: http://{launch.ADDRESS}:{arguments.port} "
        "(research use only, not a medical device; Ctrl+C stops)\n"
    )
    sys.stdout.flush()
    cli.main(launch.streamlit_arguments(arguments.port), prog_name="streamlit")


if __name__ == "__main__":
    main()
