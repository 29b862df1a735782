"""The Flower app bundle of every study: two names and no code.

Both parties build it from these bytes, so that a hospital knows its SHA-256 before anybody sends
it: each party answers with the app from its own installed package.
"""

_PYPROJECT = b"""\
# Generated. The bundle carries no code: each party answers with its own installed app.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedgtv-study"
version = "1.0.0"
description = "fedgtv study run. Research use only, not a medical device."
license = { file = "LICENSE" }
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "fedgtv"
fab-include = ["README.md", "LICENSE"]

[tool.flwr.app.components]
serverapp = "coordinator.server_app:app"
clientapp = "site_agent.client_app:app"

[tool.flwr.app.config]
coordinator-home = ""
until = "one-tick"
patience-s = 60.0
tick-id = ""
"""

STUDY_BUNDLE: dict[str, bytes] = {
    "pyproject.toml": _PYPROJECT,
    "README.md": b"# fedgtv study run\n",
    "LICENSE": b"Apache License, Version 2.0\n",
}
