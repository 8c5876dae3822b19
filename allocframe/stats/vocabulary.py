"""What Nomad's words and numbers mean: exact tables, in one place.

Sources: Nomad's client (client/allocrunner/taskrunner), its scheduler's constants, signal(7), and the shells'
convention for exit codes. What is in no table stays "unknown".
"""

from __future__ import annotations

SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL",
    10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 25: "SIGXFSZ",
    31: "SIGSYS",
}  # fmt: skip
"""Signals by their number on Linux."""

EXIT_CODES = {
    0: "ok",
    1: "error",
    2: "usage error",
    125: "container runtime failed",
    126: "not executable",
    127: "command not found",
    128: "invalid exit code",
    255: "exit code out of range",
    -1073741819: "access violation",
    -1073741510: "interrupted",
    -1073741571: "stack overflow",
    -1073740791: "stack buffer overrun",
    -1073741515: "library not found",
    **{128 + number: f"killed by {name}" for number, name in SIGNALS.items()},
}
"""What an exit code says by convention; other codes are the program's own, "error"."""

SIGKILL_CODE = 137

FAILED_STARTS = {
    "Failed Artifact Download": "artifact",
    "Setup Failure": "setup",
    "Driver Failure": "driver",
    "Failed Validation": "validation",
}
"""Event types of a start that failed, and the cause that each stands for."""

ENDED_BY = {
    "Sibling Task Failed": "sibling",
    "Leader Task Dead": "leader",
    "Main Tasks Dead": "main tasks done",
    "Disk Resources Exceeded": "disk",
    "Task hook failed": "hook",
}
"""Event types that say why a task is ended, though it did nothing wrong itself."""

REQUESTS = {
    "User requested restart": "operator",
    "User requested task to restart": "operator",
    "User requested all tasks to restart": "operator",
    "User requested running tasks to restart": "operator",
    "Template with change_mode restart re-rendered": "template",
    "Vault: new Vault token acquired": "vault",
}
"""Reasons of `Restart Signaled`, by whom the restart was asked for."""

HEALTH_CHECK = "healthcheck: "
"""How the reason of `Restart Signaled` starts where a health check asked; the check's name follows."""

DELAYED = "Exceeded allowed attempts, applying a delay"

DECISIONS = {
    "Restart within policy": "within policy",
    DELAYED: "within policy, delayed",
    "Error was unrecoverable": "given up: unrecoverable",
    "Policy allows no restarts": "given up: no restarts allowed",
}
"""Reasons of `Restarting` and `Not Restarting`: what the restart policy decided. None is given for a restart on request."""

EXHAUSTED = "Exceeded allowed attempts "
"""How the reason of `Not Restarting` starts where all attempts were used up; their number and interval follow."""

CAUSES = (
    "operator", "template", "vault", "health check", "artifact", "setup", "driver", "validation", "hook", "sibling", "leader",
    "main tasks done", "disk", "stopped", "out of memory", "failure", "completed", "unknown",
)  # fmt: skip
"""Why a run of a task ended, or did not start. Earlier ones win where several apply."""

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
"""`desired_description`: the nine constants of the scheduler, equal in every version."""

MIGRATIONS = {
    "alloc-stop": "stopped by operator",
    "node-drain": "node drained",
    "node-update": "node changed",
    "preemption": "preempted",
}
"""What triggered the evaluation that placed the replacement, which tells a drain from ``nomad alloc stop``."""
