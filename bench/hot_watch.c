// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <unistd.h>

#include "guest.h"
#include "hot_watch.h"

#define AGING_SECONDS	10
#define WANTED_PERCENT	95

static const unsigned int milestones[] = { 10, 25, 50, 75, 90, WANTED_PERCENT };
#define NR_MILESTONES (sizeof(milestones) / sizeof(milestones[0]))

/* What is in large folios, in KiB. */
struct state {
	uint64_t hot;		/* of the hot pages */
	uint64_t hot_folios;	/* the folios that have these */
	uint64_t all;		/* folios of the size, anywhere */
};

void hot_watch_prepare(struct hot_watch *watch)
{
	char state;

	write_size(watch->folio_kib, "enabled", "always");
	sleep(1);
	watch->khugepaged = find_khugepaged(&state);
	if (!watch->khugepaged)
		errx(3, "khugepaged does not run with only %lu KiB on: this kernel does not collapse to it",
		     watch->folio_kib);
	watch->start_clock = nanoseconds(cpu_clock_of(watch->khugepaged));
}

uint64_t hot_watch_instructions(const struct hot_watch *watch)
{
	return nanoseconds(cpu_clock_of(watch->khugepaged)) - watch->start_clock;
}

static void look(const struct hot_watch *watch, struct state *state)
{
	struct folio_found found;
	struct folio_map map;
	unsigned int order;

	folio_map_open(&map, watch->pid);
	order = __builtin_ctzl(watch->folio_kib * 1024 / map.page_size);
	folio_find(&map, watch->pages, watch->nr, order, &found);
	folio_map_close(&map);

	state->hot = found.pages * map.page_size / 1024;
	state->hot_folios = found.folio_pages * map.page_size / 1024;
	state->all = read_size(watch->folio_kib, "stats/nr_anon") * watch->folio_kib;
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? part * 100.0 / whole : 0;
}

static void sleep_until(const struct timespec *start, unsigned long seconds)
{
	struct timespec when = *start;

	when.tv_sec += seconds;
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL))
		;
}

void hot_watch_run(struct hot_watch *watch)
{
	uint64_t hot_kib = watch->nr * (sysconf(_SC_PAGESIZE) / 1024);
	uint64_t ran, ran_before = 0, walk, aging = 0, longest = 0;
	unsigned long second, walks = 0, at_start;
	struct timespec start;
	struct state state;
	size_t passed = 0;

	at_start = read_size(watch->folio_kib, "stats/nr_anon") * watch->folio_kib;
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (second = 1; second <= watch->limit_seconds; second++) {
		sleep_until(&start, second);
		watch->touch(watch->arg);
		if (watch->aging && second % AGING_SECONDS == 0) {
			walk = age_memory();
			aging += walk;
			walks++;
			if (walk > longest)
				longest = walk;
		}

		/* Folios come from khugepaged: while it rests, nothing changes. */
		ran = hot_watch_instructions(watch);
		if (ran == ran_before)
			continue;
		ran_before = ran;
		look(watch, &state);
		while (passed < NR_MILESTONES &&
		       percent(state.hot, hot_kib) >= milestones[passed]) {
			printf("seconds_to_%u_percent,%lu\n", milestones[passed], second);
			printf("hot_share_at_%u_percent,%.1f\n", milestones[passed],
			       percent(state.hot_folios, state.all));
			passed++;
		}
		fflush(stdout);
		if (passed == NR_MILESTONES)
			break;
	}
	if (second > watch->limit_seconds)
		second = watch->limit_seconds;

	look(watch, &state);
	printf("reached,%d\n", passed == NR_MILESTONES);
	printf("seconds,%lu\n", second);
	printf("hot_kib,%llu\n", (unsigned long long)hot_kib);
	printf("hot_percent,%.1f\n", percent(state.hot, hot_kib));
	printf("large_kib_at_start,%lu\n", at_start);
	printf("large_kib,%llu\n", (unsigned long long)state.all);
	printf("hot_share,%.1f\n", percent(state.hot_folios, state.all));
	printf("khugepaged_instructions,%llu\n", (unsigned long long)hot_watch_instructions(watch));
	printf("full_scans,%lu\n", read_number(THP "khugepaged/full_scans"));
	printf("walks,%lu\n", walks);
	printf("walk_instructions,%llu\n", (unsigned long long)(walks ? aging / walks : 0));
	printf("longest_walk_instructions,%llu\n", (unsigned long long)longest);
	print_hint_counters();
}
