// SPDX-License-Identifier: GPL-2.0
/*
 * What a flood of collapse hints costs, and what it can't do: use up memory, or
 * stop the scan of everything else. Needs a kernel with hints.
 *
 * The hints go through debugfs. "flood" gives each of them for another PMD of
 * memory that is mapped but not populated (so none of them leads to a folio), and khugepaged sleeps meanwhile.
 * "share" gives so many before each wake that khugepaged could do nothing else,
 * and counts what it does.
 *
 * Prints CSV lines "measure,value".
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define HINT_FILE	"/sys/kernel/debug/collapse_hint"
#define FOLIO_KIB	64
#define PAGES_TO_SCAN	4096
#define WAKES		8

static const char usage[] =
"usage: hint_flood flood --hints N --processes N\n"
"       hint_flood share --hinted-mib MIB --other-mib MIB [--failing]\n"
"  --failing  the hinted memory is shared with another process, so that no hint\n"
"             leads to a folio\n";

static unsigned long pmd_size;
static int hint_fd;

struct process {
	int pid;
	struct address_range memory;
};

static const char *const counters[] = { "queued", "dropped", "stale", "collapsed", "failed" };
#define NR_COUNTERS (sizeof(counters) / sizeof(counters[0]))

static long vmstat(const char *counter)
{
	char name[64];
	long value;

	snprintf(name, sizeof(name), "thp_collapse_hint_%s", counter);
	value = read_field("/proc/vmstat", name);
	if (value < 0)
		errx(3, "/proc/vmstat has no %s: this kernel has no collapse hints", name);
	return value;
}

static long pending(void)
{
	return read_field(HINT_FILE, "priority_0") + read_field(HINT_FILE, "priority_1");
}

/* queued = dropped + stale + collapsed + failed + pending, at any time. */
static void print_balance(const char *when)
{
	long missing = -pending();
	size_t i;

	for (i = 0; i < NR_COUNTERS; i++) {
		long value = vmstat(counters[i]);

		printf("%s_%s,%ld\n", when, counters[i], value);
		missing += i ? -value : value;
	}
	printf("%s_pending_priority_0,%ld\n", when, read_field(HINT_FILE, "priority_0"));
	printf("%s_pending_priority_1,%ld\n", when, read_field(HINT_FILE, "priority_1"));
	printf("%s_unaccounted,%ld\n", when, missing);
	fflush(stdout);
}

static void print_memory(const char *when)
{
	static const char *const fields[] = { "MemFree", "MemAvailable", "Slab", "SUnreclaim", "Percpu" };
	size_t i;

	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		printf("%s_%s_kib,%ld\n", when, fields[i], read_field("/proc/meminfo", fields[i]));
}

enum population { ONE_PAGE, ALL, ALL_SHARED };

static void populate(struct address_range memory)
{
	unsigned long address, page_size = sysconf(_SC_PAGESIZE);

	for (address = memory.start; address < memory.end; address += page_size)
		*(volatile unsigned long *)address = address;
}

/* A process with memory; one page of it must be populated for khugepaged to care. */
static struct process start_process(unsigned long size, enum population population)
{
	struct process process = { .memory = map_memory(size, pmd_size) };
	char letter = 0;
	int ready[2];

	if (pipe(ready))
		err(2, "pipe");
	if (population == ALL_SHARED)
		populate(process.memory);
	process.pid = fork();
	if (process.pid < 0)
		err(2, "fork");
	if (!process.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (population == ALL)
			populate(process.memory);
		else if (population == ONE_PAGE)
			*(volatile char *)process.memory.start = 1;
		if (write(ready[1], &letter, 1) != 1)
			err(2, "pipe");
		pause();
		_exit(0);
	}
	close(ready[1]);
	if (read(ready[0], &letter, 1) != 1)
		errx(2, "a process has gone: is there enough memory?");
	close(ready[0]);
	/* The child has its own. */
	if (population != ALL_SHARED)
		munmap((void *)process.memory.start, size);
	return process;
}

static void stop_process(const struct process *process)
{
	kill(process->pid, SIGKILL);
	waitpid(process->pid, NULL, 0);
}

static void give_hint(int pid, unsigned long address, int priority)
{
	char line[64];
	int length = snprintf(line, sizeof(line), "%d 0x%lx %d", pid, address, priority);

	if (write(hint_fd, line, length) != length)
		err(2, HINT_FILE ": '%s'", line);
}

/* Instructions of one hint and of the slowest, without those of taking the time. */
static void give_hints(const char *what, const struct process *processes,
		       unsigned long nr_processes, unsigned long nr)
{
	uint64_t start, end, all = 0, slowest = 0, empty;
	unsigned long i, slowest_is = 0;

	start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	empty = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start;
	for (i = 0; i < nr; i++) {
		const struct process *process = &processes[i % nr_processes];
		/* The second hint of a process is of the other priority. */
		unsigned long pmd = i / nr_processes;
		unsigned long address = process->memory.start + pmd * pmd_size;

		start = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
		give_hint(process->pid, address, pmd % 2);
		end = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - start - empty;
		all += end;
		if (end > slowest) {
			slowest = end;
			slowest_is = i;
		}
	}
	printf("%s_hints,%lu\n", what, nr);
	printf("%s_instructions_mean,%llu\n", what, (unsigned long long)(all / nr));
	printf("%s_instructions_max,%llu\n", what, (unsigned long long)slowest);
	printf("%s_instructions_max_at,%lu\n", what, slowest_is);
}

/* One pass of khugepaged. */
static void wake_khugepaged(void)
{
	char state;

	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	wait_until_idle(find_khugepaged(&state));
}

/*
 * Turns the size on, now that all is populated, and lets khugepaged do what the
 * first hint wakes it for. From then on it sleeps until wake_khugepaged().
 */
