"""What Nomad's words and numbers mean, and what counts as a failure, a crash, a request or a loss.

Every statistic, finding, plot and report reads these tables; none has a list of its own. A value that is in
no table is "unknown".

Sources: Nomad's client (client/allocrunner/taskrunner), the constants of its scheduler, signal(7), and the
shells' convention for exit codes.
"""

from __future__ import annotations

from typing import NamedTuple

SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    24: "SIGXCPU", 25: "SIGXFSZ", 31: "SIGSYS",
}  # fmt: skip
"""Names of the signals by their numbers on Linux."""

SIGNAL_NUMBERS = {
    **{name: number for number, name in SIGNALS.items()},
    # Go's words, which Nomad writes of the signals that it sends for a template
    "hangup": 1, "interrupt": 2, "quit": 3, "aborted": 6, "killed": 9, "user defined signal 1": 10,
    "user defined signal 2": 12, "alarm clock": 14, "terminated": 15,
}  # fmt: skip
"""Numbers of the signals by their names, and by Go's words for them."""

OWN_SIGNALS = (4, 5, 6, 7, 8, 11, 13, 14, 24, 25, 31)
"""Signals by which a program ends through its own doing, such as SIGSEGV, or SIGXCPU at its own limit."""

TEMPLATE_SIGNAL = "Template re-rendered"
"""What Nomad says of a signal that it sent because a template was rendered again."""

EXIT_CODES = {
    0: "ok",
    1: "error",
    2: "usage error",
    125: "container runtime failed",
    126: "not executable",
    127: "command not found",
    128: "invalid exit code",
    255: "exit code out of range",
    # Windows' NTSTATUS values, as signed 32-bit numbers
    -1073741819: "access violation",
    -1073741510: "interrupted",
    -1073741571: "stack overflow",
    -1073740791: "stack buffer overrun",
    -1073741515: "library not found",
    # shells report a process that a signal ended as 128 plus the signal's number
    **{128 + number: f"killed by {name}" for number, name in SIGNALS.items()},
}
"""Conventional meanings of exit codes. Any other code is the program's own and reads "error"."""

SIGKILL_CODE = 137
"""Exit code of a process killed by SIGKILL, by the kernel for memory, or by Nomad after the kill timeout."""


SHELL_SIGNAL = 128
"""Shells report a program that a signal ended as this plus the signal's number."""

SIGNAL_DELAY_US = 10_000_000
"""A program that ends this soon after it was sent the same signal was ended by it, in microseconds."""


class Cause(NamedTuple):
    """Why a run ended or a start failed, and what that counts as."""

    name: str
    """The value of the column `cause`."""
    kind: str
    """The group that plots and reports put it in."""
    fails: bool = False
    """Whether a bad end (exit code, signal or OOM kill) with this cause is a failure of the task itself."""
    crashes: bool = False
    """Whether the end counts toward a crash loop, provided that the restart policy had to decide."""


CAUSE_TABLE = (
    Cause("operator", "on request"),
    Cause("template", "on request"),
    Cause("vault", "on request"),
    Cause("identity", "on request"),
    Cause("requested", "on request"),  # by whom is not known: an unknown wording, or the request is lost
    Cause("health check", "health check", fails=True, crashes=True),
    Cause("plugin", "health check", fails=True, crashes=True),
    # Nomad killed the task as failed. `Killing` is the failure: the task may never have started.
    Cause("template failed", "killed as failed", fails=True, crashes=True),
    Cause("secrets", "killed as failed", fails=True, crashes=True),
    Cause("run duration", "killed as failed", fails=True, crashes=True),
    Cause("killed as failed", "killed as failed", fails=True, crashes=True),
    # Starts that failed. Their events are failures by type (see FAILED_STARTS), not by how a run ended.
    Cause("artifact", "failed start", crashes=True),
    Cause("volume", "failed start", crashes=True),
    Cause("setup", "failed start", crashes=True),
    Cause("driver", "failed start", crashes=True),
    Cause("validation", "failed start", crashes=True),
    Cause("hook", "failed start", crashes=True),
    # Nomad ended the task, and the task did nothing wrong.
    Cause("sibling", "other"),
    Cause("leader", "other"),
    Cause("main tasks done", "other"),
    Cause("disk", "other"),
    Cause("stopped", "other"),
    # The task ended by itself. "failure" holds exits with 0 that its restart policy had to decide about.
    Cause("out of memory", "out of memory", fails=True, crashes=True),
    Cause("failure", "failure", fails=True, crashes=True),
    Cause("completed", "other"),
    Cause("unknown", "other", fails=True),
)
"""Every cause, in order of precedence. If several apply to one attempt, the first wins."""

