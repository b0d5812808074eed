"""Two servers and three workers behind the proxy, with TLS."""

import json
import subprocess

import ledger
import load
import pytest
from stack import IMAGE, Person, docker, eventually, free_ports, run

# Logs in through the proxy from inside the network, with headers that claim another address.
CLIENT = """
import http.cookiejar, ssl, socket, sys, urllib.parse, urllib.request
context = ssl.create_default_context(cadata=sys.argv[1])
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *more, **named: real("proxy" if host == "localhost" else host, *more, **named)
cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
opener = urllib.request.build_opener(cookies, urllib.request.HTTPSHandler(context=context))
form = urllib.parse.urlencode({"login": "admin", "password": "admin"}).encode()
request = urllib.request.Request("https://localhost/login", form, {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"})
text = opener.open(request).read().decode()
assert "/logout" in text, text
"""


@pytest.fixture(scope="module")
def stack(stacks):
    https = free_ports(2)
    settings = {"PROXY_HTTPS": f"127.0.0.1:{https}", "PROXY_HTTP": f"127.0.0.1:{https + 1}", "SITE_ADDRESS": "localhost"}
    settings |= {"STUDYGOV_EXTERNAL_HOSTNAME": "localhost", "STUDYGOV_EXTERNAL_PROTO": "https", "STUDYGOV_EXTERNAL_PORT": str(https)}
    one = stacks("scale", profiles=("proxy",), **settings)
    one.settings(STUDYGOV_PUBLISH=f"127.0.0.1:{one.port}-{one.port + 9}")
    one.https = https
    one.up("--scale", "server=2", "--scale", "worker=3")
    return one


@pytest.fixture(scope="module")
def authority(stack):
    path = "/data/caddy/pki/authorities/local/root.crt"
    return eventually("the proxy's own authority", lambda: stack.exec("proxy", "cat", path))


def test_people_log_in_through_the_proxy_with_tls(stack, authority):
    person = Person(f"https://localhost:{stack.https}", authority)
    assert "/logout" in eventually("the proxy to answer", person.log_in)
    assert [person.ask(f"/-/{name}")[0] for name in ("metrics", "queues", "%6detrics", "versions")] == [403, 403, 403, 200]
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        Person(f"https://localhost:{stack.https}", stack_of_nobody()).ask("/")


def stack_of_nobody():
    """A certificate authority that has signed no certificate of this test."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=nobody -days 1 -keyout /dev/null"
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def test_the_address_of_a_client_is_seen_and_not_the_one_it_claims(stack, authority):
    network = f"{stack.name}_default"
    client = docker("run", "-d", "--network", network, "--entrypoint", "python3", IMAGE, "-c", CLIENT, authority)
    try:
        address = json.loads(docker("inspect", client))[0]["NetworkSettings"]["Networks"][network]["IPAddress"]
        code = docker("wait", client)
        assert code == "0", run("docker", "logs", client).stderr
    finally:
        docker("rm", "-f", client)
    seen = {row[0] for row in ledger.sql(stack, "SELECT DISTINCT address FROM audit_event WHERE address IS NOT NULL")}
    assert address in seen and "203.0.113.9" not in seen, (address, seen)
    proxies = json.loads(docker("inspect", stack.containers("proxy")[0]))[0]["NetworkSettings"]["Networks"]
    assert proxies[network]["IPAddress"] not in seen


def test_all_workers_take_part_and_people_notice_nothing_when_a_server_dies(stack, authority):
    person = Person(f"https://localhost:{stack.https}", authority)
    subject = load.prepare(person)
    servers = stack.containers("server")
    assert len(servers) == 2 and len(stack.containers("worker")) == 3
    for number in range(10):
        load.create(person, subject, f"load-{number}")
    back = stack.kill("server")
    for number in range(10, 30):
        person.page("/login")
        load.create(person, subject, f"load-{number}")
    back()
    load.check_all_arrived(stack, 30)
    ledger.check(stack)
    hosts = {name.split(":")[0] for name in ledger.workers(stack)}
    assert hosts == {container[:12] for container in stack.containers("worker")}
