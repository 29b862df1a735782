import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.datatypes import RestartUnconditionally
from supervisor.options import ServerOptions

from algorithms.contracts.errors import DataError
from supervision.programs import Program, supervisor_configuration

HOME = Path("/srv/fedgtv/hospital-b")
ONE = Program("worker", ("/usr/bin/python3", "-m", "site_agent.worker_loop"))


def read_by_supervisord(text: str, folder: Path) -> ServerOptions:
    """Have supervisord itself read a configuration, as far as it does before it starts anything."""
    for name in ("run", "logs"):
        (folder / name).mkdir(exist_ok=True)
    file = folder / "supervisord.conf"
    file.write_text(text, encoding="utf-8")
    options = ServerOptions()
    options.realize(["-c", str(file)])
    return options


def test_supervisord_reads_what_was_meant(tmp_path) -> None:
    two = Program("nginx", ("/usr/sbin/nginx", "-g", "daemon off;"))
    text = supervisor_configuration(tmp_path, [ONE, two], {"FLWR_HOME": f"{tmp_path}/flwr home"})
    options = read_by_supervisord(text, tmp_path)
    assert options.nodaemon
    assert options.umask == 0o077
    (group,) = options.process_group_configs
    programs = {p.name: p for p in group.process_configs}
    assert set(programs) == {"worker", "nginx"}
    for name, command in (("worker", ONE.command), ("nginx", two.command)):
        program = programs[name]
        assert shlex.split(program.command) == list(command)
        assert program.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert program.environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert program.environment["FLWR_HOME"] == f"{tmp_path}/flwr home"
        assert program.autorestart is RestartUnconditionally
        assert program.stopasgroup and program.killasgroup and program.redirect_stderr
        assert program.startretries > 10**6  # it never gives up
        assert program.stdout_logfile == str(tmp_path / "logs" / f"{name}.log")
        assert 0 < program.stdout_logfile_maxbytes < 2**25


def test_nobody_can_command_it() -> None:
    text = supervisor_configuration(HOME, [ONE], {})
    assert "http_server" not in text
    assert "rpcinterface" not in text


def test_a_value_cannot_switch_the_calls_out_on_by_being_left_out() -> None:
    assert 'FLWR_TELEMETRY_ENABLED="0"' in supervisor_configuration(HOME, [ONE], {})


@pytest.mark.parametrize("path", ["/srv/a%b", '/srv/a"b', "/srv/a\nb", "/srv/a ;b", "/srv/a\\b"])
def test_a_path_that_supervisord_would_read_otherwise_is_refused(path) -> None:
    with pytest.raises(DataError, match="plainer"):
        supervisor_configuration(Path(path), [ONE], {})
    with pytest.raises(DataError, match="plainer"):
        supervisor_configuration(HOME, [Program("x", (path,))], {})


@given(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1).filter(str.strip))
def test_a_word_comes_through_or_is_refused(tmp_path_factory, word) -> None:
    folder = tmp_path_factory.getbasetemp() / "words"
    folder.mkdir(exist_ok=True)
    try:
        text = supervisor_configuration(folder, [Program("one", ("/bin/x", word))], {"A": word})
    except DataError:
        return
    options = read_by_supervisord(text, folder)
    (program,) = options.process_group_configs[0].process_configs
    assert shlex.split(program.command) == ["/bin/x", word]
    assert program.environment["A"] == word
