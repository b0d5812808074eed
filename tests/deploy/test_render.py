"""Every example renders, twice to the same bytes, into manifests that Kubernetes accepts."""

import shutil

import kubernetes_validate
import pytest
import yaml
from conftest import CHART, CI, NEWEST, OLDEST, files_of, helm, of_kind, rendered, rendered_text

# Kinds of operators, which are not part of Kubernetes' own schemas.
OPERATORS = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}


def test_the_examples_are_those_that_the_guide_names():
    wanted = "everything external-mariadb external-postgres gateway ingress minimal openshift prefix sqlite-single workers"
    assert CI == wanted.split()


@pytest.mark.parametrize("name", CI)
def test_lint_is_strict_and_clean(name):
    options = [option for path in files_of(name) for option in ("-f", str(path))]
    code, out, err = helm("lint", "--strict", str(CHART), *options)
    assert code == 0, out + err


@pytest.mark.parametrize("name", CI)
def test_two_renderings_have_equal_bytes(name):
    assert rendered_text.__wrapped__(name) == rendered_text(name)


@pytest.mark.parametrize("kube", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", CI)
def test_manifests_are_valid(name, kube):
    for one in rendered(name, kube=kube):
        try:
            kubernetes_validate.validate(one, kube, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            assert one["kind"] in OPERATORS, one["kind"]


def test_the_validation_finds_a_wrong_field():
    one = yaml.safe_load(yaml.safe_dump(of_kind(rendered(), "Deployment")[0]))
    one["spec"]["revisionHistory"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, NEWEST, strict=True)


def test_kubernetes_1_20_gets_the_versions_that_it_has():
    versions = {one["kind"]: one["apiVersion"] for one in rendered("everything", kube="1.20")}
    assert versions["PodDisruptionBudget"] == "policy/v1beta1"
    assert versions["HorizontalPodAutoscaler"] == "autoscaling/v2beta2"
    assert versions["Ingress"] == "networking.k8s.io/v1"
    server = next(one for one in of_kind(rendered(kube="1.20"), "Deployment") if one["metadata"]["name"].endswith("-server"))
    assert server["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    spread = rendered_text("everything", kube="1.26")
    assert "matchLabelKeys" not in spread and "matchLabelKeys" in rendered_text("everything", kube="1.27")


def test_kubernetes_that_is_too_old_is_refused():
    code, _, err = helm("template", "sg", str(CHART), "--kube-version", "1.19")
    assert code != 0 and "1.20" in err


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """Renders the notes, because `helm template` omits them and an install needs a cluster."""
    chart = tmp_path_factory.mktemp("notes") / "studygovernor"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    wrapped = '{{ define "notes" }}' + text + '{{ end }}notes: {{ include "notes" . | toJson }}'
    (chart / "templates" / "notes.yaml").write_text(wrapped)

    def render(values=""):
        arguments = ["template", "sg", str(chart), "-n", "studies", "-s", "templates/notes.yaml", "-f", "-"]
        code, out, err = helm(*arguments, stdin=values)
        assert code == 0, err
        return yaml.safe_load(out)["notes"]

    return render


def test_notes_say_the_address_and_the_way_to_the_password(notes):
    usual = notes()
    assert "http://localhost/studygovernor\n" in usual and "Log in as admin." in usual
    assert "get secret sg-studygovernor-generated" in usual and ".data.admin_password" in usual
    assert "keeps the volumes of PostgreSQL, RabbitMQ, uploaded files, and the Secret sg-studygovernor-generated" in usual
    given = notes("studygovernor: {admin: {password: verysecretpassword}}")
    assert "verysecretpassword" not in given and "studygovernor.admin.password" in given
    port = notes("{ingress: {enabled: false}, studygovernor: {externalPort: 8443, externalProtocol: https}}")
    assert "https://localhost:8443/studygovernor" in port and "port-forward svc/sg-studygovernor 8000:80" in port


def test_notes_say_what_a_choice_means(notes):
    local = notes("{rabbitmq: {enabled: false}, mail: {server: smtp}, studygovernor: {admin: {username: ''}}}")
    assert "Servers run callbacks themselves" in local and "Log in as" not in local and "No mail server" not in local
    assert "No mail server is set" in notes()
    assert "All servers run on one node" in notes()
    assert "All servers run on one node" not in notes("server: {persistence: {accessMode: ReadWriteMany}}")


def test_an_image_may_come_from_anywhere():
    image = lambda values: of_kind(rendered(values=values), "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    digest = "sha256:" + "a" * 64
    assert image("") == "studygovernor:9.0.0"
    assert image("image: {registry: 'host:5000/x', tag: dev}") == "host:5000/x/studygovernor:dev"
    assert image(f"image: {{tag: dev, digest: '{digest}'}}") == f"studygovernor@{digest}"


def test_the_version_is_the_program_s():
    cargo = (CHART.parents[1] / "Cargo.toml").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in cargo
    images = {one["name"]: one["image"] for one in yaml.safe_load(chart["annotations"]["artifacthub.io/images"])}
    used = {container["image"] for one in rendered() if "template" in one.get("spec", {}) for container in one["spec"]["template"]["spec"]["containers"]}
    assert used == set(images.values())
