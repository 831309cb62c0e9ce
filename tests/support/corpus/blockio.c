/* A histogram of the latency of block I/O, by disk: blk_mq_start_request. Profiles: bpf-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/blkdev.h>
#include <linux/blk-mq.h>

#include "program.h"

struct slot {
	char disk[DISK_NAME_LEN];
	u32 operation, power;
};

MAP(started, HASH, struct request *, u64, 10240);
MAP(latencies, HASH, struct slot, u64, 4096);

SECTION("kprobe/blk_mq_start_request")
int request_starts(struct pt_regs *registers)
{
	struct request *request = (struct request *)FIRST(registers);
	u64 now = get_time();

	update(&started, &request, &now, 0);
	return 0;
}

SECTION("kprobe/__blk_mq_end_request")
int request_ends(struct pt_regs *registers)
{
	struct request *request = (struct request *)FIRST(registers);
	u64 *since = lookup(&started, &request), microseconds;
	struct slot slot = {};

	if (!since)
		return 0;
	microseconds = (get_time() - *since) / NSEC_PER_USEC;
	slot.operation = FETCH(request, cmd_flags) & REQ_OP_MASK;
	read_kernel_string(slot.disk, sizeof(slot.disk), &FETCH(FETCH(request, q), disk)->disk_name);
#pragma unroll
	for (int power = 0; power < 26; power++)
		if (microseconds >> power)
			slot.power = power;
	count(&latencies, &slot);
	forget(&started, &request);
	return 0;
}
