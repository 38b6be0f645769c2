// SPDX-License-Identifier: GPL-2.0
/*
 * What khugepaged spends on collapsing a stretch of anonymous memory.
 *
 * Runs in a fresh guest that counts instructions (QEMU -icount shift=0: one
 * nanosecond is one instruction). What is counted, each in a run of its own as
 * one would change the other:
 *
 * - instructions, through khugepaged's CPU clock, and the folios that come out
 * - events: locks, folio allocations and TLB flushes, through tracepoints; the
 *   program keeps a second CPU busy, as only another CPU's TLB is flushed by
 *   khugepaged, which can forget that of its own
 * - holds: how long khugepaged has the mmap lock for writing
 * - stalls: how long page faults of the same process take meanwhile
 *
 * Prints CSV lines "pass,measure,value". Pass 1 finds base pages; every later
 * pass looks at what the passes before it have left.
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"
#include "patterns.h"
#include "stalls.h"

#define PASSES		4
#define PASS_LIMIT_SECONDS 600
/* Longer than any pass, and free: the guest skips idle time. */
#define POLL_MILLISECONDS 5000
/* With a CPU that is never idle it is not free; what is counted then may be looked at sooner. */
#define BUSY_POLL_MILLISECONDS 100
#define SMALLEST_FOLIO_KIB 16
/* The reason in tlb/tlb_flush, of the one who asks another CPU to flush. */
#define TLB_REMOTE_SEND_IPI 4

static const char usage[] =
"usage: collapse_cost --size-mib MIB --folio-kib KIB|all [--pattern PATTERN]\n"
"                     [--max-ptes-none N]\n"
"                     [--count instructions|events|holds|stalls]\n";

enum count { INSTRUCTIONS, EVENTS, HOLDS, STALLS };

static const char *const counts[] = {
	[INSTRUCTIONS] = "instructions",
	[EVENTS] = "events",
	[HOLDS] = "holds",
	[STALLS] = "stalls",
};

/* What the tracepoints count, in khugepaged. */
struct event {
	const char *measure;
	const char *tracepoint;
	char filter[64];
	int fd;
	uint64_t seen;
};

enum { WRITE_LOCKS, FOLIO_ALLOCATIONS, TLB_FLUSHES, NR_EVENTS };

static struct event events[NR_EVENTS] = {
	[WRITE_LOCKS] = {
		.measure = "mmap_write_locks",
		.tracepoint = "mmap_lock/mmap_lock_acquire_returned",
		.filter = "write==1 && success==1",
	},
	[FOLIO_ALLOCATIONS] = {
		.measure = "folio_allocations",
		.tracepoint = "kmem/mm_page_alloc",
	},
	[TLB_FLUSHES] = {
		.measure = "tlb_flushes",
		.tracepoint = "tlb/tlb_flush",
	},
};

/* When khugepaged got the mmap lock for writing, and when it gave it back. */
static struct recording taken, released;

/* What the command line says. */
struct options {
	unsigned long size;
	/* 0 is all sizes */
	unsigned long folio_kib;
	unsigned long max_ptes_none;
	const struct pattern *pattern;
	enum count count;
};

static unsigned int poll_milliseconds = POLL_MILLISECONDS;

static void wait_for_scan(unsigned long scans_before, int pid)
{
	time_t end = time(NULL) + PASS_LIMIT_SECONDS;
	unsigned long scans;

	while (read_number(THP "khugepaged/full_scans") == scans_before) {
		if (time(NULL) > end)
			errx(3, "khugepaged did not finish a scan in %d s: does this kernel collapse to this size?",
			     PASS_LIMIT_SECONDS);
		sleep_milliseconds(poll_milliseconds);
	}
	wait_until_idle_for(pid, poll_milliseconds);
	scans = read_number(THP "khugepaged/full_scans");
	if (scans != scans_before + 1)
		errx(2, "%lu full scans where one was asked for", scans - scans_before);
}

static void open_events(int pid, unsigned long folio_pages)
{
	unsigned long smallest_pages = SMALLEST_FOLIO_KIB * 1024UL / sysconf(_SC_PAGESIZE);
	struct event *event;

	/* With all sizes on: khugepaged allocates nothing else that is that large. */
	snprintf(events[FOLIO_ALLOCATIONS].filter, sizeof(events[0].filter), "order%s%d",
		 folio_pages ? "==" : ">=",
		 __builtin_ctzl(folio_pages ? folio_pages : smallest_pages));
	snprintf(events[TLB_FLUSHES].filter, sizeof(events[0].filter), "reason==%d",
		 TLB_REMOTE_SEND_IPI);
	for (event = events; event < events + NR_EVENTS; event++)
		event->fd = open_tracepoint(event->tracepoint, event->filter, pid);
}

