/* Slow reads and writes of ext4, with size and offset: ext4_file_read_iter. Profiles: bpf-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/uio.h>

#include "program.h"

struct begun {
	u64 time;
	struct file *file;
	loff_t offset;
	size_t bytes;
};

struct slow {
	u64 nanoseconds;
	loff_t offset;
	size_t bytes;
	char name[DNAME_INLINE_LEN];
};

MAP(pending, HASH, u64, struct begun, 10240);
MAP(events, PERF_EVENT_ARRAY, int, int, 128);

SECTION("kprobe/ext4_file_read_iter")
int begins(struct pt_regs *registers)
{
	struct kiocb *request = (struct kiocb *)FIRST(registers);
	struct iov_iter *to = (struct iov_iter *)SECOND(registers);
	struct begun begun = {.time = get_time(), .file = FETCH(request, ki_filp)};
	u64 id = get_current_pid_tgid();

	if (FETCH(FETCH(FETCH(begun.file, f_inode), i_sb), s_magic) != EXT4_SUPER_MAGIC)
		return 0;
	begun.offset = FETCH(request, ki_pos);
	begun.bytes = FETCH(to, count);
	update(&pending, &id, &begun, 0);
	return 0;
}

SECTION("kretprobe/ext4_file_read_iter")
int ends(struct pt_regs *registers)
{
	u64 id = get_current_pid_tgid();
	struct begun *begun = lookup(&pending, &id);
	struct slow slow = {};

	if (!begun)
		return 0;
	slow.nanoseconds = get_time() - begun->time;
	if (slow.nanoseconds > 10 * NSEC_PER_MSEC) {
		slow.offset = begun->offset;
		slow.bytes = begun->bytes;
		read_kernel_string(slow.name, sizeof(slow.name), FETCH(FETCH(begun->file, f_path.dentry), d_name.name));
		output(registers, &events, BPF_F_CURRENT_CPU, &slow, sizeof(slow));
	}
	forget(&pending, &id);
	return 0;
}
