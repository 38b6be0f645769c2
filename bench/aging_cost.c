// SPDX-License-Identifier: GPL-2.0
/*
 * What one aging walk of the multi-gen LRU costs over anonymous base pages.
 *
 * A process populates memory, and touches all of it between some walks; this
 * program asks for the walks through debugfs and counts the instructions of
 * each write. The memory may become 64K folios, so it is worth hints, but
 * khugepaged, which knows the process already, sleeps for a day.
 *
 * Prints CSV lines "measure,value": walk_NUMBER_STATE is the instructions.
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "guest.h"

#define WALKS 8

static const char usage[] =
"usage: aging_cost --size-mib MIB [--hints 0|1]\n"
"  --hints 0|1  write this to khugepaged/collapse_hints; needs a kernel with hints\n";

/* Which walks find every page young; the others find none. */
static const struct {
	const char *name;
	bool touched;
} states[WALKS] = {
	{ "populated", false },	/* young from the page faults */
	{ "touched", true }, { "touched", true }, { "touched", true },
	{ "idle", false }, { "idle", false }, { "idle", false },
	{ "touched", true },
};

static void touch(struct address_range memory, unsigned long page_size)
{
	unsigned long address;

	for (address = memory.start; address < memory.end; address += page_size)
		*(volatile unsigned long *)address = address;
}

static void madvise_huge(struct address_range memory)
{
	if (madvise((void *)memory.start, memory.end - memory.start, MADV_HUGEPAGE))
		err(2, "MADV_HUGEPAGE");
}

static void work(unsigned long size, int orders, int answers)
{
	unsigned long page_size = sysconf(_SC_PAGESIZE);
	unsigned long pmd_size = read_number(THP "hpage_pmd_size");
	struct address_range first = map_memory(pmd_size, pmd_size);
	struct address_range memory = map_memory(size, pmd_size);
	char letter = 0;

	/* By this, khugepaged gets to know the process before the memory that counts. */
	*(volatile char *)first.start = 1;
	madvise_huge(first);
	if (write(answers, &letter, 1) != 1 || read(orders, &letter, 1) != 1)
		errx(2, "no order");
	touch(memory, page_size);
	madvise_huge(memory);
	while (write(answers, &letter, 1) == 1 && read(orders, &letter, 1) == 1)
		touch(memory, page_size);
	_exit(0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "size-mib", required_argument, NULL, 's' },
		{ "hints", required_argument, NULL, 'h' },
		{ }
	};
	int option, orders[2], answers[2], pid, i;
	const char *hints = NULL;
	unsigned long size = 0, folios;
	char letter = 0, state;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			size = parse_number(optarg) << 20;
			break;
		case 'h':
			hints = optarg;
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc || !size) {
		fputs(usage, stderr);
		return 2;
	}
	become_first();
	check_clock_counts_instructions();
	all_sizes_off();
	if (hints)
		write_file(THP "khugepaged/collapse_hints", "%s", hints);
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	write_size(64, "enabled", "madvise");
	/* khugepaged starts; on the base, which has none for 64K, nothing does. */
	sleep(1);

	if (pipe(orders) || pipe(answers))
		err(2, "pipe");
	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		work(size, orders[0], answers[1]);
	}
	close(answers[1]);
	if (read(answers[0], &letter, 1) != 1)
		errx(2, "the process has gone");
	/* The base has no khugepaged for 64K; the series' has nothing to do here. */
	sleep(5);
	if (find_khugepaged(&state))
		wait_until_idle(find_khugepaged(&state));

	folios = read_size(64, "stats/nr_anon");

	for (i = 0; i < WALKS; i++) {
		if (i == 0 || states[i].touched) {
			if (write(orders[1], &letter, 1) != 1 || read(answers[0], &letter, 1) != 1)
				errx(2, "the process has gone: is there enough memory?");
		}
		printf("walk_%d_%s,%llu\n", i + 1, states[i].name, (unsigned long long)age_memory());
	}

	print_hint_counters();
	/* khugepaged must not have had a hand in it. */
	if (read_size(64, "stats/nr_anon") != folios)
		errx(2, "khugepaged was woken");
	return 0;
}
