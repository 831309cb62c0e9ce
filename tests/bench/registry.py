"""What a registry on loopback gives against what is made here: headers, and precompiled headers.

By hand: ``python -m tests.bench.registry``, as root, with nothing else at work. The headers are real ones.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.kheaders import make_real_headers
from tests.support.oci_registry import SigningKey, running_registry
from tests.support.precompiling import COMPILERS, is_there
from tests.support.registry_nodes import Node, configuration, running_node

_CLANG = next(filter(is_there, COMPILERS), "")
_GOAL = 1.3
_PCH_GOAL = 1.0
_PROFILES = ("bpf-core", "bpf-tracing")

_PROGRAM = """\
#include <linux/sched.h>
__attribute__((section("kprobe/do_exit"), used)) int traced(void *registers)
{
	return sizeof(struct task_struct);
}
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


def main(rounds: int = 7) -> None:
    real = make_real_headers()
    with (
        tempfile.TemporaryDirectory(prefix="kh-bench-", dir="/dev/shm") as directory,
        running_registry() as registry,
    ):
        repository = f"{registry.name}/kernels"
        base = Path(directory)
        key = SigningKey(base / "key")
        own = configuration(repository, "RegistryUnsigned=yes", f"PushPchSigningKey={key.private}")
        with running_node(base / "node", registry, own, lookaside=base / "lookaside") as node:
            modules = node.host.root / "lib/modules" / real.release / "kernel/kernel"
            modules.mkdir(parents=True)
            shutil.copy(real.module, modules)
            node.do("push", real.release, repository)
            before = len(registry.requests())
            node.do("push", real.release, repository)
            print(f"requests of a push of what is there: {len(registry.requests()) - before} (at most 5)")
            found: dict[str, list[float]] = {"module-file": [], "registry": []}
            for _ in range(rounds):
                for source, seconds in found.items():
                    seconds.append(_get(node, real.release, source))
            ratio = _ratio(found)
            print(f"a fetch takes {ratio:.2f} times as long as an extraction (at most {_GOAL})")
            for profile in _PROFILES:
                _call_pch(node, real.release, profile)
            node.do("push", real.release, repository, "--pchs")
            taking = configuration(repository, f"PchKey={key.public}")
            for profile in _PROFILES:
                _compare_pchs(node, real.release, profile, {"own": own, "registry": taking}, rounds)


def _compare_pchs(node: Node, release: str, profile: str, settings: dict[str, str], rounds: int) -> None:
    """Print how long a first program takes, with a precompiled header from each."""
    calls: dict[str, list[float]] = {name: [] for name in settings}
    programs: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, text in settings.items():
            assert node.daemon.stop() == 0
            for made in node.daemon.cache.glob("*/pch"):
                shutil.rmtree(made)
            node.configure(text)
            node.daemon.start()
            node.do("get", release)
            begun = time.perf_counter()
            arguments, origin = _call_pch(node, release, profile)
            called = time.perf_counter()
            command = [_CLANG, *arguments, "-c", "-o", os.devnull, "-x", "c", "-"]
            subprocess.run(command, input=_PROGRAM.encode(), check=True)
            programs[name].append(time.perf_counter() - called)
            calls[name].append(called - begun)
            assert bool(origin) == (name == "registry")
    first = {name: [sum(both) for both in zip(calls[name], programs[name], strict=True)] for name in settings}
    for what, found in (("GetPch", calls), ("the program alone", programs), ("both", first)):
        ratio = _ratio(found)
        print(f"{profile}, {what}: {ratio:.2f} times as long (of both at most {_PCH_GOAL})")


def _call_pch(node: Node, release: str, profile: str) -> tuple[list[str], str]:
    """The arguments of a precompiled header, and the artifact that it is from."""
    _, arguments, details = node.bus.call("GetPch", "ssa{sv}", release, profile, "1", "compiler", "s", _CLANG)
    return arguments, details["pch_origin"]


def _ratio(found: dict[str, list[float]]) -> float:
    """How much longer the second takes than the first; prints both."""
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    print(", ".join(f"{name} {seconds:.3f} s" for name, seconds in medians.items()))
    first, second = medians.values()
    return second / first


def _get(node: Node, release: str, source: str) -> float:
    """Seconds of one call for headers that are made anew."""
    begun = time.perf_counter()
    options = ("2", "refresh", "b", "true", "sources", "as", "1", source)
    _, details = node.bus.call("GetHeaders", "sa{sv}", release, *options)
    seconds = time.perf_counter() - begun
    assert details["source"] == source
    return seconds


if __name__ == "__main__":
    main()
