"""What answers clicks is made ready while people sign in, and keeps nobody waiting."""

import threading

from clinical_ui import warm_up


def test_it_answers_clicks_in_both_dimensions_in_a_thread_that_ends_with_the_server(monkeypatch):
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    before = set(threading.enumerate())
    warm_up.in_background()
    (thread,) = (t for t in set(threading.enumerate()) - before if t.name == "warm-up")
    assert thread.daemon
    thread.join(timeout=120)
    assert not thread.is_alive()
    assert failed == []
