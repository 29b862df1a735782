"""Everything that a site runs, under one supervisor."""

import importlib.util
import secrets
import sys
from pathlib import Path

from site_agent.config import CONFIG_FILE, SiteHome
from site_agent.site_keys import read_enrolment
from supervision.programs import Program
from supervision.serving import check_ports
from supervision.working_folder import write_whole

PYTHON = (sys.executable, "-P", "-m")  # never from the working directory


def site_programs(home: SiteHome) -> list[Program]:
    """Write what the programs read, and return them in the order in which they start.

    A site that is not enrolled, or air-gapped, runs all but the SuperNode and its executor; one
    without what the pages need, or with port 0 for them, all but the pages.

    Raises:
        DataError: a port is taken, or the enrolment is damaged.
    """
    config, us = home.config, ("--home", str(home.folder))
    programs, ports = [], {"operations_port": config.operations_port}
    if not config.air_gapped and read_enrolment(home) is not None:
        secret = _new_secret(home)
        port, ports["supernode_port"] = str(config.supernode_port), config.supernode_port
        supernode = (*PYTHON, "site_agent.supernode", *us, "--port", port)
        executor = (*PYTHON, "site_agent.site_executor", *us, "--supernode", f"127.0.0.1:{port}")
        programs += [
            Program("supernode", (*supernode, "--secret-file", str(secret))),
            Program("executor", (*executor, "--secret-file", str(secret))),
        ]
    programs.append(Program("worker", (*PYTHON, "site_agent.worker_loop", *us)))
    if config.listener is not None:
        command = str(Path(sys.executable).with_name("fedgtv-site"))
        programs.append(Program("listener", (command, "listen", *us, "--log-json")))
    if config.ui_port and importlib.util.find_spec("streamlit") is not None:
        ports["ui_port"] = config.ui_port
        programs.append(Program("ui", (*PYTHON, "clinical_ui", *us, "--port", str(config.ui_port))))
    operations = (*PYTHON, "site_agent.operations", *us, "--port", str(config.operations_port))
    programs.append(Program("operations", operations))
    check_ports(CONFIG_FILE, {key: ("127.0.0.1", port) for key, port in ports.items()})
    return programs


def _new_secret(home: SiteHome) -> Path:
    """Draw what keeps other local processes from the SuperNode's tasks, anew at every start."""
    file = home.folder / "run" / "executor.secret"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(file, secrets.token_bytes(32), mode=0o600)
    return file
