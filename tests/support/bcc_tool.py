"""Runs a tool of bcc's as far as its program is compiled, and prints what came out of it, as JSON.

For the Python that has bcc: ``python3 -c TEXT TOOL CFLAG…``. Nothing is loaded into the kernel: the
tool's ``BPF`` attaches nothing by itself, and when it has compiled, the process ends.
"""

import importlib
import json
import os
import runpy
import sys
import time
from typing import Any

bcc: Any = importlib.import_module("bcc")  # has no types
tool, *cflags = sys.argv[1:]


class Compiled(bcc.BPF):  # type: ignore[misc]
    """Bcc's own, up to where it would load what it has compiled."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        given = named.pop("cflags", [])
        before = time.process_time()
        super().__init__(*arguments, cflags=[*given, *cflags], **named)
        seconds = time.process_time() - before
        names = [
            bcc.lib.bpf_function_name(self.module, index)
            for index in range(bcc.lib.bpf_num_functions(self.module))
        ]
        if not names:
            return  # some ask it something before they compile
        functions = {name.decode(): self.dump_func(name).hex() for name in names}
        os.write(1, json.dumps({"seconds": seconds, "functions": functions}).encode() + b"\n")
        os._exit(0)

    def _trace_autoload(self) -> None:
        pass


bcc.BPF = Compiled
sys.argv = [tool]
runpy.run_path(tool, run_name="__main__")
