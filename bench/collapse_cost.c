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
#include <errno.h>
#include <dirent.h>
#include <getopt.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "folio_map.h"

#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define TRACING		"/sys/kernel/tracing"
#define PASSES		4
#define PASS_LIMIT_SECONDS 600
#define NEXT_WAKE_MILLISECONDS (24 * 3600 * 1000)
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

__attribute__((format(printf, 2, 3)))
static void write_file(const char *path, const char *format, ...)
{
	FILE *file = fopen(path, "w");
	va_list args;

	if (!file)
		err(2, "%s", path);
	va_start(args, format);
	vfprintf(file, format, args);
	va_end(args);
	if (fclose(file))
		err(2, "writing %s", path);
}

static unsigned long read_number(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned long number;

	if (!file)
		err(2, "%s", path);
	if (fscanf(file, "%lu", &number) != 1)
		errx(2, "%s: not a number", path);
	fclose(file);
	return number;
}

static void all_sizes_off(void)
{
	struct dirent *entry;
	char path[512];
	DIR *dir = opendir(THP);

	if (!dir)
		err(2, THP ": this needs a kernel with transparent huge pages");
	write_file(THP "enabled", "never");
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, "hugepages-", strlen("hugepages-")))
			continue;
		snprintf(path, sizeof(path), THP "%s/enabled", entry->d_name);
		/* Sizes for shared memory only have no such file. */
		if (!access(path, F_OK))
			write_file(path, "never");
	}
	closedir(dir);
}

/* The pid of khugepaged, or 0; its state letter goes to @state. */
static int find_khugepaged(char *state)
{
	struct dirent *entry;
	char path[512];
	int found = 0;
	DIR *dir = opendir("/proc");

	if (!dir)
		err(2, "/proc");
	while (!found && (entry = readdir(dir))) {
		FILE *file;
		int pid;

		snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
		if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
			continue;
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fscanf(file, "%d (khugepaged) %c", &pid, state) == 2)
			found = pid;
		fclose(file);
	}
	closedir(dir);
	return found;
}

/*
 * khugepaged has the CPU for itself while this sleeps. Short sleeps would cut
 * into its pass, and then its clock is short of what it ran.
 */
static void let_khugepaged_run(void)
{
	sleep(POLL_SECONDS);
}

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec now;

	if (clock_gettime(clock, &now))
		err(2, "clock_gettime");
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static clockid_t cpu_clock_of(int pid)
{
	clockid_t clock;
	int error = clock_getcpuclockid(pid, &clock);

	if (error)
		errx(2, "khugepaged's CPU clock: %s", strerror(error));
	return clock;
}

/* Waits until khugepaged sleeps and its clock stands still. */
static void wait_until_idle(int pid)
{
	uint64_t before, now = nanoseconds(cpu_clock_of(pid));
	char state;

	do {
		before = now;
		let_khugepaged_run();
		if (find_khugepaged(&state) != pid)
			errx(2, "khugepaged has gone");
		now = nanoseconds(cpu_clock_of(pid));
	} while (state == 'R' || state == 'D' || now != before);
}

static void wait_for_scan(unsigned long scans_before, int pid)
{
	time_t end = time(NULL) + PASS_LIMIT_SECONDS;
	unsigned long scans;

	while (read_number(THP "khugepaged/full_scans") == scans_before) {
		if (time(NULL) > end)
			errx(3, "khugepaged did not finish a scan in %d s: does this kernel collapse to this size?",
			     PASS_LIMIT_SECONDS);
		let_khugepaged_run();
	}
	wait_until_idle(pid);
	scans = read_number(THP "khugepaged/full_scans");
	if (scans != scans_before + 1)
		errx(2, "%lu full scans where one was asked for", scans - scans_before);
}

/* A loop of known length must take as many nanoseconds as instructions. */
static void check_clock_counts_instructions(void)
{
	const uint64_t rounds = 50 * 1000 * 1000;
	uint64_t start, took, left = rounds;

	start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	while (left)
		asm volatile("dec %0\n\ttest %0, %0" : "+r" (left));
	took = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start;

	/* At least dec, test, and the loop's own test and branch. */
	if (took < rounds * 3 || took > rounds * 6)
		errx(2, "%llu ns for a loop of %llu rounds: a nanosecond is not an instruction here, boot with QEMU's -icount shift=0",
		     (unsigned long long)took, (unsigned long long)rounds);
}

static void open_events(int pid, unsigned int order)
{
	size_t i;

	if (access(TRACING "/events", F_OK) &&
	    mount("tracefs", TRACING, "tracefs", 0, NULL))
		err(2, "mounting " TRACING);
	snprintf(events[1].filter, sizeof(events[1].filter), "order==%u", order);

	for (i = 0; i < NR_EVENTS; i++) {
		struct perf_event_attr attr = {
			.type = PERF_TYPE_TRACEPOINT,
			.size = sizeof(attr),
			.sample_period = 1,
		};
		char path[256];

		snprintf(path, sizeof(path), TRACING "/events/%s/id", events[i].tracepoint);
		attr.config = read_number(path);
		events[i].fd = syscall(SYS_perf_event_open, &attr, pid, -1, -1, 0);
		if (events[i].fd < 0)
			err(2, "counting %s", events[i].tracepoint);
		if (ioctl(events[i].fd, PERF_EVENT_IOC_SET_FILTER, events[i].filter))
			err(2, "filter '%s' on %s", events[i].filter, events[i].tracepoint);
	}
}

static void print_events(int pass)
{
	uint64_t count;
	size_t i;

	for (i = 0; i < NR_EVENTS; i++) {
		if (read(events[i].fd, &count, sizeof(count)) != sizeof(count))
			err(2, "reading the count of %s", events[i].tracepoint);
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

static struct address_range map_memory(unsigned long size, unsigned long pmd_size)
{
	struct address_range memory;
	char *area = mmap(NULL, size + pmd_size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		err(2, "mapping memory");
	memory.start = ((unsigned long)area + pmd_size - 1) & ~(pmd_size - 1);
	memory.end = memory.start + size;
	return memory;
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

static unsigned long parse_number(const char *text)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);

	if (!*text || *end)
		errx(2, "'%s' is not a number", text);
	return number;
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
	char path[256], state;
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
	if (sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 }))
		err(2, "sched_setscheduler");
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

	snprintf(path, sizeof(path), THP "hugepages-%lukB/enabled", folio_kib);
	write_file(path, "madvise");
	let_khugepaged_run();
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
