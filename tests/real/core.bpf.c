/* A small CO-RE program: fields through pointers, an enumerator, a map and an argument of a function. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u64);
} unlinked SEC(".maps");

SEC("kprobe/do_unlinkat")
int BPF_KPROBE(on_unlink, int directory, struct filename *name)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u32 parent = BPF_CORE_READ(task, real_parent, tgid);
	u64 first = 1, *count = bpf_map_lookup_elem(&unlinked, &parent);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&unlinked, &parent, &first, BPF_ANY);
	return 0;
}
