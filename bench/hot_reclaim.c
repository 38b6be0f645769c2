// SPDX-License-Identifier: GPL-2.0
/*
 * Does reclaim take hot memory for idle because khugepaged looks at its accessed
 * bits?
 *
 * A process touches its hot memory every second, another one goes through cold
 * memory in a circle, and both together do not fit in memory. The major faults of
 * the first one are what reclaim got wrong. Both leave a hole in each 64 KiB, and
 * no hole may be filled: khugepaged looks, but collapses nothing, which would change
 * what reclaim has to do.
 *
 * Runs in a fresh guest with one CPU, virtual time (scripts/boot --icount) and swap.
 *
 * Prints CSV lines "measure,value".
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define WINDOW_KIB	64
#define HOLE_EVERY	16	/* pages */
#define CIRCLE_SECONDS	60

static const char usage[] =
"usage: hot_reclaim --hot-mib MIB --cold-mib MIB [--look-millisecs N] [--classic] [--seconds N]\n"
"  --look-millisecs N  how often khugepaged looks, 0: not at all; default: 1000\n"
"  --classic           without the multi-gen LRU\n";

struct memory {
	volatile char *p;
	unsigned long pages;
	unsigned long page_size;
};

static struct memory map(unsigned long bytes)
{
	struct memory memory = { .page_size = sysconf(_SC_PAGESIZE) };

	memory.pages = bytes / memory.page_size;
	memory.p = (char *)map_memory(bytes, read_number(THP "hpage_pmd_size")).start;
	return memory;
}

static void touch(const struct memory *memory, unsigned long first, unsigned long nr)
{
	unsigned long page;

	for (page = first; page < first + nr && page < memory->pages; page++) {
		if (page % HOLE_EVERY)
			memory->p[page * memory->page_size]++;
	}
}

static void __attribute__((noreturn)) go_through_cold(unsigned long bytes)
{
	struct memory cold = map(bytes);
	unsigned long part = cold.pages / CIRCLE_SECONDS, second;

	for (second = 0;; second++) {
		touch(&cold, second % CIRCLE_SECONDS * part, part);
		sleep(1);
	}
}

static void touch_each_second(const struct memory *memory, unsigned long seconds)
{
	while (seconds--) {
		touch(memory, 0, memory->pages);
		sleep(1);
	}
}

static long major_faults(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage))
		err(2, "getrusage");
	return usage.ru_majflt;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "hot-mib", required_argument, NULL, 'h' },
		{ "cold-mib", required_argument, NULL, 'c' },
		{ "look-millisecs", required_argument, NULL, 'l' },
		{ "classic", no_argument, NULL, 'o' },
		{ "seconds", required_argument, NULL, 's' },
		{ }
	};
	unsigned long hot_mib = 0, cold_mib = 0, look = 1000, seconds = 300;
	long faults, looked;
	struct memory hot;
	bool classic = false;
	int option, pid;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			hot_mib = parse_number(optarg);
			break;
		case 'c':
			cold_mib = parse_number(optarg);
			break;
		case 'l':
			look = parse_number(optarg);
			break;
		case 'o':
			classic = true;
			break;
		case 's':
			seconds = parse_number(optarg);
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind != argc || !hot_mib || !cold_mib || !seconds) {
		fputs(usage, stderr);
		return 2;
	}

	check_clock_counts_instructions();
	all_sizes_off();
	if (classic)
		write_file("/sys/kernel/mm/lru_gen/enabled", "0");
	write_file(THP "khugepaged/max_ptes_none", "0");
	write_file(THP "khugepaged/scan_sleep_millisecs", "1000");
	write_file(THP "khugepaged/look_millisecs", "%lu", look);
	write_size(WINDOW_KIB, "enabled", "always");

	pid = fork();
	if (pid < 0)
		err(2, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		go_through_cold(cold_mib << 20);
	}
	hot = map(hot_mib << 20);
	/* A circle of the cold memory, until reclaim has to work. */
	touch_each_second(&hot, CIRCLE_SECONDS);
	faults = major_faults();
	looked = read_field("/proc/vmstat", "thp_collapse_look");
	touch_each_second(&hot, seconds);
	printf("hot_major_faults,%ld\n", major_faults() - faults);
	printf("tables_looked_at,%ld\n", read_field("/proc/vmstat", "thp_collapse_look") - looked);
	printf("refaults_of_all,%ld\n", read_field("/proc/vmstat", "workingset_refault_anon"));
	printf("swapped_out,%ld\n", read_field("/proc/vmstat", "pswpout"));
	printf("collapsed_kib,%ld\n", WINDOW_KIB * (long)read_size(WINDOW_KIB, "stats/nr_anon"));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}
