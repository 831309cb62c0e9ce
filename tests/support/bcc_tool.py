"""Runs a tool of bcc's as far as its program is compiled, and prints what came out of it, as JSON.

For the Python that has bcc: ``python3 -c TEXT TOOL [CFLAG…] [-- ARGUMENT…]``. Nothing is loaded into
the kernel: the tool's ``BPF`` attaches nothing by itself, and when it has compiled, the process ends.
"""

import importlib
import json
import os
import runpy
import sys
import time
from typing import Any

bcc: Any = importlib.import_module("bcc")  # has no types
tool, *arguments = sys.argv[1:]
cut = arguments.index("--") if "--" in arguments else len(arguments)
cflags, arguments = arguments[:cut], arguments[cut + 1 :]


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
        os.write(
            1,
            json.dumps({"seconds": seconds, "process": time.process_time(), "functions": functions}).encode()
            + b"\n",
        )
        os._exit(0)

    def _trace_autoload(self) -> None:
        pass


# As if the kernel had what tools attach to: here nothing is attached.
_ANSWERS: dict[str, Any] = {
    "get_kprobe_functions": lambda name: [name],
    "kernel_struct_has_field": lambda *names: int(names[-1] in (b"__state", "__state")),
    "ksymname": lambda *_: 1,
    "support_kfunc": lambda *_: False,
    "support_raw_tracepoint": lambda *_: False,
    "tracepoint_exists": lambda *_: False,
}
for _name, _answer in _ANSWERS.items():
    setattr(Compiled, _name, staticmethod(_answer))

bcc.BPF = Compiled
sys.argv = [tool, *arguments]
runpy.run_path(tool, run_name="__main__")
