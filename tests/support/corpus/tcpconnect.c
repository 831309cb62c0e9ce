/* Counts connections to each address and port: tcp_v4_connect. Profiles: bpf-tracing, host-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <net/sock.h>

#include "program.h"

struct destination {
	__be32 address;
	__be16 port;
	u16 family;
	u32 namespace;
};

MAP(pending, HASH, u64, struct sock *, 4096);
MAP(connections, HASH, struct destination, u64, 4096);

SECTION("kprobe/tcp_v4_connect")
int connect_begins(struct pt_regs *registers)
{
	u64 id = get_current_pid_tgid();
	struct sock *sock = (struct sock *)FIRST(registers);

	update(&pending, &id, &sock, 0);
	return 0;
}

SECTION("kretprobe/tcp_v4_connect")
int connect_ends(struct pt_regs *registers)
{
	u64 id = get_current_pid_tgid();
	struct sock **sock = lookup(&pending, &id);
	struct destination to = {};

	if (!sock)
		return 0;
	if (RETURNED(registers) == 0) {
		to.address = FETCH(*sock, __sk_common.skc_daddr);
		to.port = FETCH(*sock, __sk_common.skc_dport);
		to.family = FETCH(*sock, __sk_common.skc_family);
		to.namespace = FETCH(FETCH(*sock, __sk_common.skc_net.net), ns.inum);
		count(&connections, &to);
	}
	forget(&pending, &id);
	return 0;
}
