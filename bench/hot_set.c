// SPDX-License-Identifier: GPL-2.0
/*
 * How long it takes khugepaged, at its default pace, until the part of memory
 * that is in use is in large folios, and what else it collapses meanwhile.
 *
 * Processes populate cold memory in base pages, some of them also hot memory
 * behind their share of it. Then one size of huge pages is turned on, and from
 * then on the hot pages alone are touched (see hot_watch.h). khugepaged's knobs
 * stay as they are at boot but for cpu_percent, if that is asked for:
 * pages_to_scan 4096, scan_sleep_millisecs 10000, max_ptes_none 511.
 *
 * Runs in a fresh guest with one CPU and virtual time (scripts/boot --icount).
 * The hot memory is touched by a process of its own, so that the TLB forgets
 * between two touches.
 *
 * Prints CSV lines "measure,value".
 */
#define _GNU_SOURCE
#include <err.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"
#include "hot_watch.h"

static const char usage[] =
"usage: hot_set --cold-mib MIB --hot-mib MIB [--folio-kib KIB] [--processes N]\n"
"               [--hot-processes N] [--stride K] [--move-after SECONDS] [--old-first]\n"
"               [--cpu-percent P] [--limit SECONDS] [--no-hints] [--no-aging]\n"
"  --processes N      so many processes with equal shares of the cold memory\n"
"  --hot-processes N  so many of them share the hot memory: the last one that\n"
"                     khugepaged gets to know, and others in regular distances\n"
"  --stride K         only each K-th page of the hot memory is hot\n"
"  --move-after S     until then as much other memory is hot, behind the cold memory\n"
"  --old-first        that lies before the cold memory\n"
"  --cpu-percent P    khugepaged's share of a CPU\n"
"  --no-hints         turn collapse hints off\n"
"  --no-aging         no aging walks\n";

/* A process that populates memory and then obeys one-letter orders. */
struct worker {
	int pid;
	int orders;	/* written by the parent */
	int answers;	/* read by the parent */
};

struct layout {
	unsigned long page_size;
	unsigned long pmd_size;
	unsigned long cold;
	unsigned long old;	/* as large as the hot memory if that moves, or 0 */
	bool old_first;
	unsigned long hot;
	unsigned long stride;
};

struct places {
	unsigned long old;
	unsigned long hot;
};

enum { MEET_KHUGEPAGED = 'm', TOUCH = 't', TOUCH_OLD = 'o', DONE = 'd' };

static void touch_pages(const struct layout *layout, unsigned long start)
{
	unsigned long offset;

	for (offset = 0; offset < layout->hot; offset += layout->stride * layout->page_size)
		(void)*(volatile char *)(start + offset);
}

static void work(const struct layout *layout, int orders, int answers)
{
	unsigned long size = layout->cold + layout->old + layout->hot, offset;
	struct address_range memory = map_memory(size, layout->pmd_size);
	struct address_range first = map_memory(layout->pmd_size, layout->pmd_size);
	struct places places = {
		.old = memory.start + (layout->old_first ? 0 : layout->cold),
		.hot = memory.start + layout->cold + layout->old,
	};
	char letter;

	*(volatile char *)first.start = 1;
	for (offset = 0; offset < size; offset += layout->page_size)
		*(volatile unsigned long *)(memory.start + offset) = offset + 1;
	if (write(answers, &places, sizeof(places)) != sizeof(places))
		err(2, "answering");
	while (read(orders, &letter, 1) == 1) {
		/* A process gets known by asking for huge pages, for some populated memory. */
		if (letter == MEET_KHUGEPAGED)
			madvise((void *)first.start, layout->pmd_size, MADV_HUGEPAGE);
		else
			touch_pages(layout, letter == TOUCH ? places.hot : places.old);
		letter = DONE;
		if (write(answers, &letter, 1) != 1)
			err(2, "answering");
	}
	_exit(0);
}

/* Returns, after the memory is populated, where what is hot at times is. */
static struct places start_worker(struct worker *worker, const struct layout *layout)
{
	int orders[2], answers[2];
	struct places places;

