"""Programs compiled with precompiled headers of the kernel that runs them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.service import CACHE, COMPILE_LIMIT, give_compilers_time, module_is_loaded
from tests.vm.suites import everywhere
from tests.vm.tracing import TASK_STRUCT, TCP_CONNECTION, bpftrace, log_of, traced


@dataclasses.dataclass(frozen=True, slots=True)
class _Tool:
    """A tool of bcc's, and what `traced` needs to know of it."""

    name: str
    started: str
    trigger: str
    seen: str


# Each is to see one thing, and to say of which program it was. It is a read because Debian 13's biosnoop sees
# no write of its kernel's, whatever it was compiled with, and of a place that nothing else reads.
_TOOLS = (
    _Tool("execsnoop-bpfcc", "^P?COMM ", "cat /etc/hostname", "^cat .* /etc/hostname$"),
    _Tool("tcplife-bpfcc", "^PID ", TCP_CONNECTION, "^[0-9]+ +python3 +127.0.0.1 "),
    _Tool(
        "biosnoop-bpfcc",
        r"^TIME\(s\) ",
        "dd if=/dev/vda of=/dev/null bs=4096 skip=300 count=1 iflag=direct",
        "^[0-9.]+ +dd +[0-9]+ +vda +R +2400 +4096 ",
    ),
)

_COUNTS_READS = """\
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, unsigned long);
	__type(value, u64);
	__uint(max_entries, 1024);
} reads SEC(".maps");

SEC("kprobe/vfs_read")
int BPF_KPROBE(count_reads, struct file *file)
{
	struct inode *inode = 0;
	unsigned long number = 0;
	u64 one = 1, *count;

	bpf_probe_read_kernel(&inode, sizeof(inode), &file->f_inode);
	bpf_probe_read_kernel(&number, sizeof(number), &inode->i_ino);
	count = bpf_map_lookup_elem(&reads, &number);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&reads, &number, &one, BPF_ANY);
	return 0;
}

char _license[] SEC("license") = "GPL";
"""

_COUNTS_EXITS = """\
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, u64);
	__type(value, u64);
	__uint(max_entries, 1024);
} exits SEC(".maps");

SEC("kprobe/do_exit")
int count_exits(struct pt_regs *registers)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u64 key = BPF_CORE_READ(task, tgid), one = 1;

	bpf_map_update_elem(&exits, &key, &one, BPF_ANY);
	return 0;
}

char _license[] SEC("license") = "GPL";
"""


# As a program of one's own uses what kheadersctl prints.
_BCC = """
import json, os, subprocess, sys
details = json.load(open("/tmp/work/details.json"))
os.environ["BCC_KERNEL_SOURCE"] = details["source_tree"]
from bcc import BPF
TEXT = '''
#include <linux/fs.h>
#include <linux/sched.h>
BPF_HASH(reads, u64);
int kprobe__vfs_read(struct pt_regs *registers, struct file *file)
{
	u64 number = file->f_inode->i_ino;

	reads.increment(number);
	return 0;
}
'''
b = BPF(text=TEXT, cflags=details["arguments"] if sys.argv[1:] else [])
for _ in range(3):
    subprocess.run(["cat", "/etc/hostname"], stdout=subprocess.DEVNULL, check=True)
print(b["reads"][b["reads"].Key(os.stat("/etc/hostname").st_ino)].value)
"""


@pytest.fixture
def workplace(guest: Guest) -> Guest:
    """The guest, with more time for compilers."""
    guest.check("mkdir /tmp/work")
    give_compilers_time(guest)
    return guest


# By libbpf, which bpftrace needs: the guest's bpftool loads programs, and attaches none of these.
_ATTACH = """
import ctypes, sys, time
libbpf = ctypes.CDLL("libbpf.so.1")
for name in ("bpf_object__open_file", "bpf_object__next_program", "bpf_program__attach"):
    getattr(libbpf, name).restype = ctypes.c_void_p
program = ctypes.c_void_p(libbpf.bpf_object__open_file(sys.argv[1].encode(), None))
assert program.value and libbpf.bpf_object__load(program) == 0
function = ctypes.c_void_p(libbpf.bpf_object__next_program(program, None))
assert libbpf.bpf_program__attach(function)
print("attached", flush=True)
time.sleep(3600)
"""


def _attached(guest: Guest) -> None:
    """Load the program into the kernel, where it counts from now on."""
    guest.write("/tmp/work/attach.py", _ATTACH)
    guest.check(
        "python3 /tmp/work/attach.py /tmp/work/program.o >/tmp/work/log 2>&1 </dev/null & attaching=$!; "
        "until grep -q attached /tmp/work/log; do kill -0 $attaching || { cat /tmp/work/log; exit 1; }; "
        "sleep 0.2; done",
        timeout=COMPILE_LIMIT,
    )


def _counted(guest: Guest, map_name: str) -> dict[int, int]:
    """What a map has by now, as numbers of this machine's order of bytes."""
    entries = json.loads(guest.check(f"bpftool --json map dump name {map_name}"))
    return {_number(entry["key"]): _number(entry["value"]) for entry in entries}


