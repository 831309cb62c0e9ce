"""Tracing tools in a guest, run in the background until they have seen something."""

from __future__ import annotations

import re
import shlex

from tests.vm.guest import Guest

TOOL_LIMIT = 240.0
"""Seconds; compiling with headers takes ten to thirty in an emulated machine."""

TASK_STRUCT = """\
#include <linux/sched.h>
BEGIN { printf("task_struct has %d bytes\\n", sizeof(struct task_struct)); exit(); }"""
"""A program for bpftrace that needs a structure of the kernel."""

TCP_CONNECTION = (
    'python3 -c \'import socket; s = socket.create_server(("127.0.0.1", 0)); '
    "c = socket.create_connection(s.getsockname()); a, _ = s.accept(); "
    'c.sendall(b"x" * 5000); a.recv(5000); c.close(); a.close()\''
)
"""A command that opens and closes a local connection."""

_LOG = "/tmp/tool.log"


def bpftrace(guest: Guest, program: str, user: str | None = None) -> str:
    """What a program that ends by itself prints."""
    return guest.check(["bpftrace", "-e", program], timeout=TOOL_LIMIT, user=user)


def traced(
    guest: Guest, tool: str, started: str, trigger: str, seen: str, *, timeout: float = TOOL_LIMIT
) -> str:
    """Run a tool until it has seen something.

    Args:
        started: a pattern, as of grep -E, of what it prints when it is ready.
        trigger: a command that it is to see.
        seen: a pattern of what it prints then. A tool that sees all programs also sees the search for it.

    Returns:
        The lines with what it has seen.
    """
    script = f"""
        env PYTHONUNBUFFERED=1 stdbuf -oL {tool} >{_LOG} 2>&1 </dev/null & tool=$!
        until grep -qE -e {shlex.quote(started)} {_LOG}; do kill -0 $tool || exit 1; sleep 0.2; done
        until grep -qE -e {shlex.quote(seen)} {_LOG}; do kill -0 $tool || break; {trigger}; sleep 0.5; done
        kill $tool 2>/dev/null
        wait $tool
        grep -E -e {shlex.quote(seen)} {_LOG}
    """
    done = guest.run(script, timeout=timeout)
    assert done.status == 0, done.said + log_of(guest)
    return done.output


def log_of(guest: Guest) -> str:
    """What the tool that ran last has printed, and its errors."""
    return guest.read(_LOG).decode(errors="replace")


def seconds_to_first_line(guest: Guest, tool: str, started: str, *, timeout: float = TOOL_LIMIT) -> float:
    """Run a tool until its first line, which must begin as the pattern ``started`` says.

    Returns:
        Seconds by the guest's clock. Nothing else looks for the line meanwhile: that would take the time of
        the guest's only processor.
    """
    script = f"""
        start=$EPOCHREALTIME
        exec 3< <(PYTHONUNBUFFERED=1 exec {tool} 2>{_LOG} </dev/null); tool=$!
        read -r line <&3
        end=$EPOCHREALTIME
        kill $tool 2>/dev/null
        wait $tool
        echo "$start $end $line"
    """
    start, end, line = guest.check(script, timeout=timeout).split(maxsplit=2)
    assert re.match(started, line), line + log_of(guest)
    return float(end) - float(start)
