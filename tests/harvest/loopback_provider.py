"""A Ray node provider whose only node is this machine, without ssh: the loopback of `ray submit`."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ray.autoscaler._private.local.node_provider import LocalNodeProvider
from ray.autoscaler.command_runner import CommandRunnerInterface


class Loopback(LocalNodeProvider):
    """Named in a cluster file as ``provider: {type: external, module: ..., head_ip: 127.0.0.1, worker_ips: []}``."""

    def get_command_runner(self, *args, **kwargs):
        return Shell()


class Shell(CommandRunnerInterface):
    """Runs commands as Ray's own runner does behind ssh, in a login shell that has read ~/.bashrc."""

    def run(self, cmd=None, exit_on_fail=False, with_output=False, environment_variables=None, **others):
        variables = (environment_variables or {}).items()
        exports = "".join(f"export {key}={shlex.quote(str(value))}; " for key, value in variables)
        words = ["bash", "--login", "-c", f"source ~/.bashrc; export OMP_NUM_THREADS=1; {exports}({cmd})"]
        done = subprocess.run(words, cwd=Path.home(), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE if with_output else None)
        if done.returncode and exit_on_fail:
            sys.exit(done.returncode)
        done.check_returncode()
        return done.stdout

    def run_rsync_up(self, source, target, options=None):
        self._copy(Path(source), Path(target).expanduser())

    def run_rsync_down(self, source, target, options=None):
        self._copy(Path(source).expanduser(), Path(target))

    def run_init(self, **others):
        return None

    def remote_shell_command_str(self):
        return "bash --login"

    def _copy(self, source, target):
        if target.exists() and source.samefile(target):
            return
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
