"""The text that Prometheus reads."""

import logging
import re

import pytest

from antiphon.metrics import names
from antiphon.metrics.export import MOST_SERIES, CountingHandler, Meters, classic, reference
from antiphon.metrics.names import Metric

LINE = re.compile(r'^[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? \S+$')


def test_every_metric_has_its_own_name_and_a_unit_or_total() -> None:
    listed = [metric.name for metric in names.ALL]
    assert len(listed) == len(set(listed))
    for metric in names.ALL:
        assert metric.name.startswith("antiphon_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.help.endswith(".")


def test_every_line_is_in_the_text_format() -> None:
    meters = Meters()
    meters.count(names.RELOADS, "ok")
    meters.count(names.LOG_RECORDS, "error", 'a "quoted" \\ event\nwith a break')
    meters.read(names.READY, lambda: {(): 1})
    meters.read(names.BUILD_INFO, lambda: {("0.1.0", "a"): 1})
    lines = meters.text().splitlines()
    assert "antiphon_ready 1" in lines
    assert 'antiphon_reloads_total{result="ok"} 1' in lines
    for line in lines:
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.match(line), line


def test_a_counter_adds_up() -> None:
    meters = Meters()
    meters.count(names.ADMIN_COMMANDS, "create_account", "ok")
    meters.count(names.ADMIN_COMMANDS, "create_account", "ok", by=2)
    assert meters.value(names.ADMIN_COMMANDS, "create_account", "ok") == 3


def test_a_metric_that_is_not_in_the_table_cannot_be_counted() -> None:
    with pytest.raises(KeyError):
        Meters().count(Metric(name="antiphon_x_total", kind="counter", help="X."))


def test_the_number_of_series_is_bounded() -> None:
    meters = Meters()
    for number in range(MOST_SERIES + 10):
        meters.count(names.LOG_RECORDS, "error", str(number))
    assert meters.value(names.LOG_RECORDS, "other", "other") == 10


def test_warnings_and_errors_are_counted_by_their_event() -> None:
    meters = Meters()
    log = logging.getLogger("antiphon.tests.counting")
    log.addHandler(CountingHandler(meters))
    log.info("nothing")
    log.warning("certificate ends soon", extra={"host": "a"})
    assert meters.value(names.LOG_RECORDS, "warning", "certificate ends soon") == 1
    assert meters.value(names.LOG_RECORDS, "info", "nothing") == 0


def test_the_core_s_text_becomes_the_older_format() -> None:
    text = (
        "# HELP antiphon_socket_sent_bytes Sent on sockets.\n"
        "# TYPE antiphon_socket_sent_bytes counter\n"
        "# UNIT antiphon_socket_sent_bytes bytes\n"
        "antiphon_socket_sent_bytes_total 5\n"
        "# HELP antiphon_logins Successful logins.\n"
        "# TYPE antiphon_logins counter\n"
        'antiphon_logins_total{mechanism="PLAIN"} 1\n'
        "# HELP antiphon_sessions Bound sessions.\n"
        "# TYPE antiphon_sessions gauge\n"
        "antiphon_sessions 2\n"
        "# EOF\n"
    )
    assert classic(text) == (
        "# HELP antiphon_socket_sent_bytes_total Sent on sockets.\n"
        "# TYPE antiphon_socket_sent_bytes_total counter\n"
        "antiphon_socket_sent_bytes_total 5\n"
        "# HELP antiphon_logins_total Successful logins.\n"
        "# TYPE antiphon_logins_total counter\n"
        'antiphon_logins_total{mechanism="PLAIN"} 1\n'
        "# HELP antiphon_sessions Bound sessions.\n"
        "# TYPE antiphon_sessions gauge\n"
        "antiphon_sessions 2\n"
    )


def test_the_reference_has_a_row_for_every_metric() -> None:
    page = reference()
    assert all(f"| `{metric.name}` |" in page for metric in names.ALL)
