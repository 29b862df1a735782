"""The hospital runs its own code: messages come from the SuperNode, the installed app answers.

A stock SuperNode runs whatever bundle the coordinator sends. With `--isolation process` it runs
nothing and leaves its tasks to this process, which reads of the bundle no more than its SHA-256. A
message is looked at before anything runs, a reply before it goes back.

It stands on the inner functions of the pinned Flower; `tests/journeys/test_flower_contract.py`
says so when a new version changes them.
"""

import argparse
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PullTaskInputResponse,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output
from sqlalchemy import Engine

from algorithms.contracts.canonical_json import sha256_hex
from algorithms.contracts.errors import expected_errors_are_one_line
from algorithms.contracts.structured_log import log_as_json
from algorithms.contracts.study_bundle import STUDY_BUNDLE
from site_agent.client_app import app as installed_app
from site_agent.config import SiteHome, open_home
from site_agent.coordinator_contact import note_asked
from site_agent.database import open_database, utc_now
from site_agent.message_check import (
    MessageRefused,
    checked_reply,
    error_reply,
    note_refusal,
    put_together,
)

POLL_S = 0.2
PAUSE_AFTER_FAILURE_S = 1.0
KNOWN_TYPES = frozenset(installed_app._registered_funcs)
ClientAppCall = Callable[[Message, Context], Message]

_log = logging.getLogger("site_agent.site_executor")  # by name also where it is started


def study_bundle_sha256() -> str:
    """Build the bundle of every study as the coordinator does, and return its SHA-256."""
    bundle, _ = build_fab_from_files(STUDY_BUNDLE)
    return sha256_hex(bundle)