static void open_holds(int pid)
{
	record_tracepoint(&taken, "mmap_lock/mmap_lock_acquire_returned",
			  "write==1 && success==1", pid);
	record_tracepoint(&released, "mmap_lock/mmap_lock_released", "write==1", pid);
}

static void print_holds(int pass)
{
	static uint64_t from[RECORDED_TIMES], to[RECORDED_TIMES];
	size_t nr = take_recorded_times(&taken, from), i;
	uint64_t total = 0;

	if (take_recorded_times(&released, to) != nr)
		errx(2, "the mmap lock was taken %zu times, but not released that often", nr);
	for (i = 0; i < nr; i++) {
		if (to[i] < from[i])
			errx(2, "the mmap lock was released before it was taken");
		to[i] -= from[i];
		total += to[i];
	}
	sort_numbers(to, nr);
	printf("%d,holds,%zu\n", pass, nr);
	printf("%d,hold_total,%llu\n", pass, (unsigned long long)total);
	printf("%d,hold_median,%llu\n", pass, (unsigned long long)(nr ? to[nr / 2] : 0));
	printf("%d,hold_longest,%llu\n", pass, (unsigned long long)(nr ? to[nr - 1] : 0));
}

static void print_events(int pass)
{
	struct event *event;

	for (event = events; event < events + NR_EVENTS; event++) {
		uint64_t count = tracepoint_count(event->fd);

		printf("%d,%s,%llu\n", pass, event->measure,
		       (unsigned long long)(count - event->seen));
		event->seen = count;
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

/* Runs on one CPU alone. */
static void stay_on_cpu(int pid, int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(pid, sizeof(cpus), &cpus))
		err(2, "moving %d to CPU %d", pid, cpu);
}

static void *keep_cpu_busy(void *arg)
{
	unsigned int i;

	(void)arg;
	/* After all that the kernel wants to do there. */
	if (sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ 0 }))
		err(2, "sched_setscheduler");
	stay_on_cpu(0, 1);
	/*
	 * In the emulator the CPUs take turns. A pause ends this one's, as the
	 * other may be waiting for it; but a pause is slow.
	 */
	for (;;) {
		for (i = 0; i < 1000; i++)
			asm volatile("");
		asm volatile("pause");
	}
}

static void start_busy_cpu(void)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, keep_cpu_busy, NULL);

	if (error)
		errx(2, "a thread: %s", strerror(error));
	poll_milliseconds = BUSY_POLL_MILLISECONDS;
}

static void parse_options(int argc, char **argv, struct options *to)
{
	static const struct option options[] = {
		{ "size-mib", required_argument, NULL, 's' },
		{ "folio-kib", required_argument, NULL, 'f' },
		{ "pattern", required_argument, NULL, 'p' },
		{ "max-ptes-none", required_argument, NULL, 'n' },
		{ "count", required_argument, NULL, 'c' },
		{ }
	};
	bool any_folio = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			to->size = parse_number(optarg) << 20;
			break;
		case 'f':
			any_folio = true;
			to->folio_kib = strcmp(optarg, "all") ? parse_number(optarg) : 0;
			break;
		case 'p':
			to->pattern = find_pattern(optarg);
			if (!to->pattern)
				errx(2, "'%s' is no pattern\n%s", optarg, patterns_usage);
			break;
		case 'n':
			to->max_ptes_none = parse_number(optarg);
			break;
		case 'c':
			for (to->count = 0; strcmp(optarg, counts[to->count]); ) {
				if (++to->count == sizeof(counts) / sizeof(counts[0]))
					errx(2, "'%s' can't be counted\n%s", optarg, usage);
			}
			break;
		default:
			errx(2, "%s%s", usage, patterns_usage);
		}
	}
	if (optind != argc || !any_folio || !to->size)
		errx(2, "%s%s", usage, patterns_usage);
}

