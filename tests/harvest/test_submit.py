"""The harvest on a Ray cluster, started by the real `ray submit` and `ray job submit` on this machine."""

import contextlib
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config

from harvest import run
from harvest.config import Harvest
from skelcore import config, shards
from tests.harvest import fakes
from tests.paths import ROOT

RAY = Path(sys.executable).with_name("ray")
LOCAL, CLOUD = ROOT / "configs" / "harvest.yaml", ROOT / "configs" / "harvest" / "aws.yaml"
# What a cloud may say otherwise; all else of the two cluster files is equal.
OF_A_CLOUD = {"provider", "auth", "max_workers", "docker", "head_node_type", "available_node_types",
              "head_setup_commands", "worker_setup_commands"}
OF_ITS_JOB = {"sources", "output", "workers", "worker"}


def load(path):
    return yaml.safe_load(path.read_text())


# --- the files as shipped


@pytest.mark.parametrize("path", [LOCAL, CLOUD], ids=lambda path: path.name)
def test_cluster_files_satisfy_ray_and_the_harvest(path):
    validate_config(prepare_config(load(path)))
    config.load(Harvest, path, section=("metadata", "harvest"))


def test_the_container_has_the_ray_that_is_installed_beside_it():
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f":{pinned[1]}-py311" in load(CLOUD)["docker"]["image"]


def test_the_cloud_file_differs_only_where_a_cloud_does():
    local, cloud = load(LOCAL), load(CLOUD)
    ours, theirs = local.pop("metadata")["harvest"], cloud.pop("metadata")["harvest"]
    del cloud["file_mounts"]["~/urls.csv"]
    assert {key for key in {*local, *cloud} if local.get(key) != cloud.get(key)} <= OF_A_CLOUD
    assert {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)} <= OF_ITS_JOB


@pytest.mark.parametrize("path", [LOCAL, CLOUD], ids=lambda path: path.name)
def test_no_command_harms_the_machine(path):
    cluster = load(path)
    commands = [command for key, value in cluster.items() if key.endswith("_commands") for command in value]
    assert not [command for command in commands
                if any(word in command for word in ("ray stop", "sudo", "shutdown", "kill -", "rm "))]
    # Ray fills in its own start commands, which stop every Ray on the machine, where a file has none.
    assert cluster["head_start_ray_commands"] and cluster["worker_start_ray_commands"]


def test_what_is_mounted_exists_and_is_small():
    """Ray hashes every file of a mount before it copies any."""
    mounts = load(LOCAL)["file_mounts"]
    assert all((ROOT / source).exists() for source in mounts.values())
    assert not {".", "./"} & set(mounts.values())
    sizes = [file.stat().st_size for source in mounts.values() for file in [ROOT / source, *(ROOT / source).rglob("*")]]
    assert sum(sizes) < 20_000_000
    hash_runtime_conf({target: str(ROOT / source) for target, source in mounts.items()}, None, "test")


def test_ray_submit_needs_the_script():
    from click.testing import CliRunner
    from ray.scripts.scripts import cli

    done = CliRunner().invoke(cli, ["submit", str(LOCAL)])
    assert done.exit_code == 2 and "SCRIPT" in done.output


def test_a_left_over_cluster_file_is_nobodys_job(tmp_path, monkeypatch, capsys):
    """Only the copy of the script in the home folder reads it: a run from a checkout does not join a cluster."""
    (tmp_path / "ray_bootstrap_config.yaml").write_text(LOCAL.read_text())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run.main([]) == 2
    assert "output" in capsys.readouterr().err and "RAY_ADDRESS" not in os.environ


