/* What BTF tells of it are sizes and alignments, and the offsets of all members, also of what is within. */

#define EACH(what) \
	what(bio) what(blk_mq_hw_ctx) what(bpf_prog) what(cred) what(dentry) what(file) what(folio) what(fs_struct) \
	what(gendisk) what(inet_sock) what(inode) what(iphdr) what(kiocb) what(linux_binprm) what(mm_struct) \
	what(module) what(net_device) what(nsproxy) what(page) what(path) what(pid) what(pid_namespace) \
	what(pt_regs) what(request) what(request_queue) what(signal_struct) what(sk_buff) what(sock) \
	what(softnet_data) what(super_block) what(task_struct) what(tcp_sock) what(tcphdr) what(thread_info) \
	what(thread_struct) what(vm_area_struct) what(vfsmount) what(zone)

#define CONTENT(name) struct name name;
#define ALIGNMENT(name) char name[_Alignof(struct name)];

union contents {
	EACH(CONTENT)
} contents __attribute__((section(".bss")));

struct alignments {
	EACH(ALIGNMENT)
} alignments __attribute__((section(".bss")));
