"""The commands of who keeps a coordinator running: `doctor` and `serve`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from algorithms.contracts.health import tell

Home = Annotated[Path, typer.Option("--home", help="The coordinator's home directory.")]
console = Console(markup=False, emoji=False, soft_wrap=True)


def doctor(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at everything that this coordinator needs, and say what is wrong and what helps.

    The exit code is 1 when something does not work.

    Example: fedgtv-coordinator doctor --home study
    """
    from coordinator.doctor import examine_coordinator

    if not tell(examine_coordinator(home), typer.echo, as_json=as_json):
        raise typer.Exit(1)


def serve(home: Home) -> None:
    """Run everything that this coordinator is made of, until it is ended.

    What a check finds wrong stops it before it begins; a certificate that expired may be renewed
    later. The logs are in `logs` of the home.

    Example: fedgtv-coordinator serve --home study
    """
    from coordinator.config import open_home
    from coordinator.serve import coordinator_programs
    from supervision import serving

    us = str(Path(sys.argv[0]).resolve())
    doctor_command = (us, "doctor", "--home", str(home), "--json")
    for line in serving.lines(serving.check_first(doctor_command, later=("certificate",))):
        console.print(line)
    coordinator = open_home(home)
    programs = coordinator_programs(coordinator)
    names = ", ".join(program.name for program in programs)
    console.print(f"study {coordinator.config.study}: serving {names}")
    sys.stdout.flush()
    environment = {"FLWR_HOME": str(coordinator.flower / "flwr-home")}
    serving.serve(coordinator.folder, programs, environment)