def test_a_working_folder_stays_far_below_rays_limit(tmp_path):
    """`ray job submit --working-dir .` from a checkout with an environment, a repository and results in it."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env import packaging

    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".venv/lib/big.so", ".git/objects/pack", "study/a.mp4", "demo/a.mp4", "poses/shards/0.tar",
                 "harvested/shards/0.tar", "runs/vicreg/checkpoint.pt", "harvest/__pycache__/run.pyc", "harvest/run.py",
                 "videos/a.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for excludes in (get_runtime_env_default_excludes(), []):  # earlier versions exclude nothing by themselves
        archive = tmp_path.with_suffix(".zip")
        packaging._zip_files(str(tmp_path), excludes, str(archive), include_gitignore=True)
        listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", archive], capture_output=True, text=True).stdout
        names = {line.split()[0] for line in listed.splitlines()[1:]}
        assert names == {".gitignore", ".rayignore", "harvest/run.py", "videos/a.mp4"}


@pytest.mark.slow
def test_a_failed_set_up_leaves_the_login_shell_alone(tmp_path):
    """Without an index nothing can be installed."""
    (tmp_path / "skelshot").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, tmp_path / "skelshot")
    without = tmp_path / "bin" / "python"
    without.parent.mkdir()
    without.write_text("#!/bin/sh\nexit 1\n")
    without.chmod(0o755)
    command, = load(LOCAL)["setup_commands"]
    assert " -C " not in command, "pip 23.0, that of Debian 12, knows --config-settings by its long name alone"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120, env={
        "HOME": str(tmp_path), "PATH": f"{without.parent}:{RAY.parent}:/usr/bin:/bin", "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull})
    assert done.returncode and "No matching distribution found for setuptools" in done.stderr, done.stderr
    assert not (tmp_path / ".bashrc").exists()


# --- a cluster of this machine alone


class Cluster:
    """A home folder, a Ray and a port of their own; its first `ray submit --start` starts the head."""

    def __init__(self, home, temporary):
        self.home, self.temporary, self.port = home, temporary, free_port()
        self.output = home / "poses"
        # The account's own folder must not be touched; a mounted package comes before an installed one.
        (home / ".bashrc").write_text(
            f'cd "{home}"\nexport HOME="{home}" PATH="{RAY.parent}:$PATH" PYTHONPATH="{home}/skelshot"\n'
            f'export RAY_TMPDIR="{temporary}" TMPDIR="{temporary}"\n')
        for i in range(2):
            fakes.write(home / f"walk{i}.mp4", fakes.walk(1.2, seed=i))

    def describe(self, job=None, **changes):
        """The shipped cluster file on our port, with our job and one more mount: the module of the tiny estimator."""
        cluster = yaml.safe_load(LOCAL.read_text().replace("6399", str(self.port)))
        cluster["file_mounts"]["~/tests"] = "tests"
        cluster["metadata"]["harvest"].update({"sources": ["walk*.mp4"], "output": str(self.output),
                                               "estimator": "tests.harvest.fakes:Blobs", **(job or {})})
        cluster.update(cluster_name=f"loopback-{self.port}", **changes)
        path = self.home / "cluster.yaml"
        path.write_text(yaml.safe_dump(cluster))
        return path

    def ray(self, *arguments, **environment):
        clean = {key: value for key, value in os.environ.items()
                 if not key.lower().endswith("_proxy") and "RAY" not in key and key != "PYTHONPATH"}
        done = subprocess.run([RAY, *map(str, arguments)], cwd=ROOT, timeout=240, capture_output=True, text=True,
                              env={**clean, "HOME": str(self.home), "PYTHONPATH": str(ROOT),
                                   "RAY_TMPDIR": str(self.temporary), "TMPDIR": str(self.temporary), **environment})
        return done.returncode, done.stdout + done.stderr

    def heads(self):
        return [pid for pid in self.processes()
                if f"--gcs_server_port={self.port}" in said_of(pid, "cmdline").split("\0")]

    def processes(self):
        """What names our temporary folder in its words or environment, and all that this has started.

        The latter are Ray's agents, which overwrite both. So they must be found before their raylet ends.
        """
        everybody = set(map(int, filter(str.isdigit, os.listdir("/proc")))) - {os.getpid()}
        parents = {pid: re.search(r"^PPid:\s*(\d+)", said_of(pid, "status"), re.MULTILINE) for pid in everybody}
        more = {pid for pid in everybody
                if any(str(self.temporary) in said_of(pid, name) for name in ("cmdline", "environ"))}
        ours = set()
        while more:
            ours |= more
            more = {pid for pid, parent in parents.items() if parent and int(parent[1]) in ours} - ours
        return ours

    def end(self):
        deadline = time.monotonic() + 20
        while ours := self.processes():
            assert time.monotonic() < deadline, f"processes left: {ours}"
            for pid in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    def strays(self):
        """What is left all the same, told in another way: by where it was started."""
        return [link.parent.name for link in Path("/proc").glob("[0-9]*/cwd") if stands_in(link, self.home)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stands_in(link, folder):
    try:
        return link.readlink().is_relative_to(folder)
    except OSError:
        return False


def said_of(pid, name):
    """A text that Linux keeps of a process; empty for one that is gone or another user's."""
    try:
        return Path("/proc", str(pid), name).read_bytes().decode(errors="replace")
    except OSError:
        return ""


LOOPBACK = {"provider": {"type": "external", "module": "tests.harvest.loopback_provider.Loopback",
                         "head_ip": "127.0.0.1", "worker_ips": []},
            # What Ray fills in for its own local provider.
            "max_workers": 0, "head_node_type": "head",
            "available_node_types": {"head": {"node_config": {}, "resources": {}}},
            "initialization_commands": [], "head_setup_commands": [], "worker_setup_commands": [], "auth": {}}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    temporary = Path(tempfile.mkdtemp(prefix="sk", dir="/tmp"))  # Ray's sockets need a short path
    cluster = Cluster(tmp_path_factory.mktemp("home"), temporary)
    yield cluster
    cluster.end()
    shutil.rmtree(temporary, ignore_errors=True)
    assert not cluster.strays()


