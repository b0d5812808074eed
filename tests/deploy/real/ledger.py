"""Checks the history in the database: the checks of `ledger_problems` in tests/support/study.rs, over SQL."""

from collections import defaultdict

COLUMNS = {
    "transition": "id, source_state_id, destination_state_id",
    "action": "id, experiment_id, transition_id, CASE WHEN end_time IS NULL THEN 0 ELSE 1 END, CASE WHEN end_time < start_time THEN 1 ELSE 0 END",
    "callback_execution": "id, action_id, status, result, CASE WHEN finished IS NULL OR leased_until IS NOT NULL THEN 1 ELSE 0 END",
    "callback": "id, state_id",
    "experiment": "id, state_id, last_action_id, version",
}


def sql(stack, query):
    """Rows of a query, as lists of texts; the query runs in the container of the database."""
    postgres = "psql -U studygovernor -d studygovernor -At -F '\t' -P null=NULL"
    mariadb = 'MYSQL_PWD=$(cat /secrets/db/DB_PASSWORD) mariadb -u studygovernor -h 127.0.0.1 -N -B studygovernor'
    program = f"if command -v psql >/dev/null; then {postgres} -c \"$1\"; else {mariadb} -e \"$1\"; fi"
    return [line.split("\t") for line in stack.exec("db", "sh", "-ec", program, "sql", query).splitlines()]


def problems(stack):
    """Each problem, as a sentence; an empty list if the ledger is correct."""
    rows = {table: sql(stack, f"SELECT {columns} FROM {table} ORDER BY id") for table, columns in COLUMNS.items()}
    transitions = {one: (source, destination) for one, source, destination in rows["transition"]}
    histories, runs, callbacks = defaultdict(list), defaultdict(list), defaultdict(int)
    for one in rows["action"]:
        histories[one[1]].append(one)
    for one in rows["callback_execution"]:
        runs[one[1]].append(one)
    for _, state in rows["callback"]:
        callbacks[state] += 1
    found = []
    for experiment, state, last, version in rows["experiment"]:
        history = histories[experiment]
        if not history:
            found.append(f"experiment {experiment}: has no action")
            continue
        if last != history[-1][0]:
            found.append(f"experiment {experiment}: its last action is {history[-1][0]}, and {last} is noted")
        if transitions[history[-1][2]][1] != state:
            found.append(f"experiment {experiment}: its state is not the destination of its last action")
        if int(version) != len(history):
            found.append(f"experiment {experiment}: {len(history)} actions at version {version}")
        for before, after in zip(history, history[1:]):
            if transitions[before[2]][1] != transitions[after[2]][0]:
                found.append(f"action {after[0]} does not follow from action {before[0]}")
        for index, (action, _, transition, has_ended, ends_early) in enumerate(history):
            mine = runs[action]
            if len(mine) != callbacks[transitions[transition][1]]:
                found.append(f"action {action}: {len(mine)} executions")
            is_resolved = all(status in ("finished", "skipped") for _, _, status, _, _ in mine)
            if is_resolved != (has_ended == "1") or ends_early == "1":
                found.append(f"action {action}: resolved {is_resolved}, ended {has_ended}, before its beginning {ends_early}")
            if index + 1 < len(history) and not is_resolved:
                found.append(f"action {action} was left before its callbacks were resolved")
            found += [f"execution {one[0]} is finished and not settled" for one in mine if one[2] == "finished" and one[4] == "1"]
    return found


def unresolved(stack):
    """The number of open executions."""
    [[count]] = sql(stack, "SELECT count(*) FROM callback_execution WHERE status NOT IN ('finished', 'skipped')")
    return int(count)


def workers(stack):
    """The names of the workers that have run executions."""
    return {name for [name] in sql(stack, "SELECT DISTINCT worker FROM callback_execution WHERE worker IS NOT NULL")}


def check(stack):
    """Asserts that the ledger is correct and the audit trail is complete."""
    found = problems(stack)
    assert not found, "\n".join(found)
    verified = stack.exec("server", "studygovernor", "audit", "verify")
    assert "events, head" in verified, verified
