"""Runs the unmodified studygovernor-client (PyPI) against a server: `client.py URL VERSION`.

The client chooses version 2 by default; 1 is forced.
"""
import logging
import sys

import studyclient
from studyclient import drivers
from studyclient.exceptions import StudyGovernorNoAuthError, StudyGovernorNotFoundError, SubjectExistsError

url, version = sys.argv[1], int(sys.argv[2])


def connect(user, password):
    if version == 2:
        return studyclient.connect(url, user=user, password=password)
    # The client chooses the highest version that the server offers; this makes it choose the first.
    chosen = studyclient.connection.StudyClient.detect_api_version

    def forced(self):
        chosen(self)
        prefix = self._url_prefix.rstrip("/")
        self._server = studyclient.connection.parse.urlparse(prefix + "/api/v1/")
        self._version_prefix = "/api/v1/"
        self.api_version = 1

    studyclient.connection.StudyClient.detect_api_version = forced
    try:
        return studyclient.connect(url, user=user, password=password)
    finally:
        studyclient.connection.StudyClient.detect_api_version = chosen


try:
    connect("admin", "wrong")
    raise SystemExit("a wrong password was accepted")
except StudyGovernorNoAuthError as error:
    assert "Study Governor" in error.payload, error.payload

client = connect("admin", "admin")
assert client.api_version == version, client.api_version
assert client.version >= (6, 5, 1)
assert {type(client.driver).__name__} == {f"DriverV{version}"}

# Cohorts.
cohort = client.create_cohort("client", description="made by the client")
assert client.get_cohort_by_label("client").uri == cohort.uri
assert client.get_cohort(cohort.id).description == "made by the client"
assert any(one.label == "client" for one in client.get_cohorts())
if version == 2:
    cohort.external_urls["XNAT"] = "https://xnat.example.com/data/projects/client"
    # `external_urls` of the client fails: it looks up the ids of a subject in its own cohort.
    assert client.get_cohort(cohort.id).raw_external_urls["XNAT"].endswith("/client")

# Subjects.
# The client fails with an error of its own (`self._parent`) before it requests an external id; its intended request is
# sent here instead.
def link(kind, thing, external_id):
    body = {kind: thing.id, "external_system": "XNAT", "external_id": external_id}
    client.put(f"/external_{kind}_links", json=body)
    thing.clearcache()


given = {"XNAT": "XNAT_S1"} if version == 2 else None
subject = client.create_subject(cohort, "c-01", date_of_birth="1950-02-03", external_ids=given)
if version == 1:
    link("subject", subject, "XNAT_S1")
assert subject.date_of_birth == "1950-02-03" and subject.cohort.label == "client"
assert subject.external_ids["XNAT"] == "XNAT_S1"
subject.date_of_birth = "1951-02-03"
subject.label = "c-01b"
client.clearcache()
again = client.get_subject(subject.id)
assert (again.label, again.date_of_birth) == ("c-01b", "1951-02-03")
assert client.create_subject(cohort, "c-01b", exist_ok=True).uri == subject.uri
try:
    client.create_subject(cohort, "c-01b")
    raise SystemExit("a subject was made twice")
except SubjectExistsError:
    pass
nameless = client.create_subject(cohort, "c-02")
assert nameless.date_of_birth is None
assert {one.label for one in client.get_cohort(cohort.id).subjects} == {"c-01b", "c-02"}
assert len(client.get_subjects()) >= 2
try:
    client.get_subject_by_label(cohort, "nobody")
    raise SystemExit("nobody was found")
except StudyGovernorNotFoundError:
    pass

# Experiments, in a named workflow that is not the newest.
given = {"XNAT": "XNAT_E1"} if version == 2 else None
experiment = client.create_experiment(
    subject, "c-01_ses-1", "2024-03-01 10:00:00", workflow="imaging_qc_2024", external_ids=given)
if version == 1:
    link("experiment", experiment, "XNAT_E1")
assert experiment.scandate.startswith("2024-03-01T10:00:00")
assert experiment.state.label == "check", experiment.state.label
assert experiment.state.workflow.label == "imaging_qc_2024"
assert experiment.external_ids["XNAT"] == "XNAT_E1"
assert experiment.subject.label == "c-01b"
newest = client.create_experiment(subject, "c-01_ses-2", "2024-03-02T10:00:00")
assert newest.state.workflow.label == "second_2025", newest.state.workflow.label
assert client.create_experiment(subject, "c-01_ses-1", "2024-03-01T10:00:00", exist_ok=True).uri == experiment.uri
client.clearcache()
assert {one.label for one in client.get_subject(subject.id).experiments} == {"c-01_ses-1", "c-01_ses-2"}
assert any(one.label == "c-01_ses-1" for one in client.get_experiments())

# States, transitions and their callbacks.
state = experiment.state
assert "Automatic checks" in state.freetext and state.callback and state.lifespan is None
assert any(one.label == "c-01_ses-1" for one in state.experiments)
workflow = state.workflow
assert [one.label for one in workflow.states][:2] == ["untracked", "check"]
action = experiment.actions[-1]
assert action.success is False and action.end_time is None and action.experiment.label == "c-01_ses-1"
assert action.transition.source_state.label == "untracked" and action.transition.destination_state.label == "check"
assert action.transition.conditions is None
assert len(action.executions) == 2

# Resolving them moves the experiment.
for execution in action.executions:
    assert execution.experiment.label == "c-01_ses-1" and execution.subject.label == "c-01b"
    execution.resolve("finished", "success", result_values={"extra": {"n": 7}, "rating": "unsure"}, run_log="all well")
client.clearcache()
experiment = client.get_experiment(int(experiment.uri.rsplit("/", 1)[1]))
assert experiment.state.label == "manual_qc", experiment.state.label
assert dict(experiment.variable_map) == {"n_scans": 7, "qc": "unsure"}, experiment.variable_map

# Manual transition, with a note.
experiment.set_state("processing", freetext="looks fine")
client.clearcache()
experiment = client.get_experiment(experiment.id)
assert experiment.state.label == "processing"
last = experiment.actions[-1]
assert last.freetext == "looks fine"
last.success = True
last.return_value = "seen"
last.end_time = "2024-03-03T10:00:00"
client.clearcache()
last = client.get_experiment(experiment.id).actions[-1]
assert last.success is True and last.return_value == "seen" and last.end_time.startswith("2024-03-03T10:00:00")

assert client.external_systems["XNAT"].url == "https://xnat.example.com/"
print(f"the client went through its version {version}")
