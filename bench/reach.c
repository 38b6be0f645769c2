// SPDX-License-Identifier: GPL-2.0
/*
 * How much memory gets into folios of a size, 64K, at all. This process fills its
 * memory while all sizes are off, and does nothing from then on, unless --touch has
 * it map and touch a page elsewhere so that any khugepaged gets to know it.
 *
 *   area      one area of 64 MiB
 *   areas     8 areas of 16 MiB, which is less than a PMD range where pages have 64K
 *   mappings  1000 areas of 60 to 1900 KiB
 *   stacks    200 threads, 200 KiB in use of each stack of 256 KiB, from mmap()
 *             without MAP_STACK: the kernel keeps huge pages from what has that
 *   of NAME   anonymous memory of all processes of this name, which somebody else
 *             has filled and may be using
 *
 * Prints CSV lines "measure,value".
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"

#define PASSES		3

#define NR_MAPPINGS	1000
#define MIN_KIB		60
#define MAX_KIB		1900

#define NR_THREADS	200
#define STACK_KIB	256
#define STACK_USED_KIB	200

static const char usage[] =
"usage: reach area|areas|mappings|stacks [--touch] [--folio-kib KIB] [--at-least PERCENT]\n"
"       reach of NAME\n"
"  --at-least PERCENT  fail if less of the memory is in folios\n";

static unsigned long page_size;
static struct address_range ranges[NR_MAPPINGS];
static size_t nr_ranges;

/* Areas next to each other would be one: a page without access is before each. */
static char *new_area(unsigned long length)
{
	char *area = mmap(NULL, page_size + length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED || mprotect(area + page_size, length, PROT_READ | PROT_WRITE))
		err(2, "mmap");
	ranges[nr_ranges].start = (unsigned long)area + page_size;
	ranges[nr_ranges].end = ranges[nr_ranges].start + length;
	nr_ranges++;
	return area + page_size;
}

static void fill_area(unsigned long length)
{
	memset(new_area(length), 1, length);
}

static void fill_areas(void)
{
	int i;

	for (i = 0; i < 8; i++)
		fill_area(16 << 20);
}

static void fill_mappings(void)
{
	unsigned long i, random = 1;

	for (i = 0; i < NR_MAPPINGS; i++) {
		random = (random * 1103515245 + 12345) % 0x80000000;
		fill_area((MIN_KIB + random / 64 % (MAX_KIB - MIN_KIB + 1)) * 1024 / page_size * page_size);
	}
}

static pthread_barrier_t filled;

static void *use_stack(void *unused)
{
	char used[STACK_USED_KIB * 1024];

	(void)unused;
	memset(used, 1, sizeof(used));
	__asm__ volatile("" : : "r"(used) : "memory");
	pthread_barrier_wait(&filled);
	pause();
	return NULL;
}

static void fill_stacks(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	int i;

	pthread_attr_init(&attr);
	for (i = 0; i < NR_THREADS; i++) {
		char *stack = new_area(STACK_KIB * 1024);

		pthread_barrier_init(&filled, NULL, 2);
		if (pthread_attr_setstack(&attr, stack, STACK_KIB * 1024) ||
		    pthread_create(&thread, &attr, use_stack, NULL))
			errx(2, "pthread_create");
		pthread_barrier_wait(&filled);
	}
}

struct processes_census {
	struct folio_map map;
	struct folio_census *census;
	int nr_processes;
};

static void add_vma(const struct vma *vma, void *arg)
{
	struct processes_census *processes = arg;

	if (vma_may_become_large(vma))
		folio_census_add(&processes->map, vma->range, true, processes->census);
}

static bool add_process(const struct found_process *process, void *arg)
{
	struct processes_census *processes = arg;

	folio_map_open(&processes->map, process->pid);
	each_vma(process->pid, add_vma, processes);
	folio_map_close(&processes->map);
	processes->nr_processes++;
	return true;
}

static void take_census_of(const char *name, struct folio_census *census)
{
	struct processes_census processes = { .census = census };

	each_process(name, add_process, &processes);
	if (!processes.nr_processes)
		errx(2, "there is no process %s", name);
	printf("processes,%d\n", processes.nr_processes);
}

static void take_own_census(struct folio_census *census)
{
	struct folio_map map;
	size_t i;

	folio_map_open(&map, getpid());
	for (i = 0; i < nr_ranges; i++)
		folio_census_add(&map, ranges[i], true, census);
	folio_map_close(&map);
}

/* Returns the percentage of it that is in folios. */
static double print_folios(const struct folio_census *census, unsigned long folio_kib)
{
	unsigned int order = __builtin_ctzl(folio_kib * 1024 / page_size), larger;
	uint64_t in_folios = 0;
	double percent;

	for (larger = order; larger <= FOLIO_MAX_ORDER; larger++)
		in_folios += census->whole[larger];
	printf("kib_populated,%lu\n", folio_census_mapped(census) * page_size / 1024);
	printf("kib_in_folios,%lu\n", in_folios * page_size / 1024);
	percent = 100.0 * in_folios / folio_census_mapped(census);
	printf("percent_in_folios,%.1f\n", percent);
	return percent;
}

/*
 * Some kernels notice a new area only where it becomes one with its neighbour: the
 * second one does.
 */
static void touch_new_memory(void)
{
	int i;

	for (i = 0; i < 2; i++) {
		char *area = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (area == MAP_FAILED)
			err(2, "mmap");
		area[1 << 20] = 1;
	}
}

static void fill(const char *what)
{
	if (!strcmp(what, "area"))
		fill_area(64 << 20);
	else if (!strcmp(what, "areas"))
		fill_areas();
	else if (!strcmp(what, "mappings"))
		fill_mappings();
	else if (!strcmp(what, "stacks"))
		fill_stacks();
	else
		errx(2, "%s", usage);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "touch", no_argument, NULL, 't' },
		{ "folio-kib", required_argument, NULL, 'f' },
		{ "at-least", required_argument, NULL, 'a' },
		{}
	};
	struct folio_census census = {};
	unsigned long folio_kib = 64, at_least = 0;
	const char *of = NULL;
	bool touch = false;
	int opt, pid, pass;
	char state;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 't')
			touch = true;
		else if (opt == 'f')
			folio_kib = parse_number(optarg);
		else if (opt == 'a')
			at_least = parse_number(optarg);
		else
			errx(2, "%s", usage);
	}
	if (optind + 2 == argc && !touch && !strcmp(argv[optind], "of"))
		of = argv[optind + 1];
	else if (optind + 1 != argc)
		errx(2, "%s", usage);
	page_size = sysconf(_SC_PAGESIZE);

	all_sizes_off();
	write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	write_file(THP "khugepaged/pages_to_scan", "%d", 1 << 30);
	write_file(THP "khugepaged/max_ptes_none", "0");
	if (!of)
		fill(argv[optind]);

	write_size(folio_kib, "enabled", "always");
	if (touch)
		touch_new_memory();
	sleep_milliseconds(100);
	pid = find_khugepaged(&state);
	if (!pid)
		errx(3, "khugepaged does not run with only %lu KiB on", folio_kib);
	for (pass = 1; pass <= PASSES; pass++) {
		wait_until_idle(pid);
		write_file(THP "khugepaged/scan_sleep_millisecs", "%d", NEXT_WAKE_MILLISECONDS);
	}
	wait_until_idle(pid);
	if (of)
		take_census_of(of, &census);
	else
		take_own_census(&census);
	return print_folios(&census, folio_kib) < at_least;
}
