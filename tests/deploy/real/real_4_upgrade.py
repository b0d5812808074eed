"""Upgrade from an image of an earlier version, with data and with work in progress."""

import ledger
import load
import pytest
from stack import IMAGE, docker, eventually

# The earlier program reads no secrets from files and accepts the broker only as a URL. Compose reads `$$` as `$`.
OLDER_START = """
read_file() { tr -d '\\n' <"$1"; }
export STUDYGOV_BROKER="amqp://$STUDYGOV_BROKER_USER:$(read_file "$STUDYGOV_BROKER_PASSWORD_FILE")@$STUDYGOV_BROKER_HOST:5672/%2f"
if [ "$0" = serve ]; then
  SECRET_KEY=$(read_file "$SECRET_KEY_FILE"); SECURITY_PASSWORD_SALT=$(read_file "$SECURITY_PASSWORD_SALT_FILE")
  DB_PASSWORD=$(read_file "$DB_PASSWORD_FILE"); export SECRET_KEY SECURITY_PASSWORD_SALT DB_PASSWORD
fi
exec studygovernor "$0"
""".replace("$", "$$")


@pytest.fixture(scope="module")
def stack(stacks):
    return stacks("upgrade")


def migrations(stack):
    return [row[0] for row in ledger.sql(stack, "SELECT version FROM seaql_migrations ORDER BY version")]


def test_an_upgrade_keeps_the_data_and_finishes_the_work(stack, older):
    start = {"image": older, "entrypoint": ["tini", "-g", "--", "bash", "-ec", OLDER_START]}
    check = {"test": ["CMD", "python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/-/ready')"]}
    none = {"disable": True}
    stack.add({"server": start | {"command": ["serve"], "healthcheck": check}, "worker": start | {"command": ["worker"], "healthcheck": none}})
    stack.up()
    person = stack.person()
    subject = load.prepare(person)
    for number in range(5):
        load.create(person, subject, f"load-{number}")
    eventually("the callbacks of the older program", lambda: ledger.unresolved(stack) == 0)
    before, tables = migrations(stack), ("experiment", "action", "callback_execution")
    kept = {table: ledger.sql(stack, f"SELECT id FROM {table} ORDER BY id") for table in tables}
    session = stack.admin()
    # Some of the work remains for the new program.
    stack.compose("stop", "worker")
    for number in range(5, 10):
        load.create(person, subject, f"load-{number}")
    assert ledger.unresolved(stack) > 0

    stack.add({})
    stack.up()
    for service in ("server", "worker"):
        assert docker("inspect", "-f", "{{.Config.Image}}", stack.containers(service)[0]) == IMAGE
    after = migrations(stack)
    assert before == after[: len(before)] and len(after) > len(before), (before, after)
    load.check_all_arrived(stack, 10)
    ledger.check(stack)
    for table, rows in kept.items():
        now = [row[0] for row in ledger.sql(stack, f"SELECT id FROM {table} ORDER BY id")]
        assert {row[0] for row in rows} <= set(now), table
    assert "/logout" in session.page("/"), "sessions go on"
    session.page("/experiments")
