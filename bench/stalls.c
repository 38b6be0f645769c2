// SPDX-License-Identifier: GPL-2.0
/*
 * A thread that takes page faults while khugepaged is at work. It goes before
 * khugepaged on the only CPU, so it runs as soon as it wakes, in the middle of
 * what khugepaged does, and waits for it only where a lock or a stretch that
 * can't be preempted makes it. Time stands for instructions here.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"
#include "stalls.h"

/* The smallest folio above a page that can come from a fault, in pages. */
#define SMALLEST_FOLIO_PAGES	4
#define SLEEP_NANOSECONDS	40000
#define SLEEP_MORE_NANOSECONDS	20000
/* khugepaged is done if it did not run between that many probes. */
#define IDLE_PROBES		500
#define MAX_PROBES		(STALL_PROBE_SIZE / 4096 / SMALLEST_FOLIO_PAGES)

/* Where the probe touches pages, and how long it took. */
struct area {
	const char *name;
	struct address_range memory;
	unsigned long next;
	uint64_t faults[MAX_PROBES];
	/* the same from the time at which the thread had asked to wake */
	uint64_t stalls[MAX_PROBES];
	size_t nr_probes;
};

static struct area areas[] = { { .name = "same_vma" }, { .name = "other_vma" } };

#define NR_AREAS	(sizeof(areas) / sizeof(areas[0]))

static clockid_t khugepaged_clock;
static pthread_t thread;

/*
 * One page of each place for a folio is there, and of each page table: so all
 * faults get one base page, and they cost the same unless they wait.
 */
static void prepare_area(struct area *area)
{
	unsigned long step = SMALLEST_FOLIO_PAGES * sysconf(_SC_PAGESIZE), address;

	for (address = area->memory.start; address < area->memory.end; address += step)
		*(volatile char *)address = 1;
	area->next = area->memory.start + sysconf(_SC_PAGESIZE);
}

static uint64_t fault(struct area *area)
{
	uint64_t start;

	if (area->next >= area->memory.end)
		errx(2, "khugepaged took longer than the stall probe has pages");
	start = nanoseconds(CLOCK_MONOTONIC);
	*(volatile char *)area->next = 1;
	area->next += SMALLEST_FOLIO_PAGES * sysconf(_SC_PAGESIZE);
	return nanoseconds(CLOCK_MONOTONIC) - start;
}

static void *probe(void *arg)
{
	unsigned int idle = 0, random = 1;

	(void)arg;
	while (idle < IDLE_PROBES) {
		uint64_t ran = nanoseconds(khugepaged_clock), due, late, took;
		struct timespec until;
		struct area *area;

		/* Not in step with what is probed, and yet the same each time. */
		random = random * 1103515245 + 12345;
		area = &areas[random >> 16 & 1];
		due = nanoseconds(CLOCK_MONOTONIC) + SLEEP_NANOSECONDS +
		      (random >> 17) % SLEEP_MORE_NANOSECONDS;
		until.tv_sec = due / 1000000000;
		until.tv_nsec = due % 1000000000;
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
			;
		late = nanoseconds(CLOCK_MONOTONIC) - due;
		took = fault(area);
		if (nanoseconds(khugepaged_clock) == ran) {
			idle++;
			continue;
		}
		idle = 0;
		area->faults[area->nr_probes] = took;
		area->stalls[area->nr_probes++] = late + took;
	}
	return NULL;
}

void prepare_stall_probe(struct address_range same)
{
	char *other = mmap(NULL, STALL_PROBE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct area *area;

	if (other == MAP_FAILED)
		err(2, "mapping memory");
	/* An area of its own, also beside others that are alike. */
	if (madvise(other, STALL_PROBE_SIZE, MADV_NOHUGEPAGE))
		err(2, "MADV_NOHUGEPAGE");
	areas[0].memory = same;
	areas[1].memory.start = (unsigned long)other;
	areas[1].memory.end = (unsigned long)other + STALL_PROBE_SIZE;
	prepare_area(&areas[0]);
	prepare_area(&areas[1]);
	/* No first fault on what the thread writes while it measures. */
	for (area = areas; area < areas + NR_AREAS; area++) {
		memset(area->faults, 1, sizeof(area->faults));
		memset(area->stalls, 1, sizeof(area->stalls));
	}
}

void watch_khugepaged(int pid)
{
	int error;

	khugepaged_clock = cpu_clock_of(pid);
	error = pthread_create(&thread, NULL, probe, NULL);
	if (error)
		errx(2, "a thread: %s", strerror(error));
}

static void print_distribution(int pass, const struct area *area, const char *what,
			       uint64_t times[MAX_PROBES])
{
	size_t nr = area->nr_probes;

	if (!nr)
		errx(2, "%s: khugepaged did not run beside the probe", area->name);
	sort_numbers(times, nr);
	printf("%d,%s_%s_median,%llu\n", pass, area->name, what,
	       (unsigned long long)times[nr / 2]);
	printf("%d,%s_%s_99th,%llu\n", pass, area->name, what,
	       (unsigned long long)times[nr * 99 / 100]);
	printf("%d,%s_%s_longest,%llu\n", pass, area->name, what,
	       (unsigned long long)times[nr - 1]);
}

void print_stalls(int pass)
{
	struct area *area;

	pthread_join(thread, NULL);
	for (area = areas; area < areas + NR_AREAS; area++) {
		printf("%d,%s_probes,%zu\n", pass, area->name, area->nr_probes);
		print_distribution(pass, area, "fault", area->faults);
		print_distribution(pass, area, "stall", area->stalls);
	}
}
