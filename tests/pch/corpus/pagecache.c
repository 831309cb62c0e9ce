/* Hits and misses of the page cache, by file system: folio_mark_accessed. Profiles: bpf-tracing. */

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#include "program.h"

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

	if (!mapping || (unsigned long)mapping & PAGE_MAPPING_FLAGS)
		return 0;
	key.device = FETCH(FETCH(FETCH(mapping, host), i_sb), s_dev);
	key.flags = FETCH(folio, flags) & (BIT(PG_dirty) | BIT(PG_active) | BIT(PG_referenced));
	count(&accesses, &key);
	return 0;
}

SECTION("kprobe/folio_mark_accessed")
int accessed(struct pt_regs *registers)
{
	return seen((struct folio *)registers->di, 0);
}

SECTION("kprobe/filemap_add_folio")
int added(struct pt_regs *registers)
{
	return seen((struct folio *)registers->si, 1);
}
