// SPDX-License-Identifier: GPL-2.0
/*
 * What khugepaged spends on collapsing a stretch of anonymous memory.
 *
 * Runs in a fresh guest with one CPU, counting instructions of the guest (QEMU
 * -icount shift=0: one nanosecond is one instruction) through khugepaged's CPU
 * clock, or locks and allocations through tracepoints. The two are separate
 * runs, as tracing costs instructions.
 *
 * Prints CSV lines "pass,measure,value". Pass 1 finds base pages; every later
 * pass looks at what the passes before it have left.
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"

#define PASSES		4
#define PASS_LIMIT_SECONDS 600
/* Longer than any pass, and free: the guest skips idle time. */
#define POLL_SECONDS	5

static const char usage[] =
"usage: collapse_cost --size-mib MIB --folio-kib KIB [--pattern PATTERN]\n"
"                     [--max-ptes-none N] [--count instructions|events]\n"
"PATTERN says which pages are populated in each PMD: full, half (the first\n"
"half), one-hole (all but one), alternating (every other page).\n";

/* The pages of a PMD that a pattern populates. */
struct pattern {
	const char *name;
	bool (*populates)(unsigned long page, unsigned long pmd_pages);
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
	return page != pmd_pages / 3;
}

static bool populates_every_other(unsigned long page, unsigned long pmd_pages)
{
	(void)pmd_pages;
	return page % 2 == 0;
}

static const struct pattern patterns[] = {
	{ "full", populates_all },
	{ "half", populates_first_half },
	{ "one-hole", populates_all_but_one },
	{ "alternating", populates_every_other },
};

/* What the tracepoints count, in khugepaged. */
struct event {
	const char *measure;
	const char *tracepoint;
	char filter[64];
	int fd;
	uint64_t seen;
};

static struct event events[] = {
	{ .measure = "mmap_write_locks",
	  .tracepoint = "mmap_lock/mmap_lock_acquire_returned",
	  .filter = "write==1 && success==1" },
	{ .measure = "folio_allocations",
	  .tracepoint = "kmem/mm_page_alloc" },
};

#define NR_EVENTS (sizeof(events) / sizeof(events[0]))

static void wait_for_scan(unsigned long scans_before, int pid)
{
	time_t end = time(NULL) + PASS_LIMIT_SECONDS;
	unsigned long scans;

	while (read_number(THP "khugepaged/full_scans") == scans_before) {
		if (time(NULL) > end)
			errx(3, "khugepaged did not finish a scan in %d s: does this kernel collapse to this size?",
			     PASS_LIMIT_SECONDS);
		sleep(POLL_SECONDS);
	}
	wait_until_idle(pid);
	scans = read_number(THP "khugepaged/full_scans");
	if (scans != scans_before + 1)
		errx(2, "%lu full scans where one was asked for", scans - scans_before);
}

static void open_events(int pid, unsigned int order)
{
	size_t i;

	snprintf(events[1].filter, sizeof(events[1].filter), "order==%u", order);
	for (i = 0; i < NR_EVENTS; i++)
		events[i].fd = open_tracepoint(events[i].tracepoint, events[i].filter, pid);
}

static void print_events(int pass)
{
	uint64_t count;
	size_t i;

	for (i = 0; i < NR_EVENTS; i++) {
		count = tracepoint_count(events[i].fd);
		printf("%d,%s,%llu\n", pass, events[i].measure,
		       (unsigned long long)(count - events[i].seen));
		events[i].seen = count;
	}
}

static void print_folios(int pass, struct address_range memory)
{
	struct folio_census census = { 0 };
	struct folio_map map;
	int order;

	folio_map_open(&map, getpid());
	folio_census_add(&map, memory, true, &census);
	for (order = 0; order <= FOLIO_MAX_ORDER; order++) {
		unsigned long kib = map.page_size / 1024;

		if (census.mapped[order])
			printf("%d,kib_in_%lluK_folios,%llu\n", pass,
			       (unsigned long long)kib << order,
			       (unsigned long long)census.mapped[order] * kib);
	}
	folio_map_close(&map);
}