CAUSES = tuple(cause.name for cause in CAUSE_TABLE)
"""The values of the column `cause`, in order of precedence."""

KILLED_CAUSES = tuple(cause.name for cause in CAUSE_TABLE if cause.kind == "killed as failed")
"""Causes with which Nomad kills a task as failed. The failure is the `Killing`, not the exit that follows."""

FAILURE_CAUSES = tuple(cause.name for cause in CAUSE_TABLE if cause.fails)
"""Causes with which a bad end is a failure of the task itself."""

CRASH_CAUSES = tuple(cause.name for cause in CAUSE_TABLE if cause.crashes)
"""Causes of the ends that make a crash loop."""

REQUEST_CAUSES = tuple(cause.name for cause in CAUSE_TABLE if cause.kind == "on request")
"""Causes of restarts that somebody or something asked for."""

LOST = "lost"
"""The end of a run, and the cause of a disturbance, if the allocation was lost with its node."""

CAUSE_KINDS = {**{cause.name: cause.kind for cause in CAUSE_TABLE}, LOST: "lost with its node"}
"""The group of each cause."""

LOST_STATUSES = ("lost", "unknown")
"""Client statuses of an allocation whose node is down ("lost") or out of reach ("unknown")."""

FINISHED_STATUSES = ("complete", "failed", "lost")
"""Client statuses of an allocation that will not run again."""

STOPPING_STATUSES = ("stop", "evict")
"""Desired statuses of an allocation that the servers want to end."""

RESTART_DECISIONS = ("Restarting", "Not Restarting")
"""Event types of what the restart policy decided; each ends an attempt."""

NODE_BOUND_JOB_TYPES = ("system", "sysbatch")
"""Types of jobs that run on every node. Their allocations are bound to it and not replaced elsewhere."""

HOOK_FAILED = "Task hook failed"
"""Event type of a hook that failed. Before `Started` it is a failed start. After it, it may be a script that
is told of a re-rendered template, and the task keeps running."""

FAILED_STARTS = {
    "Failed Artifact Download": "artifact",
    "Setup Failure": "setup",
    "Driver Failure": "driver",
    "Failed Validation": "validation",
}
"""Event types of failed starts and their causes. Each such event is a failure."""

FAILED_START_TEXTS = {
    'failed to setup alloc: pre-run hook "csi_hook"': "volume",
    "volumes: ": "volume",
    "template: ": "template failed",
    "vault: ": "secrets",
    "identity: ": "secrets",
    "consul_si_token: ": "secrets",
}
"""How messages of `Setup Failure` and `Task hook failed` begin if they name the hook, and the causes."""

KILLED_AS_FAILED = {
    "Template": "template failed",
    "Vault": "secrets",
    "Identity[": "secrets",
    "CSI plugin": "plugin",
}
"""How the message of a `Killing` that fails the task begins, and the causes; otherwise "killed as failed"."""

