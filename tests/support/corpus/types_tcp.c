/* Retransmissions by destination, for any kernel: tcp_retransmit_skb. Profiles: types. */

#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct destination {
	__be32 address;
	__be16 port;
	unsigned short state;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct destination);
	__type(value, __u64);
} retransmissions SEC(".maps");

SEC("kprobe/tcp_retransmit_skb")
int BPF_KPROBE(retransmits, struct sock *sock, struct sk_buff *packet)
{
	struct destination to = {};
	__u64 one = 1, *counted;

	if (!bpf_core_field_exists(sock->__sk_common.skc_daddr))
		return 0;
	to.address = BPF_CORE_READ(sock, __sk_common.skc_daddr);
	to.port = BPF_CORE_READ(sock, __sk_common.skc_dport);
	to.state = BPF_CORE_READ(sock, __sk_common.skc_state);
	counted = bpf_map_lookup_elem(&retransmissions, &to);
	if (counted)
		__sync_fetch_and_add(counted, 1);
	else
		bpf_map_update_elem(&retransmissions, &to, &one, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