static void turn_on_sizes(const struct options *options, unsigned long pmd_size)
{
	unsigned long kib;

	if (options->folio_kib) {
		write_size(options->folio_kib, "enabled", "madvise");
		return;
	}
	for (kib = SMALLEST_FOLIO_KIB; kib <= pmd_size / 1024; kib *= 2)
		write_size(kib, "enabled", "madvise");
}

int main(int argc, char **argv)
{
	unsigned long page_size = sysconf(_SC_PAGESIZE);
	unsigned long pmd_size = read_number(THP "hpage_pmd_size");
	struct options options = { .pattern = find_pattern("full") };
	struct address_range memory, rest;
	unsigned long scans;
	uint64_t clock_before;
	clockid_t clock;
	char state;
	int pass, pid, cpus;

	parse_options(argc, argv, &options);
	if (options.size % pmd_size)
		errx(2, "the size is a multiple of %lu MiB", pmd_size >> 20);
	cpus = options.count == EVENTS ? 2 : 1;
	if (sysconf(_SC_NPROCESSORS_ONLN) != cpus)
		errx(2, "boot with --cpus %d to count %s: the guest then does the same each time",
		     cpus, counts[options.count]);

	/* khugepaged shall run when this program sleeps, and never in between. */
	become_first();
	stay_on_cpu(0, 0);
	if (options.count != EVENTS)
		check_clock_counts_instructions();

	all_sizes_off();
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	write_file(THP "khugepaged/pages_to_scan", "%d", 1 << 30);
	write_file(THP "khugepaged/max_ptes_none", "%lu", options.max_ptes_none);
	/*
	 * Keep the base pages that a collapse frees in the per-CPU lists, up
	 * to an eighth of memory. Otherwise some passes give them back to the
	 * buddy allocator and some do not, depending on what ran before.
	 */
	write_file("/proc/sys/vm/percpu_pagelist_high_fraction", "8");

	memory = map_memory(options.size + STALL_PROBE_SIZE, pmd_size);
	rest.end = memory.end;
	memory.end -= STALL_PROBE_SIZE;
	rest.start = memory.end;
	if (options.count == STALLS)
		prepare_stall_probe(rest);
	else if (munmap((void *)rest.start, STALL_PROBE_SIZE))
		err(2, "munmap");
	populate(memory, page_size, pmd_size, options.pattern);
	if (options.count == INSTRUCTIONS)
		print_folios(0, memory);

	turn_on_sizes(&options, pmd_size);
	sleep_milliseconds(poll_milliseconds);
	pid = find_khugepaged(&state);
	if (!pid)
		errx(3, "khugepaged does not run with only %lu KiB on: this kernel does not collapse to it",
		     options.folio_kib);
	wait_until_idle_for(pid, poll_milliseconds);
	if (options.count == EVENTS) {
		stay_on_cpu(pid, 0);
		start_busy_cpu();
		open_events(pid, options.folio_kib * 1024 / page_size);
	} else if (options.count == HOLDS) {
		open_holds(pid);
	} else if (options.count == STALLS) {
		watch_khugepaged(pid);
	}

	clock = cpu_clock_of(pid);
	for (pass = 1; pass <= PASSES; pass++) {
		clock_before = nanoseconds(clock);
		scans = read_number(THP "khugepaged/full_scans");

		/* The first is the one that getting known to khugepaged starts. */
		if (pass > 1)
			write_file(THP "khugepaged/scan_sleep_millisecs", "%d",
				   NEXT_WAKE_MILLISECONDS);
		else if (madvise((void *)memory.start,
				 (options.count == STALLS ? rest.end : memory.end) - memory.start,
				 MADV_HUGEPAGE))
			err(2, "MADV_HUGEPAGE");
		wait_for_scan(scans, pid);

		switch (options.count) {
		case INSTRUCTIONS:
			printf("%d,instructions,%llu\n", pass,
			       (unsigned long long)(nanoseconds(clock) - clock_before));
			print_folios(pass, memory);
			break;
		case EVENTS:
			print_events(pass);
			break;
		case HOLDS:
			/* What tracing adds is in here, and not in a count of instructions alone. */
			printf("%d,traced_instructions,%llu\n", pass,
			       (unsigned long long)(nanoseconds(clock) - clock_before));
			print_holds(pass);
			break;
		case STALLS:
			/* What later passes collapse is nothing. */
			print_stalls(pass);
			return 0;
		}
	}
	return 0;
}
