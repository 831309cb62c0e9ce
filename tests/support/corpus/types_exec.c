/* What is executed, for any kernel: the tracepoint sched_process_exec by its types. Profiles: types. */

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct executed {
	int pid, parent;
	unsigned long long inode;
	char command[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(executes, struct task_struct *task, pid_t old, struct linux_binprm *binary)
{
	struct executed *told = bpf_ringbuf_reserve(&events, sizeof(*told), 0);

	if (!told)
		return 0;
	told->pid = task->tgid;
	told->parent = BPF_CORE_READ(task, real_parent, tgid);
	told->inode = BPF_CORE_READ(binary, file, f_inode, i_ino);
	bpf_get_current_comm(told->command, sizeof(told->command));
	bpf_ringbuf_submit(told, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
