"""A real SLURM on this machine alone: its controller and one node on the loopback, without systemd, as root.

``python tests/cluster/loopback.py FOLDER`` starts one and keeps it until Ctrl-C, to try things by hand.

Only /etc/slurm/slurm.conf lies outside the folder: the executor plugin's inner ``srun`` finds no other configuration.
A file there that is not from here is never touched.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

CONFIGURATION = pathlib.Path("/etc/slurm/slurm.conf")
MARK = "# A test's SLURM on the loopback; its test removes this file."
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
#: Seconds within which the daemons must be up, on the slowest machine.
PATIENCE = 60


def why_not() -> str | None:
    """Return why no SLURM can be started here (in words), or None."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        return f"{', '.join(missing)} not installed (Debian, Ubuntu: apt install slurm-wlm munge)"
    if os.geteuid():
        return "only root can start SLURM's daemons"
    if CONFIGURATION.exists() and not CONFIGURATION.read_text(encoding="utf-8").startswith(MARK):
        return f"this machine has a SLURM of its own ({CONFIGURATION})"
    if CONFIGURATION.exists() and subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        return "another test's SLURM is running here"
    return None


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def configuration(folder: pathlib.Path, cpus: int, memory: int) -> str:
    """Return slurm.conf for one node with as many processors and MB as asked for, though the machine may have fewer."""
    host, (control, node) = socket.gethostname().split(".")[0], free_ports(2)
    options = {
        "ClusterName": "loopback", "SlurmctldHost": "localhost(127.0.0.1)", "SlurmUser": "root", "SlurmdUser": "root",
        "SlurmctldPort": control, "SlurmdPort": node, "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "AuthType": "auth/munge", "AuthInfo": f"socket={folder}/munge.socket", "CredType": "cred/munge",
        "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid", "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "MpiDefault": "none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory",
        "SlurmdParameters": "config_overrides", "ReturnToService": 2, "JobRequeue": 1, "MinJobAge": 300,
        "SchedulerParameters": "bf_interval=1,sched_min_interval=100000", "KillWait": 2,
    }  # fmt: skip
    lines = [f"{name}={value}" for name, value in options.items()]
    lines += [f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN"]
    lines += [f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP"]
    return "\n".join([MARK, *lines, ""])


@contextlib.contextmanager
def slurm(folder: pathlib.Path, *, cpus: int = 4, memory: int = 64_000) -> Iterator[pathlib.Path]:
    """Start SLURM with configuration, state and logs in a folder; end it, and every job of it, on leaving.

    Raises:
        RuntimeError: where it cannot be started, with its log.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    folder = pathlib.Path(folder).resolve()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(configuration(folder, cpus, memory), encoding="utf-8")
    places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{name}" for option, name in places.items()]
    path = {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
    daemons: list[subprocess.Popen] = []
    try:
        for command in (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.out", "w") as log:
                options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": os.environ | path}
                daemons.append(subprocess.Popen(command, start_new_session=True, **options))
            if command[0] == "munged":
                _wait_for(lambda: (folder / "munge.socket").exists(), folder)
        _wait_for(lambda: "idle" in _said("sinfo", "-h", "-o", "%T"), folder)
        yield folder
    finally:
        _said("scancel", "--user", "root")
        deadline = time.monotonic() + 10
        while _said("squeue", "-h", "-t", "R,CG") and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()
        CONFIGURATION.unlink()


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()


def _wait_for(condition, folder: pathlib.Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(file.read_text(errors="replace") for file in folder.glob("*.out"))
            raise RuntimeError(f"SLURM did not start within {PATIENCE} s:\n{logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # also in the background of a script, where Ctrl-C is ignored
        signal.signal(number, lambda *_: sys.exit())
    with slurm(pathlib.Path(sys.argv[1])):
        print(_said("sinfo"), "\nCtrl-C ends it.", flush=True)
        with contextlib.suppress(SystemExit):
            while True:
                time.sleep(1)
