"""What hospital IT types about accounts."""

import io
import os
import pty
import subprocess
import sys

import pytest

from site_agent import accounts, cli, sign_ins
from site_agent.accounts import authenticate
from site_agent.database import open_database, utc_now
from tests.phantoms import make_home
from tests.site_agent.people import PASSWORD, add


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


@pytest.fixture
def engine(home):
    engine = open_database(home.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def run(home, monkeypatch, capsys):
    def run_command(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        command = ["fedgtv-site", "account", *arguments, "--home", str(home.folder)]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run_command


def test_somebody_is_added_from_a_pipe_and_a_file_and_listed(run, engine, tmp_path) -> None:
    named = ("--name", "Dr Anna Example", "--person-name", "Example^Anna")
    roles = ("--role", "annotator", "--role", "reviewer")
    code, said, _ = run("add", "anna", *named, *roles, stdin=f"{PASSWORD}\n")
    assert (code, said) == (0, "hospital-b: anna may sign in as annotator, reviewer\n")
    assert authenticate(engine, "anna", PASSWORD, now=utc_now()).person_name == "Example^Anna"

    file = tmp_path / "password"
    file.write_text("another horse battery\n", "utf-8")
    assert run("password", "anna", "--password-file", str(file))[0] == 0
    authenticate(engine, "anna", "another horse battery", now=utc_now())

    subject = "https://id.example|7"
    assert run("add", "ida", "--name", "Ida", "--role", "it", "--oidc-subject", subject)[0] == 0
    code, said, _ = run("list")
    assert code == 0
    for word in ("anna", "annotator, reviewer", "ida", "7", "active"):
        assert word in said
    assert "argon2" not in said


def test_roles_disable_enable_and_sign_out(run, engine) -> None:
    add(engine)
    sign_ins.open_sign_in(engine, "anna", now=utc_now())
    assert run("roles", "anna", "--role", "it")[1] == "anna: it\n"
    assert run("sign-out", "anna")[1] == "anna: signed out of 1 browsers\n"
    assert run("disable", "anna")[0] == 0
    assert accounts.find(engine, "anna").disabled
    assert "disabled" in run("list")[1]
    assert run("enable", "anna")[0] == 0
    assert not accounts.find(engine, "anna").disabled


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("add", "anna", "--name", "A", "--role", "it"), "short\n", "12 to 1024 characters"),
        (("add", "anna", "--name", "A", "--role", "it"), "", "12 to 1024 characters"),
        (("add", "anna", "--name", "A", "--role", "doctor"), f"{PASSWORD}\n", "role 'doctor'"),
        (("roles", "nobody", "--role", "it"), "", "there is none"),
        (("password", "nobody"), f"{PASSWORD}\n", "there is none"),
        (("add", "anna", "--name", "A", "--role", "it", "--password-file", "/no"), "", "/no: "),
    ],
)
def test_mistakes_are_one_line(run, arguments, stdin, words) -> None:
    code, said, warned = run(*arguments, stdin=stdin)
    assert (code, said, warned.count("\n")) == (2, "", 1)
    assert words in warned
    assert PASSWORD not in warned


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(home, engine) -> None:
    """A real terminal, as hospital IT has one: what is typed must not come back on the screen."""
    terminal, program_side = pty.openpty()
    program = "from site_agent.cli import main; main()"
    named = ("anna", "--name", "Dr Anna", "--role", "it", "--home", str(home.folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "account", "add", *named],
        stdin=program_side,
        stdout=program_side,
        stderr=program_side,
        start_new_session=True,
    )
    os.close(program_side)
    screen, asked = b"", 0
    while True:
        try:
            screen += os.read(terminal, 1024)
        except OSError:  # the program has ended
            break
        if screen.count(b": ") > asked and screen.endswith(b": "):
            asked += 1
            os.write(terminal, f"{PASSWORD}\n".encode())
    os.close(terminal)
    assert process.wait(timeout=60) == 0, screen
    assert asked == 2
    assert b"may sign in as it" in screen
    assert PASSWORD.encode() not in screen
    authenticate(engine, "anna", PASSWORD, now=utc_now())
