import pytest
from pydantic import BaseModel, ConfigDict

from algorithms.contracts.configuration import parse_configuration
from algorithms.contracts.errors import DataError


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "here"
    threads: int = 0
    auto_approve: bool = False


def parse(text: str, environ: dict[str, str] | None = None) -> Settings:
    return parse_configuration(text, environ or {}, Settings, prefix="APP_", source="app.toml")


def test_keys_are_read_and_the_rest_has_defaults() -> None:
    assert parse('name = "there"\nthreads = 3') == Settings(name="there", threads=3)


def test_the_environment_overrides_the_file() -> None:
    environ = {"APP_THREADS": "7", "APP_AUTO_APPROVE": "true", "OTHER_THREADS": "1", "PATH": "/"}
    assert parse("threads = 3", environ) == Settings(threads=7, auto_approve=True)


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("thread = 1", {}, ["app.toml", "'thread'", "did you mean 'threads'"]),
        ("zzz = 1", {}, ["app.toml", "'zzz'", "did you mean"]),
        ("", {"APP_NAMES": "x"}, ["APP_NAMES", "did you mean 'name'"]),
        ("threads = 'many'", {}, ["app.toml", "'threads'", "integer", "correct"]),
        ("", {"APP_THREADS": "many"}, ["'threads'", "integer"]),
        ("threads = = 1", {}, ["app.toml", "not valid TOML", "line 1", "correct"]),
        ("threads = 1\nthreads = 2", {}, ["app.toml", "not valid TOML"]),
    ],
)
def test_a_mistake_is_named_in_one_line_with_what_to_do(text, environ, words) -> None:
    with pytest.raises(DataError) as caught:
        parse(text, environ)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_a_variable_may_hold_a_list() -> None:
    class Listed(BaseModel):
        names: tuple[str, ...] = ()

    environ = {"FEDGTV_T_NAMES": '["GTVp", "GTV"]'}
    read = parse_configuration("", environ, Listed, prefix="FEDGTV_T_", source="site.toml")
    assert read.names == ("GTVp", "GTV")
    with pytest.raises(DataError, match="names"):
        broken = {"FEDGTV_T_NAMES": '["GTVp"'}
        parse_configuration("", broken, Listed, prefix="FEDGTV_T_", source="site.toml")
