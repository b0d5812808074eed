"""A separate Debian system for a test: real systemd and dpkg in namespaces, see boot-machine. Root only."""

import os
import shutil
import subprocess
import time
from pathlib import Path

BOOT = Path(__file__).with_name("boot-machine")
NEEDED = ["unshare", "nsenter", "ip", "systemctl", "dpkg"]


def why_not():
    """Why no machine can be started; `None` if it can."""
    if os.geteuid() != 0:
        return "a machine of its own needs root"
    missing = [one for one in NEEDED if not shutil.which(one)]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"{missing or 'systemd'} is missing"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


class Machine:
    """Use this class in a `with` statement."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir()
        self.log = self.folder.with_suffix(".log")

    def __enter__(self):
        with self.log.open("w") as log:
            self.unshare = subprocess.Popen(
                ["unshare", "--mount", BOOT, self.folder], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.init = self.until(self.first_process, "systemd does not start")
            self.until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() == "running", "systemd is not running")
        except BaseException:
            self.__exit__()
            raise
        return self

    def first_process(self):
        """The host's id of the machine's first process, once that is systemd."""
        assert self.unshare.poll() is None, self.log.read_text()
        for child in Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return None

    def __exit__(self, *_):
        # Killing the first process of a namespace kills all others in it.
        self.unshare.kill()
        self.unshare.wait()
        leave = 'mount -t cgroup2 cgroup2 "$1" && find "$1/$2" -depth -type d -exec rmdir {} +'
        for _ in range(100):
            gone = subprocess.run(["unshare", "--mount", "sh", "-c", leave, "sh", self.folder, self.folder.name], capture_output=True, check=False)
            if gone.returncode == 0:
                break
            time.sleep(0.1)

    def until(self, condition, message, seconds=120):
        """Waits until the condition is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"{message}\n{self.log.read_text()}"
            time.sleep(0.1)
        return found

    def run(self, *command, stdin=None, check=True):
        """Runs a command on the machine as root."""
        done = subprocess.run(
            ["nsenter", "--target", self.init, "--all", "env", "--chdir=/", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *map(str, command)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def says(self, *command, **options):
        return self.run(*command, **options).stdout.strip()

    def write(self, path, text):
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path, stdin=text)

    def install(self, package):
        """Installs a package of the host; returns the output."""
        with open(package, "rb") as file:
            copy = ["nsenter", "--target", self.init, "--all", "sh", "-c", "cat >/run/package.deb"]
            subprocess.run(copy, stdin=file, check=True)
        done = self.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--install", "/run/package.deb")
        self.run("rm", "/run/package.deb")
        return done.stdout + done.stderr
