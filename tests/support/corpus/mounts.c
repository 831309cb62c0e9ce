/* What is mounted, in which namespaces: path_mount. Profiles: bpf-tracing. */

#include <uapi/linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/mount.h>
#include <linux/nsproxy.h>
#include <linux/ns_common.h>
#include <linux/path.h>
#include <linux/pid_namespace.h>
#include <linux/sched.h>
#include <net/net_namespace.h>

#include "program.h"

struct mounted {
	u32 network, pids, level;
	unsigned long flags, block_size;
	char name[DNAME_INLINE_LEN];
};

MAP(mounts, HASH, struct mounted, u64, 1024);

SECTION("kprobe/path_mount")
int mounts_at(struct pt_regs *registers)
{
	struct task_struct *task = (struct task_struct *)get_current_task();
	struct path *path = (struct path *)SECOND(registers);
	struct nsproxy *spaces = FETCH(task, nsproxy);
	struct pid_namespace *pids = FETCH(spaces, pid_ns_for_children);
	struct mounted key = {.flags = FOURTH(registers)};

	key.network = FETCH(FETCH(spaces, net_ns), ns.inum);
	key.pids = FETCH(pids, ns.inum);
	key.level = FETCH(pids, level);
	key.block_size = FETCH(FETCH(FETCH(path, mnt), mnt_sb), s_blocksize);
	read_kernel_string(key.name, sizeof(key.name), FETCH(FETCH(path, dentry), d_name.name));
	count(&mounts, &key);
	return 0;
}
