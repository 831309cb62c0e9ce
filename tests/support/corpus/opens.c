/* Counts who opens files, by command and parent: do_sys_openat2. Profiles: bpf-core. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/sched.h>

#include "program.h"

struct opener {
	int parent;
	char command[TASK_COMM_LEN];
};

MAP(opens, HASH, struct opener, u64, 1024);

SECTION("kprobe/do_sys_openat2")
int count_open(struct pt_regs *registers)
{
	struct task_struct *task = (struct task_struct *)get_current_task();
	struct opener key = {};

	key.parent = FETCH(FETCH(task, real_parent), tgid);
	get_current_comm(key.command, sizeof(key.command));
	count(&opens, &key);
	return 0;
}
