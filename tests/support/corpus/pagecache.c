/* Hits and misses of the page cache, by file system: folio_mark_accessed. Profiles: bpf-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "program.h"

/* Those of a mapping became a folio's in 6.17. */
#ifdef FOLIO_MAPPING_FLAGS
#define MAPPING_FLAGS FOLIO_MAPPING_FLAGS
#else
#define MAPPING_FLAGS PAGE_MAPPING_FLAGS
#endif

struct access {
	dev_t device;
	u32 kind;
	unsigned long flags;
};

MAP(accesses, HASH, struct access, u64, 4096);

static inline __attribute__((always_inline)) int seen(struct folio *folio, u32 kind)
{
	struct address_space *mapping = FETCH(folio, mapping);
	struct access key = {.kind = kind};
	unsigned long flags = 0;

	if (!mapping || (unsigned long)mapping & MAPPING_FLAGS)
		return 0;
	key.device = FETCH(FETCH(FETCH(mapping, host), i_sb), s_dev);
	/* A number, or since 6.18 a structure with that number in it. */
	read_kernel(&flags, sizeof(flags), &folio->flags);
	key.flags = flags & (BIT(PG_dirty) | BIT(PG_active) | BIT(PG_referenced));
	count(&accesses, &key);
	return 0;
}

SECTION("kprobe/folio_mark_accessed")
int accessed(struct pt_regs *registers)
{
	return seen((struct folio *)FIRST(registers), 0);
}

SECTION("kprobe/filemap_add_folio")
int added(struct pt_regs *registers)
{
	return seen((struct folio *)SECOND(registers), 1);
}