def harvested(output):
    """The ids of what a harvest of the two videos left, after a look at its shards and its ledger."""
    summary = json.loads((output / "summary.json").read_text())
    assert summary["sources"] == 2 and summary["ok"] == 2
    return {sequence.id.partition("/")[0] for sequence in shards.read(str(output))}


@pytest.mark.slow
def test_ray_submit_starts_the_head_once_and_harvests(cluster):
    path = cluster.describe(**LOOPBACK)
    status, said = cluster.ray("submit", "--start", path, "harvest/run.py")
    assert status == 0, said[-3000:]
    assert len(harvested(cluster.output)) == 2
    assert not (cluster.home / "skelshot" / ".venv").exists(), "a Python that has SkelShot keeps its own"
    token = cluster.home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0 and token.read_text().strip() not in said
    head = cluster.heads()
    assert len(head) == 1

    path = cluster.describe({"fsp": 30}, **LOOPBACK)
    status, said = cluster.ray("submit", "--start", path, "harvest/run.py")
    assert status == 2
    assert "ray_bootstrap_config.yaml: unknown key 'fsp'" in said and "Traceback" not in said, said[-3000:]
    assert cluster.heads() == head


@pytest.fixture
def sshd(cluster, tmp_path):
    """The words that make ssh speak to an sshd of its own, started for one connection and without a port."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not (program and shutil.which("ssh") and shutil.which("rsync")):
        pytest.skip("needs ssh, sshd and rsync")
    # Root's sshd insists on this empty folder, which its start script would have made.
    made = os.geteuid() == 0 and not (needed := Path("/run/sshd")).exists()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "sshd_config").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PidFile none\nSetEnv HOME={cluster.home}\n")
    if made:
        needed.mkdir(mode=0o755)
    try:
        proxy, key = f"{program} -i -f {tmp_path}/sshd_config", str(tmp_path / "user")
        tried = subprocess.run(
            ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes",
             "-o", "UserKnownHostsFile=/dev/null", "-o", f"ProxyCommand={proxy}", "-i", key,
             f"{getpass.getuser()}@127.0.0.1", "true"], capture_output=True, text=True, timeout=60)
        if tried.returncode:
            pytest.skip(f"sshd does not let this account in: {' '.join(tried.stderr.split())[:200]}")
        yield {"ssh_user": getpass.getuser(), "ssh_private_key": key, "ssh_proxy_command": proxy}
    finally:
        if made:
            needed.rmdir()


@pytest.mark.slow
def test_ray_submit_through_ssh(cluster, sshd):
    output = cluster.home / "by-ssh"
    status, said = cluster.ray("submit", "--start", cluster.describe({"output": str(output)}, auth=sshd),
                               "harvest/run.py")
    assert status == 0, said[-3000:]
    assert len(harvested(output)) == 2
    assert len(cluster.heads()) == 1

    path = cluster.describe({"output": str(output), "fps": -1}, auth=sshd)
    status, said = cluster.ray("submit", "--start", path, "harvest/run.py")
    assert status == 1, "ssh tells Ray of a failure, and Ray makes it a 1"
    assert "ray_bootstrap_config.yaml: fps: " in said, said[-3000:]


@pytest.mark.slow
def test_ray_job_submit_from_a_checkout(cluster):
    if not cluster.heads():
        cluster.ray("up", "--yes", cluster.describe(**LOOPBACK))
    output = cluster.home / "by-job"
    words = ["job", "submit", "--working-dir", ".", "--", "python", "harvest/run.py", "configs/harvest.yaml",
             f"sources=[{cluster.home}/walk*.mp4]", f"output={output}", "estimator=tests.harvest.fakes:Blobs"]
    secret = {"RAY_ADDRESS": f"127.0.0.1:{cluster.port}", "RAY_AUTH_MODE": "token",
              "RAY_AUTH_TOKEN_PATH": str(cluster.home / ".ray" / "auth_token")}
    status, said = cluster.ray(*words, **secret)
    assert status == 0, said[-3000:]
    assert "succeeded" in said and len(harvested(output)) == 2

    status, said = cluster.ray(*words, "fps=-1", **secret)
    assert status == 1
    assert "configs/harvest.yaml: fps: " in said, said[-3000:]

    status, said = cluster.ray(*words, **secret | {"RAY_AUTH_TOKEN_PATH": "/dev/null"})
    assert status != 0 and "token" in said.lower(), "whoever has no token runs nothing"