	if (pipe(orders) || pipe(answers))
		err(2, "pipe");
	worker->pid = fork();
	if (worker->pid < 0)
		err(2, "fork");
	if (!worker->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(orders[1]);
		close(answers[0]);
		work(layout, orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	worker->orders = orders[1];
	worker->answers = answers[0];
	if (read(worker->answers, &places, sizeof(places)) != sizeof(places))
		errx(2, "a process did not populate its memory: is there enough?");
	return places;
}

static void order(struct worker *worker, char letter)
{
	if (write(worker->orders, &letter, 1) != 1 || read(worker->answers, &letter, 1) != 1)
		errx(2, "a process has gone: is there enough memory?");
}

static unsigned long *list_pages(const struct layout *layout, unsigned long start, size_t *nr)
{
	unsigned long *pages;
	size_t i;

	*nr = layout->hot / layout->page_size / layout->stride;
	pages = calloc(*nr, sizeof(*pages));
	if (!pages)
		err(2, "memory");
	for (i = 0; i < *nr; i++)
		pages[i] = start + i * layout->stride * layout->page_size;
	return pages;
}

/* Those of the processes that have hot memory. */
struct hot_workers {
	struct worker **workers;
	unsigned long nr;
};

static void touch(void *arg, bool moved)
{
	struct hot_workers *hot = arg;
	unsigned long i;

	for (i = 0; i < hot->nr; i++)
		order(hot->workers[i], moved ? TOUCH : TOUCH_OLD);
}

static void check_defaults(void)
{
	if (read_number(THP "khugepaged/pages_to_scan") != 4096 ||
	    read_number(THP "khugepaged/scan_sleep_millisecs") != 10000 ||
	    read_number(THP "khugepaged/max_ptes_none") != 511)
		errx(2, "khugepaged's knobs are not what this was written for: see bench/hot_set.c");
}

struct worker_census {
	struct folio_map map;
	struct folio_census census;
};

static void add_vma(const struct vma *vma, void *arg)
{
	struct worker_census *worker = arg;

	folio_census_add(&worker->map, vma->range, true, &worker->census);
}

/* How much memory of all processes is in large folios: what nr_anon must agree with. */
static void print_census(const struct worker *workers, unsigned int nr, unsigned long folio_kib)
{
	struct worker_census sum = { 0 };
	uint64_t kib = 0;
	unsigned int i, order;

	for (i = 0; i < nr; i++) {
		folio_map_open(&sum.map, workers[i].pid);
		each_vma(workers[i].pid, add_vma, &sum);
		for (order = 0; i == nr - 1 && order <= FOLIO_MAX_ORDER; order++) {
			if (sum.map.page_size << order >= folio_kib * 1024)
				kib += sum.census.mapped[order] * sum.map.page_size / 1024;
		}
		folio_map_close(&sum.map);
	}
	printf("large_kib_by_page_map,%llu\n", (unsigned long long)kib);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "cold-mib", required_argument, NULL, 'c' },
		{ "hot-mib", required_argument, NULL, 'h' },
		{ "folio-kib", required_argument, NULL, 'f' },
		{ "processes", required_argument, NULL, 'p' },
		{ "hot-processes", required_argument, NULL, 'P' },
		{ "move-after", required_argument, NULL, 'm' },
		{ "old-first", no_argument, NULL, 'o' },
		{ "cpu-percent", required_argument, NULL, 'C' },
		{ "stride", required_argument, NULL, 's' },
		{ "limit", required_argument, NULL, 'l' },
		{ "no-hints", no_argument, NULL, 'n' },
		{ "no-aging", no_argument, NULL, 'a' },
		{ }
	};
	struct layout layout = { .page_size = sysconf(_SC_PAGESIZE), .stride = 1 };
	unsigned long processes = 1, cold = 0, i;
	struct hot_workers hot_workers = { .nr = 1 };
	struct hot_watch watch = { .folio_kib = 64, .aging = true, .limit_seconds = 4000 };
	bool hints = true, cold_given = false;
	struct page_set *hot;
	struct worker *workers;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			cold = parse_number(optarg) << 20;
			cold_given = true;
			break;
		case 'h':
			layout.hot = parse_number(optarg) << 20;
			break;
		case 'f':
			watch.folio_kib = parse_number(optarg);
			break;
		case 'p':
			processes = parse_number(optarg);
			break;
		case 'P':
			hot_workers.nr = parse_number(optarg);
			break;
		case 'm':
			watch.move_after = parse_number(optarg);
			break;
		case 'o':
			layout.old_first = true;
			break;
		case 'C':
			watch.cpu_percent = parse_number(optarg);
			break;
		case 's':
			layout.stride = parse_number(optarg);
			break;
		case 'l':
			watch.limit_seconds = parse_number(optarg);
			break;
		case 'n':
			hints = false;
			break;
		case 'a':
			watch.aging = false;
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	layout.pmd_size = read_number(THP "hpage_pmd_size");
	if (optind != argc || !cold_given || !layout.hot || !processes || !layout.stride ||
	    !hot_workers.nr || hot_workers.nr > processes ||
	    (hot_workers.nr > 1 && watch.move_after) || (layout.old_first && !watch.move_after) ||
	    cold / processes % layout.pmd_size ||
	    layout.hot / hot_workers.nr % layout.pmd_size) {
		fputs(usage, stderr);
		errx(2, "each share of the memory is a multiple of %lu MiB, and only one process' hot memory moves",
		     layout.pmd_size >> 20);
	}
	layout.cold = cold / processes;
	layout.hot /= hot_workers.nr;
	layout.old = watch.move_after ? layout.hot : 0;

	check_clock_counts_instructions();
	check_defaults();
	all_sizes_off();
	if (!hints)
		write_file(THP "khugepaged/collapse_hints", "0");

	workers = calloc(processes, sizeof(*workers));
	hot = calloc(hot_workers.nr, sizeof(*hot));
	hot_workers.workers = calloc(hot_workers.nr, sizeof(*hot_workers.workers));
	if (!workers || !hot || !hot_workers.workers)
		err(2, "memory");
	for (i = 0; i < processes; i++) {
		const bool has_hot = (processes - 1 - i) % (processes / hot_workers.nr) == 0 &&
				     watch.nr_hot < hot_workers.nr;
		struct layout share = layout;
		struct places places;

		if (!has_hot)
			share.hot = share.old = 0;
		places = start_worker(&workers[i], &share);
		if (!has_hot)
			continue;
		hot_workers.workers[watch.nr_hot] = &workers[i];
		hot[watch.nr_hot].pid = workers[i].pid;
		hot[watch.nr_hot].pages = list_pages(&layout, places.hot, &hot[watch.nr_hot].nr);
		watch.nr_hot++;
		watch.old.pid = workers[i].pid;
		if (watch.move_after)
			watch.old.pages = list_pages(&layout, places.old, &watch.old.nr);
	}
	watch.hot = hot;
	watch.touch = touch;
	watch.arg = &hot_workers;

	hot_watch_prepare(&watch);
	for (i = 0; i < processes; i++)
		order(&workers[i], MEET_KHUGEPAGED);
	hot_watch_run(&watch);
	print_census(workers, processes, watch.folio_kib);
	return 0;
}
