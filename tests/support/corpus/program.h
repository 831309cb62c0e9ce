/* What every program of the corpus that does without libbpf needs. */

/* The first arguments of a function of the kernel's, and what it returns. */
#if defined(__TARGET_ARCH_arm64)
#define FIRST(registers) ((registers)->regs[0])
#define SECOND(registers) ((registers)->regs[1])
#define THIRD(registers) ((registers)->regs[2])
#define FOURTH(registers) ((registers)->regs[3])
#define RETURNED(registers) ((registers)->regs[0])
#else
#define FIRST(registers) ((registers)->di)
#define SECOND(registers) ((registers)->si)
#define THIRD(registers) ((registers)->dx)
#define FOURTH(registers) ((registers)->cx)
#define RETURNED(registers) ((registers)->ax)
#endif

#define SECTION(name) __attribute__((section(name), used))

#define MAP(name, kind, key_type, value_type, entries) \
	struct { \
		int (*type)[BPF_MAP_TYPE_##kind]; \
		int (*max_entries)[entries]; \
		key_type *key; \
		value_type *value; \
	} name SECTION(".maps")

#define FETCH(from, member) \
	({ \
		typeof((from)->member) value__; \
		read_kernel((void *)&value__, sizeof(value__), &(from)->member); \
		value__; \
	})

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*forget)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static u64 (*get_time)(void) = (void *)BPF_FUNC_ktime_get_ns;
static u64 (*get_current_pid_tgid)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static u64 (*get_current_task)(void) = (void *)BPF_FUNC_get_current_task;
static long (*get_current_comm)(void *buffer, u32 size) = (void *)BPF_FUNC_get_current_comm;
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_kernel_string)(void *to, u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel_str;
static long (*output)(void *context, void *map, u64 flags, void *data, u64 size) = (void *)BPF_FUNC_perf_event_output;

static inline __attribute__((always_inline)) void count(void *map, const void *key)
{
	u64 one = 1, *counted = lookup(map, key);

	if (counted)
		__sync_fetch_and_add(counted, 1);
	else
		update(map, key, &one, 0);
}

char program_license[] SECTION("license") = "GPL";
