/* Tells what is executed, with its parent and uid: the tracepoint sched_process_exec. Profiles: bpf-tracing. */

#include <uapi/linux/bpf.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/binfmts.h>
#include <linux/cred.h>

#include "program.h"

struct executed {
	int pid, parent;
	kuid_t uid;
	char command[TASK_COMM_LEN];
	char file[128];
};

MAP(events, PERF_EVENT_ARRAY, int, int, 128);
MAP(scratch, PERCPU_ARRAY, int, struct executed, 1);

SECTION("raw_tracepoint/sched_process_exec")
int tell_exec(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (struct task_struct *)context->args[0];
	struct linux_binprm *binary = (struct linux_binprm *)context->args[2];
	int zero = 0;
	struct executed *told = lookup(&scratch, &zero);

	if (!told)
		return 0;
	told->pid = FETCH(task, tgid);
	told->parent = FETCH(FETCH(task, real_parent), tgid);
	told->uid = FETCH(FETCH(binary, cred), uid);
	get_current_comm(told->command, sizeof(told->command));
	read_kernel_string(told->file, sizeof(told->file), FETCH(binary, filename));
	output(context, &events, BPF_F_CURRENT_CPU, told, sizeof(*told));
	return 0;
}
