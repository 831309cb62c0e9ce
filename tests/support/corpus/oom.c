/* Who is killed for lack of memory: oom_kill_process. A header that no profile has. Profiles: bpf-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/oom.h>

#include "program.h"

struct killed {
	u32 by, pid;
	unsigned long pages, total;
	char command[TASK_COMM_LEN];
};

MAP(events, PERF_EVENT_ARRAY, int, int, 128);

SECTION("kprobe/oom_kill_process")
int kills(struct pt_regs *registers)
{
	struct oom_control *control = (struct oom_control *)FIRST(registers);
	struct task_struct *chosen = FETCH(control, chosen);
	struct killed killed = {.by = get_current_pid_tgid() >> 32};

	killed.pid = FETCH(chosen, tgid);
	killed.pages = FETCH(control, chosen_points);
	killed.total = FETCH(control, totalpages);
	read_kernel(killed.command, sizeof(killed.command), chosen->comm);
	output(registers, &events, BPF_F_CURRENT_CPU, &killed, sizeof(killed));
	return 0;
}
