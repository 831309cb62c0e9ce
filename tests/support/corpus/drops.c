/* Which packets are dropped, by protocol and ports: the tracepoint kfree_skb. Profiles: bpf-tracing. */

#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <uapi/linux/in.h>

#include "program.h"

struct drop {
	char device[IFNAMSIZ];
	u16 protocol, from, to;
	u8 transport;
	u64 location;
};

MAP(drops, HASH, struct drop, u64, 10240);

SECTION("raw_tracepoint/kfree_skb")
int dropped(struct bpf_raw_tracepoint_args *context)
{
	struct sk_buff *packet = (struct sk_buff *)context->args[0];
	unsigned char *head = FETCH(packet, head);
	struct iphdr *ip = (struct iphdr *)(head + FETCH(packet, network_header));
	struct tcphdr *tcp = (struct tcphdr *)(head + FETCH(packet, transport_header));
	struct drop drop = {.location = context->args[1], .protocol = FETCH(packet, protocol)};

	read_kernel_string(drop.device, sizeof(drop.device), &FETCH(packet, dev)->name);
	if (drop.protocol == __builtin_bswap16(ETH_P_IP)) {
		drop.transport = FETCH(ip, protocol);
		if (drop.transport == IPPROTO_TCP) {
			drop.from = FETCH(tcp, source);
			drop.to = FETCH(tcp, dest);
		}
	}
	count(&drops, &drop);
	return 0;
}
