// SPDX-License-Identifier: GPL-2.0
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kernel-page-flags.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "folio_map.h"

#define PAGEMAP_PFN(entry)	((entry) & ((1ULL << 55) - 1))
#define PAGEMAP_SWAP		(1ULL << 62)
#define PAGEMAP_PRESENT		(1ULL << 63)
#define KPF(flag)		(1ULL << KPF_##flag)

static unsigned long read_pmd_size(void)
{
	const char *path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
	FILE *file = fopen(path, "r");
	unsigned long size;

	if (!file)
		err(2, "%s: this needs a kernel with transparent huge pages", path);
	if (fscanf(file, "%lu", &size) != 1 || !size)
		errx(2, "%s: not a size", path);
	fclose(file);
	return size;
}

void each_vma(int pid, void (*found)(const struct vma *vma, void *arg), void *arg)
{
	char path[64], line[4096], flags[8];
	struct vma vma;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	file = fopen(path, "r");
	if (!file)
		err(2, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &vma.range.start, &vma.range.end,
			   flags, &vma.inode) != 4)
			errx(2, "%s: cannot read '%s'", path, line);
		vma.is_writable = flags[1] == 'w';
		vma.is_stack = strstr(line, "[stack]");
		found(&vma, arg);
	}
	fclose(file);
}

bool vma_may_become_large(const struct vma *vma)
{
	return !vma->inode && vma->is_writable && !vma->is_stack;
}

void folio_map_open(struct folio_map *map, int pid)
{
	char path[64];

	memset(map, 0, sizeof(*map));
	map->pid = pid;
	map->page_size = sysconf(_SC_PAGESIZE);
	map->pmd_pages = read_pmd_size() / map->page_size;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	map->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (map->pagemap_fd < 0)
		err(2, "%s (is there such a process, and are you root?)", path);
	map->kpageflags_fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (map->kpageflags_fd < 0)
		err(2, "/proc/kpageflags (root, and CONFIG_PROC_PAGE_MONITOR?)");
}

void folio_map_close(struct folio_map *map)
{
	unsigned long i;

	for (i = 0; i < map->nr_flag_blocks; i++)
		free(map->flag_blocks[i]);
	free(map->flag_blocks);
	close(map->pagemap_fd);
	close(map->kpageflags_fd);
}