static void populate(struct address_range memory, unsigned long page_size,
		     unsigned long pmd_pages, const struct pattern *pattern)
{
	unsigned long address, page;

	for (address = memory.start; address < memory.end; address += page_size) {
		page = address / page_size % pmd_pages;
		if (pattern->populates(page, pmd_pages))
			memset((void *)address, 1 + page % 255, page_size);
	}
}

static const struct pattern *find_pattern(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		if (!strcmp(patterns[i].name, name))
			return &patterns[i];
	}
	errx(2, "'%s' is no pattern\n%s", name, usage);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size-mib", required_argument, NULL, 's' },
		{ "folio-kib", required_argument, NULL, 'f' },
		{ "pattern", required_argument, NULL, 'p' },
		{ "max-ptes-none", required_argument, NULL, 'n' },
		{ "count", required_argument, NULL, 'c' },
		{ }
	};
	unsigned long page_size = sysconf(_SC_PAGESIZE);
	unsigned long pmd_size = read_number(THP "hpage_pmd_size");
	unsigned long size = 0, folio_kib = 0, none = 0, scans;
	const struct pattern *pattern = &patterns[0];
	struct address_range memory;
	bool count_events = false;
	uint64_t clock_before;
	clockid_t clock;
	char state;
	int option, pass, pid;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			size = parse_number(optarg) << 20;
			break;
		case 'f':
			folio_kib = parse_number(optarg);
			break;
		case 'p':
			pattern = find_pattern(optarg);
			break;
		case 'n':
			none = parse_number(optarg);
			break;
		case 'c':
			count_events = !strcmp(optarg, "events");
			if (!count_events && strcmp(optarg, "instructions"))
				errx(2, "'%s': instructions or events can be counted", optarg);
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc || !folio_kib || !size || size % pmd_size) {
		fputs(usage, stderr);
		errx(2, "the size is a multiple of %lu MiB", pmd_size >> 20);
	}
	if (sysconf(_SC_NPROCESSORS_ONLN) != 1)
		errx(2, "boot with one CPU: the clock then counts the same each time");

	/* khugepaged shall run when this program sleeps, and never in between. */
	become_first();
	if (!count_events)
		check_clock_counts_instructions();

	all_sizes_off();
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	write_file(THP "khugepaged/pages_to_scan", "%d", 1 << 30);
	write_file(THP "khugepaged/max_ptes_none", "%lu", none);
	/*
	 * Keep the base pages that a collapse frees in the per-CPU lists, up
	 * to an eighth of memory. Otherwise some passes give them back to the
	 * buddy allocator and some do not, depending on what ran before.
	 */
	write_file("/proc/sys/vm/percpu_pagelist_high_fraction", "8");

	memory = map_memory(size, pmd_size);
	populate(memory, page_size, pmd_size / page_size, pattern);
	print_folios(0, memory);

	write_size(folio_kib, "enabled", "madvise");
	sleep(POLL_SECONDS);
	pid = find_khugepaged(&state);
	if (!pid)
		errx(3, "khugepaged does not run with only %lu KiB on: this kernel does not collapse to it",
		     folio_kib);
	wait_until_idle(pid);
	if (count_events)
		open_events(pid, __builtin_ctzl(folio_kib * 1024 / page_size));

	clock = cpu_clock_of(pid);
	for (pass = 1; pass <= PASSES; pass++) {
		clock_before = nanoseconds(clock);
		scans = read_number(THP "khugepaged/full_scans");

		/* The first is the one that getting known to khugepaged starts. */
		if (pass > 1)
			write_file(THP "khugepaged/scan_sleep_millisecs", "%d",
				   NEXT_WAKE_MILLISECONDS);
		else if (madvise((void *)memory.start, size, MADV_HUGEPAGE))
			err(2, "MADV_HUGEPAGE");
		wait_for_scan(scans, pid);

		if (count_events)
			print_events(pass);
		else
			printf("%d,instructions,%llu\n", pass,
			       (unsigned long long)(nanoseconds(clock) - clock_before));
		print_folios(pass, memory);
	}
	return 0;
}