class SiteExecutor:
    """Answers the messages that a SuperNode received, one after another.

    Args:
        home, engine: the site.
        supernode: where the SuperNode's Runtime API listens, "host:port" on this machine.
        secret: what the SuperNode was started with, so that no other local process takes its
            tasks; None without one.
        client_app: what answers.
    """

    def __init__(
        self,
        home: SiteHome,
        engine: Engine,
        supernode: str,
        *,
        secret: bytes | None = None,
        client_app: ClientAppCall = installed_app,
    ) -> None:
        self._home, self._engine, self._supernode = home, engine, supernode
        self._client_app = client_app
        self._bundles = {study_bundle_sha256(), *home.config.allowed_bundles}
        interceptors: list[ProtobufClientInterceptor] = []
        if secret is not None:
            methods = frozenset({"/flwr.proto.Runtime/AcquireTask"})
            interceptors.append(
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=methods)
            )
        self._acquiring = self._connect(*interceptors)

    def run(self) -> None:
        """Answer until the process ends; a SuperNode that is away is waited for."""
        pause_s = 0.0
        while True:
            time.sleep(pause_s)
            try:
                pause_s = 0.0 if self.answer_next() else POLL_S
            except Exception as error:  # it starts, ends, gave up the task or sent nonsense
                _log.warning("SuperNode: %s", type(error).__name__)
                pause_s = PAUSE_AFTER_FAILURE_S

    def answer_next(self) -> bool:
        """Take the oldest task and answer it; say whether there was one.

        Raises:
            httpx.HTTPError: when the SuperNode cannot be reached or withdrew the task.
        """
        # Never AgentApp tasks: those are for code that came with the bundle.
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        acquired = self._acquiring.AcquireTask(request)
        if not (acquired.HasField("task") and acquired.token):
            return False
        client = self._connect(RuntimeTokenHttpInterceptor(acquired.token))
        alive = HeartbeatSender(lambda: _send_heartbeat(client))
        alive.start()
        try:
            self._answer_task(client)
        finally:
            alive.stop()
            client.close()
        return True

    def _answer_task(self, client: RuntimeHttpClient) -> None:
        task = client.PullTaskInput(PullTaskInputRequest())
        node_id = task.context.node_id
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = node_id
        pulled = client.PullMessages(PullAppMessagesRequest())
        if not pulled.messages_list:  # its delivery broke off: the coordinator sends it again
            push_task_output(client, None, SubStatus.FAILED, "")
            return
        envelope = message_from_proto(pulled.messages_list[0])  # without its content
        # Of what came with the task only the ids are used: the site knows its own configuration.
        context = Context(
            run_id=task.run.run_id,
            node_id=node_id,
            node_config={"home": str(self._home.folder)},
            state=RecordDict(),
            run_config={},
        )
        try:
            reply = self._reply(client, task, envelope, pulled.message_object_trees[0], context)
        except httpx.HTTPError:
            raise
        except Exception as error:  # the edge of the hospital: nothing may pass it unseen
            _log.error("answering failed with %s", type(error).__name__)
            reply = error_reply(envelope, type(error).__name__)
        push_message(client, reply, context)
        push_task_output(client, None, SubStatus.COMPLETED, "")
        note_asked(self._home)

    def _reply(
        self,
        client: RuntimeHttpClient,
        task: PullTaskInputResponse,
        envelope: Message,
        tree: ObjectTree,
        context: Context,
    ) -> Message:
        try:
            parts = self._fetch(client, tree, context)
            self._check_envelope(task, envelope)
            if parts is None:
                raise MessageRefused("oversized_message")
            limit_bytes = self._home.config.max_message_bytes
            message = _put_message_together(tree.object_id, parts, limit_bytes)
            return checked_reply(self._client_app(message, context), envelope, self._engine)
        except MessageRefused as refusal:
            _log.warning("refused: %s %s", refusal.rule, refusal.detail or "")
            kind = envelope.metadata.message_type
            known = kind if kind in KNOWN_TYPES else "unknown"
            note_refusal(self._engine, refusal, known, utc_now())
            return error_reply(envelope, refusal.rule)

    def _fetch(
        self, client: RuntimeHttpClient, tree: ObjectTree, context: Context
    ) -> dict[str, bytes] | None:
        """Take the parts of a message from the SuperNode; None when they are too large to keep.

        All are fetched even then: a SuperNode that is told to forget parts which are still on
        their way never sends the reply.
        """
        node = Node(node_id=context.node_id)
        pull = make_pull_object_fn_protobuf(client.PullObject, node, context.run_id)
        confirm = make_confirm_message_received_fn_protobuf(
            client.ConfirmMessageReceived, node, context.run_id
        )
        limit_bytes = self._home.config.max_message_bytes
        fetched_bytes = 0
        lock = threading.Lock()  # Flower pulls in several threads

        def pull_within_limit(object_id: str) -> bytes:
            nonlocal fetched_bytes
            content = pull(object_id)
            with lock:
                fetched_bytes += len(content)
                return content if fetched_bytes <= limit_bytes else b""

        parts = pull_objects(
            [part.object_id for part in iterate_object_tree(tree)],
            pull_within_limit,
            max_time=None,  # how long a delivery may take is the SuperNode's to say
            max_tries_per_object=None,
            initial_backoff=POLL_S,
            backoff_cap=1.0,
        )
        confirm(tree.object_id)
        return parts if fetched_bytes <= limit_bytes else None

    def _check_envelope(self, task: PullTaskInputResponse, envelope: Message) -> None:
        bundle_sha256 = sha256_hex(task.fab.content)
        if bundle_sha256 not in self._bundles:
            raise MessageRefused("unknown_bundle", bundle_sha256=bundle_sha256)
        if envelope.metadata.dst_node_id != task.context.node_id:
            raise MessageRefused("another_node")
        if envelope.metadata.message_type not in KNOWN_TYPES:
            raise MessageRefused("unknown_message_type")

    def _connect(self, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
        """Connect without Flower's own repeating: on a token that is void it ends the process."""
        return RuntimeHttpClient.from_server_address(
            server_address=self._supernode,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor("fedgtv-site"), *interceptors],
        )


def _put_message_together(message_id: str, parts: dict[str, bytes], limit_bytes: int) -> Message:
    message = put_together(message_id, parts, Message, limit_bytes=limit_bytes)
    if not message.has_content():
        raise MessageRefused("malformed_message")
    message.metadata.__dict__["_message_id"] = message_id  # as Flower does
    return message


def _send_heartbeat(client: RuntimeHttpClient) -> bool:
    try:
        return client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
    except httpx.HTTPError:
        return False


def main() -> None:
    """Run the executor; an expected error is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m site_agent.site_executor")
    parser.add_argument("--supernode", required=True, help="the SuperNode's Runtime API, host:port")
    parser.add_argument("--home", required=True, type=Path, help="the site's home directory")
    parser.add_argument("--secret-file", help="as --superexec-auth-secret-file of the SuperNode")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt), expected_errors_are_one_line():
        home = open_home(arguments.home)
        log_as_json(f"site {home.config.name}")
        secret = load_superexec_auth_secret(arguments.secret_file)
        engine = open_database(home.database_url)
        SiteExecutor(home, engine, arguments.supernode, secret=secret).run()


if __name__ == "__main__":
    main()
