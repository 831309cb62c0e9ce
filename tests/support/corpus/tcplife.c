/* Tells how long TCP connections lived and what they carried: tcp_set_state. Profiles: bpf-tracing, host-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/tcp.h>
#include <net/inet_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "program.h"

struct life {
	u64 nanoseconds, received, acknowledged;
	struct in6_addr from, to;
	u16 from_port, to_port, family;
	u32 pid, smoothed_round_trip;
};

MAP(births, HASH, struct sock *, u64, 10240);
MAP(owners, HASH, struct sock *, u64, 10240);
MAP(events, PERF_EVENT_ARRAY, int, int, 128);

SECTION("kprobe/tcp_set_state")
int state_changes(struct pt_regs *registers)
{
	struct sock *sock = (struct sock *)FIRST(registers);
	int state = SECOND(registers);
	const struct tcp_sock *tcp = (const struct tcp_sock *)sock;
	struct life life = {};
	u64 now = get_time(), id = get_current_pid_tgid(), *born, *owner;

	if (state < TCP_FIN_WAIT1)
		update(&births, &sock, &now, 0);
	if (state == TCP_SYN_SENT || state == TCP_LAST_ACK)
		update(&owners, &sock, &id, 0);
	if (state != TCP_CLOSE)
		return 0;
	born = lookup(&births, &sock);
	if (!born)
		return 0;
	owner = lookup(&owners, &sock);
	life.nanoseconds = now - *born;
	life.pid = (owner ? *owner : id) >> 32;
	life.received = FETCH(tcp, bytes_received);
	life.acknowledged = FETCH(tcp, bytes_acked);
	life.smoothed_round_trip = FETCH(tcp, srtt_us) >> 3;
	life.family = FETCH(sock, __sk_common.skc_family);
	life.from_port = FETCH(&tcp->inet_conn.icsk_inet, inet_sport);
	life.to_port = FETCH(sock, __sk_common.skc_dport);
	if (life.family == AF_INET6) {
		life.from = FETCH(sock, __sk_common.skc_v6_rcv_saddr);
		life.to = FETCH(sock, __sk_common.skc_v6_daddr);
	} else {
		life.from.in6_u.u6_addr32[0] = FETCH(sock, __sk_common.skc_rcv_saddr);
		life.to.in6_u.u6_addr32[0] = FETCH(sock, __sk_common.skc_daddr);
	}
	output(registers, &events, BPF_F_CURRENT_CPU, &life, sizeof(life));
	forget(&births, &sock);
	forget(&owners, &sock);
	return 0;
}
