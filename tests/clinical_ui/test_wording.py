"""Every state and reason has words."""

import doctest

import pytest

from algorithms.contracts.messages import LEAVING, RoundState
from algorithms.sample_selection import CHOSEN, DOMAIN_INVARIANT, DOMAIN_SPECIFIC, REPRESENTATIVE
from clinical_ui import wording


def test_examples_hold():
    result = doctest.testmod(wording)
    assert result.attempted > 5
    assert not result.failed


@pytest.mark.parametrize("state", RoundState)
def test_every_state_of_a_round_has_a_sentence(state):
    for waiting in (0, 1):
        sentence = wording.round_state(state, waiting_for=waiting)
        assert sentence.endswith(".")
        assert "_" not in sentence


def test_every_message_that_can_leave_has_a_name():
    for message in LEAVING:
        kind = message.model_fields["kind"].default
        assert wording.ledger_kind(kind) != wording.ledger_kind("unknown")


def test_every_role_of_a_slice_has_a_reason():
    roles = (DOMAIN_INVARIANT, DOMAIN_SPECIFIC, REPRESENTATIVE, CHOSEN)
    assert len({wording.reason(role) for role in roles}) == len(roles)