def _number(data: list[str]) -> int:
    return int.from_bytes(bytes(int(byte, 16) for byte in data), "little")


@everywhere
def test_the_headers_are_gone_and_it_counts(workplace: Guest, figures: Figures) -> None:
    words = ["kheadersctl", "pch", "bpf-core", "--drop-headers", "--json"]
    details = json.loads(workplace.check(words, timeout=COMPILE_LIMIT))
    assert details["headers_kept"] is False
    assert not module_is_loaded(workplace)
    workplace.check(f"test -e {details['path']} && test ! -e {details['source_tree']}/include/linux/fs.h")
    left = int(workplace.check(f"du -s --block-size=1 {details['source_tree']}").split()[0])
    figures.add("left of the headers beside the precompiled", left / (1 << 20), "MiB", aim=1.0)
    # Not "cc": that would have the headers kept, and bring them back.
    workplace.write("/tmp/work/program.c", _COUNTS_READS)
    words = [details["compiler"], *details["arguments"], "-c", "program.c", "-o", "program.o"]
    workplace.check(["env", "-C", "/tmp/work", *words], timeout=COMPILE_LIMIT)
    workplace.check(f"test ! -e {details['source_tree']}/include/linux/fs.h")
    _attached(workplace)
    inode = int(workplace.check("stat -c %i /etc/hostname"))
    workplace.check("for n in 1 2 3; do cat /etc/hostname >/dev/null; done")
    assert _counted(workplace, "reads")[inode] >= 3
    # What happens after the next boot does not bring them back.
    workplace.check("systemctl start kheaders-boot.service")
    workplace.wait_for('[ "$(systemctl show -P ActiveState kheaders-boot.service)" = inactive ]')
    workplace.check(f"test ! -e {details['source_tree']}/include/linux/fs.h")


@everywhere
def test_types_of_the_running_kernel(workplace: Guest) -> None:
    workplace.write("/tmp/work/program.c", _COUNTS_EXITS)
    words = ["kheadersctl", "cc", "-v", "/tmp/work/program.c", "-o", "/tmp/work/program.o"]
    said = workplace.run(words, timeout=COMPILE_LIMIT).said
    assert "compiled with a precompiled header" in said, said
    workplace.check(f"ls {CACHE}/*/tree/vmlinux.h")
    _attached(workplace)
    pid = int(workplace.check("sh -c 'echo $$'"))
    assert pid in _counted(workplace, "exits")


@everywhere
def test_bcc_with_the_headers_gone(workplace: Guest) -> None:
    words = ["kheadersctl", "pch", "bcc-base", "--drop-headers", "--json"]
    said = workplace.check(words, timeout=COMPILE_LIMIT)
    details = json.loads(said)
    assert details["headers_kept"] is False
    assert not module_is_loaded(workplace)
    workplace.check(f"test ! -e {details['source_tree']}/include/linux/fs.h")
    workplace.write("/tmp/work/details.json", said)
    workplace.write("/tmp/work/bcc_reads.py", _BCC)
    counted = workplace.check("env -C /tmp/work python3 bcc_reads.py precompiled", timeout=COMPILE_LIMIT)
    assert int(counted.splitlines()[-1]) >= 3
    # By the precompiled header and nothing else: without it there is no such header.
    failed = workplace.run("env -C /tmp/work python3 bcc_reads.py", timeout=COMPILE_LIMIT)
    assert failed.status != 0
    assert "file not found" in failed.said


def test_unmodified_tools_with_the_headers_gone(workplace: Guest) -> None:
    """Precompiled headers are all that is left: tools need no more, and bpftrace gets the headers back."""
    workplace.check("modprobe kheaders")
    words = ["kheadersctl", "pch", "bcc-small", "--drop-headers", "--json"]
    details = json.loads(workplace.check(words, timeout=COMPILE_LIMIT))
    assert details["headers_kept"] is False
    workplace.check("kheadersctl unload")
    header = f"{details['source_tree']}/include/linux/fs.h"
    for tool in _TOOLS:
        _are_gone(workplace, header)
        command = f"kheadersctl exec --precompiled -- {tool.name}"
        traced(workplace, command, tool.started, tool.trigger, tool.seen, timeout=COMPILE_LIMIT)
        # It would say that it does without precompiled headers, and why.
        complaints = [line for line in log_of(workplace).splitlines() if line.startswith("kheaders")]
        assert complaints == []
    _are_gone(workplace, header)
    (entry,) = json.loads(workplace.check("kheadersctl list --json"))
    assert entry["pch_count"] == 1 + len(_TOOLS)
    assert "task_struct has" in bpftrace(workplace, TASK_STRUCT)
    workplace.check(f"test -e {header}")
    assert not module_is_loaded(workplace)


def _are_gone(guest: Guest, header: str) -> None:
    """The headers, and the module that has them."""
    (entry,) = json.loads(guest.check("kheadersctl list --json"))
    assert entry["headers_kept"] is False
    guest.check(f"! test -e {header} && ! grep ^kheaders /proc/modules")
