/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a process' address range is mapped with: folios by order, read from
 * /proc/PID/pagemap and /proc/kpageflags, so independent of every counter
 * the kernel keeps about huge pages. Needs root.
 */
#ifndef FOLIO_MAP_H
#define FOLIO_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FOLIO_MAX_ORDER 20

struct folio_map {
	int pid;
	int pagemap_fd;
	int kpageflags_fd;
	unsigned long page_size;
	unsigned long pmd_pages;
	/* kpageflags read so far, in blocks of pmd_pages, indexed by pfn */
	uint64_t **flag_blocks;
	unsigned long nr_flag_blocks;
	/* the compound page looked at last */
	unsigned long last_head;
	unsigned long last_pages;
};

/* All in base pages. */
struct folio_census {
	uint64_t mapped[FOLIO_MAX_ORDER + 1];
	/* the part of it whose folio is mapped whole, in order and aligned */
	uint64_t whole[FOLIO_MAX_ORDER + 1];
	uint64_t swapped;
};

struct address_range {
	unsigned long start;
	unsigned long end;
};

struct vma {
	struct address_range range;
	unsigned long inode;	/* 0: it maps no file */
	bool is_writable;
	bool is_stack;		/* of the first thread */
};

/* Calls @found for each VMA of a process. */
void each_vma(int pid, void (*found)(const struct vma *vma, void *arg), void *arg);
/* Is it anonymous memory that may become large? */
bool vma_may_become_large(const struct vma *vma);

void folio_map_open(struct folio_map *map, int pid);
void folio_map_close(struct folio_map *map);

/* Adds what [range) is mapped with to @census. */
void folio_census_add(struct folio_map *map, struct address_range range,
		      bool anon_only, struct folio_census *census);
uint64_t folio_census_mapped(const struct folio_census *census);

struct folio_found {
	/* how many of the pages are in folios large enough, */
	uint64_t pages;
	/* and how many pages these folios have, other pages than those included */
	uint64_t folio_pages;
};

/* Looks at the pages at @addresses, which ascend, for folios of at least @order. */
void folio_find(struct folio_map *map, const unsigned long *addresses, size_t nr,
		unsigned int order, struct folio_found *found);

/*
 * Calls @found for every aligned window of 1 << @order pages in [range) that
 * is completely populated with anonymous memory and lies in a PMD-aligned PMD
 * of the range: what khugepaged may collapse without adding memory.
 */
void folio_full_windows(struct folio_map *map, struct address_range range,
			unsigned int order,
			void (*found)(struct address_range window, void *arg),
			void *arg);

#endif
