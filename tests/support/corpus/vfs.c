/* Which files are read and how much, by inode and name: vfs_read. Profiles: bpf-core. */

#include <uapi/linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/fs.h>
#include <linux/dcache.h>
#include <linux/sched.h>

#include "program.h"

struct file_read {
	unsigned long inode;
	dev_t device;
	u32 pid;
	char name[DNAME_INLINE_LEN];
};

MAP(reads, HASH, struct file_read, u64, 10240);
MAP(bytes, HASH, struct file_read, u64, 10240);

SECTION("kprobe/vfs_read")
int reads_file(struct pt_regs *registers)
{
	struct file *file = (struct file *)FIRST(registers);
	struct dentry *entry = FETCH(file, f_path.dentry);
	struct inode *inode = FETCH(file, f_inode);
	struct file_read key = {};
	u64 size = THIRD(registers), *sum;

	if (!S_ISREG(FETCH(inode, i_mode)))
		return 0;
	key.inode = FETCH(inode, i_ino);
	key.device = FETCH(FETCH(inode, i_sb), s_dev);
	key.pid = get_current_pid_tgid() >> 32;
	read_kernel_string(key.name, sizeof(key.name), FETCH(entry, d_name.name));
	count(&reads, &key);
	sum = lookup(&bytes, &key);
	if (sum)
		*sum += size;
	else
		update(&bytes, &key, &size, 0);
	return 0;
}
