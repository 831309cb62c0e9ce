/* Counts how often each command opens a file, with the pid of the parent: needs the kernel's own task_struct. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/sched.h>

#define SECTION(name) __attribute__((section(name), used))

struct opener {
	int parent;
	char command[TASK_COMM_LEN];
};

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[1024];
	struct opener *key;
	unsigned long *value;
} opens SECTION(".maps");

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static u64 (*this_task)(void) = (void *)BPF_FUNC_get_current_task;
static long (*this_command)(void *buffer, u32 size) = (void *)BPF_FUNC_get_current_comm;

SECTION("kprobe/do_sys_openat2")
int count_open(struct pt_regs *registers)
{
	struct task_struct *task = (struct task_struct *)this_task();
	struct task_struct *parent = 0;
	struct opener key = {};
	unsigned long one = 1, *count;

	read_kernel(&parent, sizeof(parent), &task->real_parent);
	read_kernel(&key.parent, sizeof(key.parent), &parent->tgid);
	this_command(key.command, sizeof(key.command));
	count = lookup(&opens, &key);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		update(&opens, &key, &one, 0);
	return 0;
}

char _license[] SECTION("license") = "GPL";