ERROR_WORDS = (
    ("run duration", r"max_run_duration"),
    # Nomad names the hook that failed
    ("artifact", r'hook "artifacts?"|^artifacts?: '),
    ("template", r'hook "template"|^template|\btemplate failed|template\)'),
    ("secrets", r'hook "(?:vault|identity|consul|consul_si)[^"]*"|^(?:vault|identity|consul\w*|secrets): '),
    ("volume", r'hook "(?:csi|volume|volumes|host_volume)[^"]*"|^volumes: '),
    (
        "driver",
        r'hook "(?:network|logmon|dispatch|task_dir|device)[^"]*"|driver config|initialize task'
        r"|^(?:validate|logmon|dispatch_payload|task_dir|devices): ",
    ),
    ("health check", r"^healthcheck: |^CSI plugin|plugin failed probe|plugin became unhealthy"),
    ("secrets", r"\bvault\b|\bidentity\b|\bsecrets?\b|\btoken\b|\bSI token|^consul_si"),
    ("volume", r"\bvolumes?\b|\bCSI\b|\bmount"),
    ("artifact", r"\bartifact"),
    ("template", r"\btemplate"),
)
"""How Nomad names what failed anywhere in a text, as kinds of causes, the more exact first.

A diagnosis reads them; statistics, which name fewer causes, go by how a text begins (`FAILED_START_TEXTS`,
`KILLED_AS_FAILED`). Both must say the same of the same text. No program's output is among these texts.
"""

OOM_DETAIL = '"exit_message":"OOM Killed"'
"""What the details of an event hold if the driver reports an OOM kill only in its exit message."""

RESTART = "Restarting"
"""The event of one restart, whoever asked for it. A task that gives up has "Not Restarting" in its place."""

RUN_DURATION = "allocation exceeded max_run_duration"
"""Message of `Killing` if the allocation ran longer than its group allows. It has no `fails_task`."""

ENDED_BY = {
    "Sibling Task Failed": "sibling",
    "Leader Task Dead": "leader",
    "Main Tasks Dead": "main tasks done",
    "Disk Resources Exceeded": "disk",
}
"""Event types that say why Nomad ends a task that did nothing wrong itself, and their causes."""

REQUESTS = {
    "User requested restart": "operator",
    "User requested task to restart": "operator",
    "User requested all tasks to restart": "operator",
    "User requested running tasks to restart": "operator",
    "Template with change_mode restart re-rendered": "template",
    "Vault: new Vault token acquired": "vault",
}
"""Reasons of `Restart Signaled` and who asked for the restart. Any other wording is "requested"."""

REQUEST_PREFIXES = {"Identity[": "identity"}
"""How a reason begins that names something of the job."""

HEALTH_CHECK = "healthcheck: "
"""Prefix of the reason of `Restart Signaled` if a health check asked; the name of the check follows."""

DELAYED = "Exceeded allowed attempts, applying a delay"
"""Reason of `Restarting` if the policy (mode "delay") waits for the next interval."""

DECISIONS = {
    "Restart within policy": "within policy",
    DELAYED: "within policy, delayed",
    "Error was unrecoverable": "given up: unrecoverable",
    "Policy allows no restarts": "given up: no restarts allowed",
}
"""Reasons of `Restarting` and `Not Restarting`, and what the policy decided.

A restart on request has no reason, even if the request itself is gone from the ring: nothing failed.
"""

EXHAUSTED = "Exceeded allowed attempts "
"""Prefix of the reason of `Not Restarting` if all attempts were used up; their number and interval follow."""

STOP_REASONS = {
    "alloc not needed due to job update": "not needed any more",
    "alloc not needed due to disconnected client reconnect": "replaced while its node was disconnected",
    "alloc is being migrated": "migrated",
    "alloc is being updated due to job update": "job update",
    "alloc is lost since its node is down": "node down",
    "alloc is unknown since its node is disconnected": "node disconnected",
    "alloc updating in-place": "updated in place",
    "alloc not needed as node is tainted": "node tainted",
    "alloc was rescheduled because it failed": "rescheduled after failure",
}
"""Meanings of `desired_description`: the scheduler's nine constants, the same in every version."""

MIGRATIONS = {
    "alloc-stop": "stopped by operator",
    "node-drain": "node drained",
    "node-update": "node changed",
    "preemption": "preempted",
}
"""Triggers of the evaluation that placed a replacement. They tell a drain from ``nomad alloc stop``."""