static void meet_khugepaged(const struct process *process)
{
	char state;

	write_size(FOLIO_KIB, "enabled", "always");
	give_hint(process->pid, process->memory.start, 1);
	sleep(1);
	wait_until_idle(find_khugepaged(&state));
}

static void flood(unsigned long nr, unsigned long nr_processes)
{
	struct process *processes = calloc(nr_processes, sizeof(*processes));
	unsigned long i, wakes = 0;

	if (!processes || nr % nr_processes)
		errx(2, "as many hints for each process");
	for (i = 0; i < nr_processes; i++)
		processes[i] = start_process(nr / nr_processes * pmd_size, ONE_PAGE);

	meet_khugepaged(&processes[0]);

	printf("limit,%ld\n", read_field(HINT_FILE, "limit"));
	printf("limit_per_process,%ld\n", read_field(HINT_FILE, "limit_per_process"));

	/* What a write costs without a hint in it. */
	write_file(THP "khugepaged/collapse_hints", "0");
	give_hints("ignored", processes, nr_processes, nr_processes * 8 < nr ? nr_processes * 8 : nr);
	print_balance("ignored");
	write_file(THP "khugepaged/collapse_hints", "1");

	print_memory("before");
	give_hints("flood", processes, nr_processes, nr);
	print_balance("flood");
	print_memory("flood");

	/* All once more: those that are pending must not count again. */
	give_hints("again", processes, nr_processes, nr_processes * 8 < nr ? nr_processes * 8 : nr);
	print_balance("again");

	while (pending() && wakes < 10000) {
		wake_khugepaged();
		wakes++;
		if (wakes == 1)
			print_balance("first_wake");
	}
	printf("wakes_until_none_pending,%lu\n", wakes);
	print_balance("used");

	give_hints("exit", processes, nr_processes, nr_processes * 8 < nr ? nr_processes * 8 : nr);
	print_balance("before_exit");
	for (i = 0; i < nr_processes; i++)
		stop_process(&processes[i]);
	sleep(5);
	print_balance("exit");
	print_memory("exit");
}

/* How much of the process is in folios of the size. */
static unsigned long large_kib(const struct process *process, struct address_range range)
{
	struct folio_census census = { 0 };
	unsigned long kib = 0;
	struct folio_map map;
	int order;

	folio_map_open(&map, process->pid);
	folio_census_add(&map, range, true, &census);
	for (order = 0; order <= FOLIO_MAX_ORDER; order++) {
		if (map.page_size << order >= FOLIO_KIB * 1024)
			kib += census.mapped[order] * map.page_size / 1024;
	}
	folio_map_close(&map);
	return kib;
}

static void share(unsigned long hinted, unsigned long other, bool failing)
{
	struct process first, second;
	unsigned long address, wake, before, after;
	int scans, uses, khugepaged;
	char state, name[32];

	/* The round robin works on the first process, the hints are for the second. */
	first = start_process(other, ALL);
	second = start_process(hinted, failing ? ALL_SHARED : ALL);
	meet_khugepaged(&first);
	khugepaged = find_khugepaged(&state);
	scans = open_tracepoint("huge_memory/mm_khugepaged_scan_pmd", NULL, khugepaged);
	uses = open_tracepoint("huge_memory/mm_khugepaged_hint_use", NULL, khugepaged);

	for (wake = 1; wake <= WAKES; wake++) {
		uint64_t scans_before = tracepoint_count(scans);
		uint64_t uses_before = tracepoint_count(uses);

		before = large_kib(&first, first.memory);
		for (address = second.memory.start; address < second.memory.end; address += pmd_size)
			give_hint(second.pid, address, 0);
		printf("wake_%lu_pending_before,%ld\n", wake, pending());
		wake_khugepaged();
		after = large_kib(&first, first.memory);
		printf("wake_%lu_hints_used,%llu\n", wake,
		       (unsigned long long)(tracepoint_count(uses) - uses_before));
		printf("wake_%lu_pmds_scanned,%llu\n", wake,
		       (unsigned long long)(tracepoint_count(scans) - scans_before));
		printf("wake_%lu_other_kib_collapsed,%lu\n", wake, after - before);
		snprintf(name, sizeof(name), "wake_%lu", wake);
		print_balance(name);
	}
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "hints", required_argument, NULL, 'h' },
		{ "processes", required_argument, NULL, 'p' },
		{ "hinted-mib", required_argument, NULL, 'i' },
		{ "other-mib", required_argument, NULL, 'o' },
		{ "failing", no_argument, NULL, 'f' },
		{ }
	};
	unsigned long hints = 0, processes = 0, hinted = 0, other = 0;
	bool failing = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			hints = parse_number(optarg);
			break;
		case 'p':
			processes = parse_number(optarg);
			break;
		case 'i':
			hinted = parse_number(optarg) << 20;
			break;
		case 'o':
			other = parse_number(optarg) << 20;
			break;
		case 'f':
			failing = true;
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	pmd_size = read_number(THP "hpage_pmd_size");
	hint_fd = open(HINT_FILE, O_RDWR | O_CLOEXEC);
	if (hint_fd < 0)
		err(3, HINT_FILE ": this kernel has no collapse hints");

	become_first();
	check_clock_counts_instructions();
	all_sizes_off();
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	write_file(THP "khugepaged/pages_to_scan", "%d", PAGES_TO_SCAN);
	if (optind == argc - 1 && !strcmp(argv[optind], "flood") && hints && processes) {
		flood(hints, processes);
	} else if (optind == argc - 1 && !strcmp(argv[optind], "share") && hinted && other) {
		share(hinted, other, failing);
	} else {
		fputs(usage, stderr);
		return 2;
	}
	return 0;
}
