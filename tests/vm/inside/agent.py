#!/usr/bin/python3
"""Runs inside the guest: does what the host asks for over a virtio-serial port.

A request is a line of JSON, and so is its answer; bytes are in base64:

    {"id": 1, "command": ["ls"], "user": null, "timeout": 60, "input": ""}
    {"id": 2, "write": "/path", "mode": 420, "data": ""}
    {"id": 3, "read": "/path"}

    {"id": 1, "status": 0, "output": "", "errors": "", "seconds": 0.1}
    {"id": 2, "failure": "why it could not be done"}
"""

import base64
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

TIMED_OUT = 124  # as timeout(1) has it


def main(port: str) -> None:
    while not os.path.exists(port):  # udev makes it
        time.sleep(0.05)
    descriptor = os.open(port, os.O_RDWR)
    begun: list[bytes] = []  # of a line, which may be of many megabytes
    while True:
        piece = os.read(descriptor, 65536)
        if not piece:  # nobody has the other end open
            select.select([], [], [], 0.02)
            continue
        first, *others = piece.split(b"\n")
        begun.append(first)
        if not others:
            continue
        *whole, rest = others
        lines, begun = [b"".join(begun), *whole], [rest]
        for line in lines:
            if line.strip():
                send(descriptor, answer(line))


def send(descriptor: int, reply: dict[str, object]) -> None:
    data = json.dumps(reply).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data[:32768]) :]


def answer(line: bytes) -> dict[str, object]:
    number = None
    try:
        request = json.loads(line)
        number = request["id"]
        if "command" in request:
            return {"id": number, **run(request)}
        if "write" in request:
            return {"id": number, **write(request)}
        return {"id": number, "data": base64.b64encode(Path(request["read"]).read_bytes()).decode()}
    except Exception as error:  # noqa: BLE001 - the host shall know, and the agent go on
        return {"id": number, "failure": repr(error)}


def write(request: dict[str, str]) -> dict[str, object]:
    path = Path(request["write"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(request["data"]))
    path.chmod(int(request["mode"]))
    return {}


def run(request: dict[str, str]) -> dict[str, object]:
    command = list(request["command"])
    if request["user"]:
        command = ["runuser", "-u", request["user"], "--", *command]
    started = time.monotonic()
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    status = None
    try:
        output, errors = child.communicate(
            base64.b64decode(request["input"]), timeout=float(request["timeout"])
        )
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
        os.killpg(child.pid, signal.SIGKILL)
        output, errors = child.communicate()
    return {
        "status": child.returncode if status is None else status,
        "output": base64.b64encode(output).decode(),
        "errors": base64.b64encode(errors).decode(),
        "seconds": round(time.monotonic() - started, 3),
    }


if __name__ == "__main__":
    main(sys.argv[1])
