"""A SLURM of one node on this machine, for tests: munged, slurmctld and slurmd from Debian's packages, in a folder of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def cluster(folder, monkeypatch):
    """SLURM, running, with one partition `main`; skips the test, with the reason, where it cannot start."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: {INSTALL}")
    if os.geteuid():
        pytest.skip("the daemons of SLURM start jobs as other users: run the test as root")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    host = socket.gethostname().split(".")[0]
    ports = [free_port() for _ in range(2)]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, ports=ports, folder=folder, cpus=os.cpu_count()))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("PATH", path)
    files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder / 'munge.socket'}", *files],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    )
    started = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "wb") as out:
                started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
            wait(lambda: (folder / "munge.socket").exists(), started, folder)
        wait(idle, started, folder)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def idle():
    return answer("sinfo", "-h", "-o", "%T") == "idle"


def answer(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def heard(signal):
    """The jobs that run a process which has a handler of its own for a signal."""
    for job in answer("squeue", "-h", "-t", "RUNNING", "-o", "%i").split():
        for line in answer("scontrol", "listpids", job).splitlines()[1:]:
            with contextlib.suppress(OSError):
                status = Path("/proc", line.split()[0], "status").read_text()
                caught = int(status.partition("SigCgt:")[2].split()[0], 16)
                if caught & (1 << (signal - 1)) and "python" in status.splitlines()[0]:
                    yield job


def wait(ready, started, folder, seconds=60):
    end = time.monotonic() + seconds
    while not ready():
        for process in started:
            if process.poll() is not None or time.monotonic() > end:
                name = process.args[0]
                log = (folder / f"{name}.out").read_text().splitlines()
                pytest.skip(f"SLURM does not start here: {name}: {log[-1] if log else 'no answer'}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