/* Reads @nr entries at @index; what lies past the end of the file is 0. */
static void read_entries(int fd, unsigned long index, unsigned long nr,
			 uint64_t *entries, const char *what)
{
	size_t done = 0, want = nr * sizeof(*entries);

	while (done < want) {
		ssize_t got = pread(fd, (char *)entries + done, want - done,
				    index * sizeof(*entries) + done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			err(2, "reading %s", what);
		if (got == 0)
			break;
		done += got;
	}
	memset((char *)entries + done, 0, want - done);
}

static uint64_t page_flags(struct folio_map *map, unsigned long pfn)
{
	unsigned long block = pfn / map->pmd_pages;

	if (block >= map->nr_flag_blocks) {
		unsigned long nr = block + 1;
		uint64_t **blocks = reallocarray(map->flag_blocks, nr, sizeof(*blocks));

		if (!blocks)
			err(2, "memory for page flags");
		memset(blocks + map->nr_flag_blocks, 0,
		       (nr - map->nr_flag_blocks) * sizeof(*blocks));
		map->flag_blocks = blocks;
		map->nr_flag_blocks = nr;
	}
	if (!map->flag_blocks[block]) {
		uint64_t *flags = calloc(map->pmd_pages, sizeof(*flags));

		if (!flags)
			err(2, "memory for page flags");
		read_entries(map->kpageflags_fd, block * map->pmd_pages,
			     map->pmd_pages, flags, "/proc/kpageflags");
		map->flag_blocks[block] = flags;
	}
	return map->flag_blocks[block][pfn % map->pmd_pages];
}

/* The order of the folio that @pfn is in, and its first page. */
static unsigned int folio_order(struct folio_map *map, unsigned long pfn,
				unsigned long *head)
{
	unsigned int order = 0;

	*head = pfn;
	if (!(page_flags(map, pfn) & (KPF(COMPOUND_HEAD) | KPF(COMPOUND_TAIL))))
		return 0;

	if (pfn < map->last_head || pfn >= map->last_head + map->last_pages) {
		unsigned long first = pfn, nr = 1;

		while (first && !(page_flags(map, first) & KPF(COMPOUND_HEAD)))
			first--;
		while (page_flags(map, first + nr) & KPF(COMPOUND_TAIL))
			nr++;
		map->last_head = first;
		map->last_pages = nr;
	}
	*head = map->last_head;
	while (2UL << order <= map->last_pages && order < FOLIO_MAX_ORDER)
		order++;
	return order;
}

static bool is_anon(struct folio_map *map, uint64_t entry)
{
	return (entry & PAGEMAP_PRESENT) &&
	       (page_flags(map, PAGEMAP_PFN(entry)) & KPF(ANON));
}

static void count_block(struct folio_map *map, unsigned long first_vpn,
			const uint64_t *entries, unsigned long nr,
			bool anon_only, struct folio_census *census)
{
	unsigned long i, j;

	for (i = 0; i < nr; i++) {
		unsigned long pfn = PAGEMAP_PFN(entries[i]), head, pages;
		unsigned int order;

		if (entries[i] & PAGEMAP_SWAP)
			census->swapped++;
		if (!(entries[i] & PAGEMAP_PRESENT))
			continue;
		if (!pfn)
			errx(2, "/proc/%d/pagemap hides page frames: run this as root",
			     map->pid);
		if (anon_only && !is_anon(map, entries[i]))
			continue;

		order = folio_order(map, pfn, &head);
		pages = 1UL << order;
		census->mapped[order]++;

		if (pfn != head || (first_vpn + i) % pages || i + pages > nr)
			continue;
		for (j = 1; j < pages; j++) {
			if (!(entries[i + j] & PAGEMAP_PRESENT) ||
			    PAGEMAP_PFN(entries[i + j]) != head + j)
				break;
		}
		if (j == pages)
			census->whole[order] += pages;
	}
}

void folio_census_add(struct folio_map *map, struct address_range range,
		      bool anon_only, struct folio_census *census)
{
	uint64_t *entries = calloc(map->pmd_pages, sizeof(*entries));
	unsigned long vpn = range.start / map->page_size;
	unsigned long end = range.end / map->page_size;

	if (!entries)
		err(2, "memory for the page map");
	while (vpn < end) {
		unsigned long nr = map->pmd_pages - vpn % map->pmd_pages;

		if (nr > end - vpn)
			nr = end - vpn;
		read_entries(map->pagemap_fd, vpn, nr, entries, "pagemap");
		count_block(map, vpn, entries, nr, anon_only, census);
		vpn += nr;
	}
	free(entries);
}

uint64_t folio_census_mapped(const struct folio_census *census)
{
	uint64_t pages = 0;
	int order;

	for (order = 0; order <= FOLIO_MAX_ORDER; order++)
		pages += census->mapped[order];
	return pages;
}

void folio_find(struct folio_map *map, const unsigned long *addresses, size_t nr,
		unsigned int order, struct folio_found *found)
{
	uint64_t *entries = calloc(map->pmd_pages, sizeof(*entries));
	unsigned long block = 0, vpn, head, last_head = 0;
	unsigned int found_order;
	uint64_t entry;
	size_t i;

	if (!entries)
		err(2, "memory for the page map");
	memset(found, 0, sizeof(*found));
	for (i = 0; i < nr; i++) {
		vpn = addresses[i] / map->page_size;
		if (vpn / map->pmd_pages != block) {
			block = vpn / map->pmd_pages;
			read_entries(map->pagemap_fd, block * map->pmd_pages,
				     map->pmd_pages, entries, "pagemap");
		}
		entry = entries[vpn % map->pmd_pages];
		if (!(entry & PAGEMAP_PRESENT))
			continue;
		found_order = folio_order(map, PAGEMAP_PFN(entry), &head);
		if (found_order < order)
			continue;
		found->pages++;
		if (head != last_head)
			found->folio_pages += 1UL << found_order;
		last_head = head;
	}
	free(entries);
}

void folio_full_windows(struct folio_map *map, struct address_range range,
			unsigned int order,
			void (*found)(struct address_range window, void *arg),
			void *arg)
{
	uint64_t *entries = calloc(map->pmd_pages, sizeof(*entries));
	unsigned long pages = 1UL << order, vpn, i, j;
	unsigned long end = range.end / map->page_size;

	if (!entries)
		err(2, "memory for the page map");
	vpn = range.start / map->page_size + map->pmd_pages - 1;
	vpn -= vpn % map->pmd_pages;

	for (; vpn + map->pmd_pages <= end; vpn += map->pmd_pages) {
		read_entries(map->pagemap_fd, vpn, map->pmd_pages, entries, "pagemap");
		for (i = 0; i + pages <= map->pmd_pages; i += pages) {
			struct address_range window = {
				.start = (vpn + i) * map->page_size,
				.end = (vpn + i + pages) * map->page_size,
			};

			for (j = 0; j < pages && is_anon(map, entries[i + j]); j++)
				;
			if (j == pages)
				found(window, arg);
		}
	}
	free(entries);
}
