/* Libbpf's own headers, and assembly of BPF in the program: do_unlinkat. Profiles: bpf-tracing, host-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, u32);
	__type(value, u32);
} next SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct unlinked {
	u32 pid, parent;
	char name[64];
};

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(unlinks, int directory, struct filename *name)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct unlinked *told = bpf_ringbuf_reserve(&events, sizeof(*told), 0);
	u32 size = sizeof(told->name);

	if (!told)
		return 0;
	told->pid = bpf_get_current_pid_tgid() >> 32;
	told->parent = BPF_CORE_READ(task, real_parent, tgid);
	barrier_var(size);
	if (size > sizeof(told->name))
		size = 1;
	bpf_probe_read_kernel_str(told->name, size, BPF_CORE_READ(name, name));
	bpf_ringbuf_submit(told, 0);
	asm volatile("" : : : "memory");
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
