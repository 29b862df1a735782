"""A study app that carries code, as a hostile coordinator would send it; goes into a bundle.

Whoever imports it from there leaves a file where it works. Only `flwr` and the standard library
are at hand.
"""

import json
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

PROOF, PATIENT = "hostile-code-ran", "patient Zelinda Quarz"
TTL_S = 90.0
# A package for each report that is asked for.
REPORTS = {"report": "a" * 64, "unplanned": "b" * 64, "one": "c" * 64, "differing": "d" * 64}

if __name__ == "hostile_study":  # in the bundle; the tests import it for its names
    Path(PROOF).touch()

app = ServerApp()
client_app = ClientApp()


@client_app.query("status")
def status(_message: Message, _context: Context) -> Message:
    raise LookupError(PATIENT)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send what should be refused to every site, and write down what comes back."""
    sent: dict[str, str] = {}
    nodes = {node.name: node.node_id for node in grid.get_nodes()}
    assert "absent" not in nodes  # only those that are connected
    nodes["absent"] = int(str(context.run_config["absent"]))
    for site, node_id in nodes.items():
        for case, (message_type, content) in attacks(site).items():
            if case == "honest" or site not in ("stock", "absent"):
                message = Message(content, node_id, message_type, ttl=TTL_S)
                [message_id] = grid.push_messages([message])
                sent[message_id] = f"{site}/{case}"
    answers: dict[str, dict[str, object]] = {}
    end = time.monotonic() + TTL_S
    while len(answers) < len(sent) and time.monotonic() < end:
        for reply in grid.pull_messages([i for i, case in sent.items() if case not in answers]):
            answers[sent[reply.metadata.reply_to_message_id]] = {
                "from": reply.metadata.src_node_id,
                "code": reply.error.code if reply.has_error() else 0,
                "reason": (reply.error.reason or "") if reply.has_error() else "",
                "records": sorted(reply.content) if reply.has_content() else [],
            }
        time.sleep(0.3)
    Path(str(context.run_config["output"])).write_text(json.dumps(answers), encoding="utf-8")


def attacks(site: str) -> dict[str, tuple[str, RecordDict]]:
    """Return by a name what a site is sent: the type of the message and its content."""
    large = ArrayRecord({"large": Array("uint8", (2 * 2**20,), "raw", bytes(2 * 2**20))})
    address = {"study": "npc-gtv", "site": site}
    elsewhere = {"study": "another", "site": site}
    reports = {
        case: (
            "query.site_report",
            RecordDict(
                {
                    "address": ConfigRecord(address),
                    "question": ConfigRecord({"package_id": package}),
                }
            ),
        )
        for case, package in REPORTS.items()
    }
    return reports | {
        "honest": ("query.status", RecordDict({"address": ConfigRecord(address)})),
        "unknown": ("query.images", RecordDict({"address": ConfigRecord(address)})),
        "large": ("query.status", RecordDict({"address": ConfigRecord(address), "files": large})),
        "another": ("query.status", RecordDict({"address": ConfigRecord(elsewhere)})),
        "malformed": ("query.site_report", RecordDict({"address": ConfigRecord(address)})),
    }
