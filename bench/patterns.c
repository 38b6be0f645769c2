// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest.h"
#include "patterns.h"

/* Which page of a PMD is the one that differs, out of 512: not the first of a window. */
#define ODD_PAGE(pmd_pages)	((pmd_pages) / 3)

const char patterns_usage[] =
"PATTERN says which pages are populated in each PMD: full, half (the first\n"
"half), one-hole (all but one), alternating (every other page). All pages are\n"
"populated but one is special in: one-pinned (for long, by io_uring),\n"
"one-swapped (needs swap), one-shared (with a child), one-uffd-wp (protected\n"
"from writes by userfaultfd). In old, no page was accessed of late.\n";

/* The memory that is made. */
struct making {
	struct address_range memory;
	unsigned long page_size;
	unsigned long pmd_size;
};

struct pattern {
	const char *name;
	bool (*populates)(unsigned long page, unsigned long pmd_pages);
	/* What is done before all else, and after. */
	void (*prepare)(const struct making *making);
	void (*finish)(const struct making *making);
};

static bool populates_all(unsigned long page, unsigned long pmd_pages)
{
	(void)page, (void)pmd_pages;
	return true;
}

static bool populates_first_half(unsigned long page, unsigned long pmd_pages)
{
	return page < pmd_pages / 2;
}

static bool populates_all_but_one(unsigned long page, unsigned long pmd_pages)
{
	return page != ODD_PAGE(pmd_pages);
}

static bool populates_every_other(unsigned long page, unsigned long pmd_pages)
{
	(void)pmd_pages;
	return page % 2 == 0;
}

static unsigned long nr_pmds(const struct making *making)
{
	return (making->memory.end - making->memory.start) / making->pmd_size;
}

/* The odd page of a PMD. */
static char *odd_page(const struct making *making, unsigned long pmd)
{
	unsigned long page = ODD_PAGE(making->pmd_size / making->page_size);

	return (char *)making->memory.start + pmd * making->pmd_size + page * making->page_size;
}

/* Buffers that are registered with io_uring are pinned as long as the ring is there. */
static void pin_odd_pages(const struct making *making)
{
	struct io_uring_params params = { 0 };
	unsigned long nr = nr_pmds(making), i;
	struct iovec *buffers = calloc(nr, sizeof(*buffers));
	int ring;

	if (!buffers)
		err(2, "memory for %lu buffers", nr);
	for (i = 0; i < nr; i++) {
		buffers[i].iov_base = odd_page(making, i);
		buffers[i].iov_len = making->page_size;
	}
	ring = syscall(SYS_io_uring_setup, 1, &params);
	if (ring < 0)
		err(2, "io_uring_setup");
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, buffers, nr))
		err(2, "registering %lu buffers with io_uring", nr);
	free(buffers);
}

static void swap_odd_pages(const struct making *making)
{
	struct folio_census census = { 0 };
	struct folio_map map;
	unsigned long i;

	for (i = 0; i < nr_pmds(making); i++) {
		if (madvise(odd_page(making, i), making->page_size, MADV_PAGEOUT))
			err(2, "MADV_PAGEOUT");
	}
	folio_map_open(&map, getpid());
	folio_census_add(&map, making->memory, true, &census);
	folio_map_close(&map);
	if (census.swapped != nr_pmds(making))
		errx(2, "%llu pages are in swap and not %lu: is swap on?",
		     (unsigned long long)census.swapped, nr_pmds(making));
}

/*
 * The child gets what there is by now, and this is the odd pages. It never
 * writes to them, nor does it end before this program.
 */
static void share_odd_pages(const struct making *making)
{
	pid_t parent = getpid(), child;
	unsigned long i;

	for (i = 0; i < nr_pmds(making); i++)
		memset(odd_page(making, i), 1, making->page_size);
	fflush(stdout);
	child = fork();
	if (child < 0)
		err(2, "fork");
	if (child)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent)
		pause();
	_exit(0);
}

static void protect_odd_pages(const struct making *making)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register registration = {
		.range.start = making->memory.start,
		.range.len = making->memory.end - making->memory.start,
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	unsigned long i;

	if (fd < 0)
		err(2, "userfaultfd");
	if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &registration))
		err(2, "protecting from writes through userfaultfd");
	for (i = 0; i < nr_pmds(making); i++) {
		struct uffdio_writeprotect protect = {
			.range.start = (unsigned long)odd_page(making, i),
			.range.len = making->page_size,
			.mode = UFFDIO_WRITEPROTECT_MODE_WP,
		};

		if (ioctl(fd, UFFDIO_WRITEPROTECT, &protect))
			err(2, "UFFDIO_WRITEPROTECT");
	}
}

/* Clears the accessed bits, and what the kernel has noted of them (see proc(5)). */
static void let_pages_age(const struct making *making)
{
	(void)making;
	write_file("/proc/self/clear_refs", "1");
}

static const struct pattern patterns[] = {
	{ "full", populates_all, NULL, NULL },
	{ "half", populates_first_half, NULL, NULL },
	{ "one-hole", populates_all_but_one, NULL, NULL },
	{ "alternating", populates_every_other, NULL, NULL },
	{ "one-pinned", populates_all, NULL, pin_odd_pages },
	{ "one-swapped", populates_all, NULL, swap_odd_pages },
	{ "one-shared", populates_all_but_one, share_odd_pages, NULL },
	{ "one-uffd-wp", populates_all, NULL, protect_odd_pages },
	{ "old", populates_all, NULL, let_pages_age },
};

const struct pattern *find_pattern(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		if (!strcmp(patterns[i].name, name))
			return &patterns[i];
	}
	return NULL;
}

void populate(struct address_range memory, unsigned long page_size,
	      unsigned long pmd_size, const struct pattern *pattern)
{
	const struct making making = { memory, page_size, pmd_size };
	unsigned long address, page;

	if (pattern->prepare)
		pattern->prepare(&making);
	for (address = memory.start; address < memory.end; address += page_size) {
		page = address / page_size % (pmd_size / page_size);
		if (pattern->populates(page, pmd_size / page_size))
			memset((void *)address, 1 + page % 255, page_size);
	}
	if (pattern->finish)
		pattern->finish(&making);
}
