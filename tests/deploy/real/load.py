"""Work for the containers: a workflow whose callbacks write a line each, and experiments that pass through it."""

import threading

from ledger import sql, unresolved
from stack import eventually

LABEL = "load"
EFFECTS = "/var/lib/studygovernor/effects"
CALLBACKS = {"first": [("a", 0), ("b", 1), ("c", 0)], "second": [("d", 2), ("e", 0)], "third": [("f", 1), ("g", 0)]}
EXECUTIONS = sum(len(callbacks) for callbacks in CALLBACKS.values())
# root to first, second, third, end
ACTIONS = 4


def workflow(label=LABEL):
    """Seven callbacks in three states; each appends its execution and attempt to a file of the project."""
    lines = [f"label: {label}", "states:", "  - {label: root, transitions: [{destination: first}]}"]
    for (state, callbacks), following in zip(CALLBACKS.items(), [*list(CALLBACKS)[1:], "end"]):
        lines += [f"  - label: {state}", "    callbacks:"]
        for name, seconds in callbacks:
            script = f"sleep {seconds}; echo $STUDYGOV_EXECUTION_ID $STUDYGOV_ATTEMPT >>{EFFECTS}"
            arguments = f'{{binary: sh, args: [-c, "{script}"]}}'
            lines.append(f"      - {{label: {name}, function: command, retries: 50, retry_delay: 0, callback_arguments: {arguments}}}")
        lines.append(f"    transitions: [{{destination: {following}}}]")
    return "\n".join([*lines, "  - {label: end}", ""])


def prepare(person):
    person.api("/service/config/import-workflow", {"workflow_definition": workflow()})
    person.api("/cohorts", {"label": "load", "description": "of the tests"})
    person.api("/subjects", {"label": "load-1", "date_of_birth": "1980-01-01", "cohort": "load"})
    [subject] = person.api("/subjects?label=load-1")["subjects"]
    return subject["id"]


def create(person, subject, label):
    """Creates an experiment; repeats the request, with the same key, until the server has answered."""
    body = {"label": label, "scandate": "2026-01-01T12:00:00", "subject_id": subject, "workflow_label": LABEL}
    eventually(f"{label} to be created", lambda: person.api("/experiments", body, **{"Idempotency-Key": label}))


class Load:
    """Creates experiments in the background until it is stopped."""

    def __init__(self, person, subject):
        self.person, self.subject, self.count, self.stopped, self.error = person, subject, 0, threading.Event(), None
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        try:
            while not self.stopped.wait(1.5):
                create(self.person, self.subject, f"load-{self.count}")
                self.count += 1
        except BaseException as error:  # shown by the test that waits for it
            self.error = error

    def stop(self):
        self.stopped.set()
        self.thread.join()
        if self.error:
            raise self.error
        return self.count


def check_all_arrived(stack, count):
    """Asserts that every experiment has reached its end with one transition per state, and that every callback was
    requested once and has its effect.
    """
    eventually("all callbacks to be run", lambda: unresolved(stack) == 0, 600)
    states = f"SELECT s.id FROM state s JOIN workflow w ON w.id = s.workflow_id WHERE w.label = '{LABEL}' AND s.label = 'end'"
    arrived = sql(stack, f"SELECT e.id, (SELECT count(*) FROM action a WHERE a.experiment_id = e.id) FROM experiment e WHERE e.state_id IN ({states})")
    assert len(arrived) == count and {actions for _, actions in arrived} == {str(ACTIONS)}, (count, arrived)
    mine = "SELECT id FROM experiment WHERE label LIKE 'load-%'"
    runs = sql(
        stack,
        f"SELECT x.id, x.attempt, x.status, x.result FROM callback_execution x JOIN action a ON a.id = x.action_id WHERE a.experiment_id IN ({mine})",
    )
    assert len(runs) == count * EXECUTIONS, (len(runs), count)
    assert {tuple(run[2:]) for run in runs} == {("finished", "success")}
    effects = set(stack.exec("worker", "cat", EFFECTS).splitlines())
    missing = [run for run in runs if f"{run[0]} {run[1]}" not in effects]
    assert not missing, f"the result that counts has its effect: {missing}"
