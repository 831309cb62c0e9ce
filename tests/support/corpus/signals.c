/* Who sends which signal to whom: __send_signal_locked. Profiles: bpf-core. */

#include <uapi/linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/signal.h>

#include "program.h"

struct sent {
	int signal, from, to, code;
	char command[TASK_COMM_LEN];
	char target[TASK_COMM_LEN];
};

MAP(signals, HASH, struct sent, u64, 10240);

SECTION("kprobe/__send_signal_locked")
int sends(struct pt_regs *registers)
{
	struct kernel_siginfo *information = (struct kernel_siginfo *)SECOND(registers);
	struct task_struct *target = (struct task_struct *)THIRD(registers);
	struct sent sent = {.signal = FIRST(registers), .from = get_current_pid_tgid() >> 32};

	if (sent.signal == SIGCHLD)
		return 0;
	if ((unsigned long)information > (unsigned long)SEND_SIG_PRIV)
		sent.code = FETCH(information, si_code);
	sent.to = FETCH(target, tgid);
	get_current_comm(sent.command, sizeof(sent.command));
	read_kernel(sent.target, sizeof(sent.target), target->comm);
	count(&signals, &sent);
	return 0;
}
