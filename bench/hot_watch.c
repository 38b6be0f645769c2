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
	uint64_t old;		/* of the pages that were hot before */
	uint64_t all;		/* folios of the size, anywhere */
};

void hot_watch_prepare(struct hot_watch *watch)
{
	char state;

	if (watch->cpu_percent)
		write_file(THP "khugepaged/cpu_percent", "%lu", watch->cpu_percent);
	write_size(watch->folio_kib, "enabled", "always");
	sleep(1);
	watch->khugepaged = find_khugepaged(&state);
	if (!watch->khugepaged)
		errx(3, "khugepaged does not run with only %lu KiB on: this kernel does not collapse to it",
		     watch->folio_kib);
	watch->start_clock = nanoseconds(cpu_clock_of(watch->khugepaged));
}

bool hot_watch_has_begun(const struct hot_watch *watch)
{
	return nanoseconds(cpu_clock_of(watch->khugepaged)) > 1000000;
}

uint64_t hot_watch_instructions(const struct hot_watch *watch)
{
	return nanoseconds(cpu_clock_of(watch->khugepaged)) - watch->start_clock;
}

/* How many KiB of the pages are in folios, and how large these folios are in all. */
static void find_in_folios(const struct hot_watch *watch, const struct page_set *set,
			   uint64_t *kib, uint64_t *folios_kib)
{
	struct folio_found found;
	struct folio_map map;

	folio_map_open(&map, set->pid);
	folio_find(&map, set->pages, set->nr,
		   __builtin_ctzl(watch->folio_kib * 1024 / map.page_size), &found);
	folio_map_close(&map);
	*kib += found.pages * map.page_size / 1024;
	*folios_kib += found.folio_pages * map.page_size / 1024;
}

static void look(const struct hot_watch *watch, struct state *state)
{
	uint64_t unused = 0;
	size_t i;

	*state = (struct state){ 0 };
	for (i = 0; i < watch->nr_hot; i++)
		find_in_folios(watch, &watch->hot[i], &state->hot, &state->hot_folios);
	if (watch->move_after)
		find_in_folios(watch, &watch->old, &state->old, &unused);
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

static uint64_t hot_kib_of(const struct hot_watch *watch)
{
	uint64_t nr = 0;
	size_t i;

	for (i = 0; i < watch->nr_hot; i++)
		nr += watch->hot[i].nr;
	return nr * (sysconf(_SC_PAGESIZE) / 1024);
}

void hot_watch_run(struct hot_watch *watch)
{
	uint64_t hot_kib = hot_kib_of(watch);
	uint64_t ran, ran_before = 0, walk, aging = 0, longest = 0;
	const unsigned long move = watch->move_after, end = move + watch->limit_seconds;
	unsigned long second, walks = 0;
	struct state state, before;
	struct timespec start;
	size_t passed = 0;

	look(watch, &before);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (second = 1; second <= end; second++) {
		sleep_until(&start, second);
		watch->touch(watch->arg, second > move);
		if (watch->aging && second % AGING_SECONDS == 0) {
			walk = age_memory();
			aging += walk;
			walks++;
			if (walk > longest)
				longest = walk;
		}

		if (second == move)
			look(watch, &before);
		if (second <= move)
			continue;

		/* Folios come from khugepaged: while it rests, nothing changes. */
		ran = hot_watch_instructions(watch);
		if (ran == ran_before)
			continue;
		ran_before = ran;
		look(watch, &state);
		while (passed < NR_MILESTONES &&
		       percent(state.hot, hot_kib) >= milestones[passed]) {
			printf("seconds_to_%u_percent,%lu\n", milestones[passed], second - move);
			printf("hot_share_at_%u_percent,%.1f\n", milestones[passed],
			       percent(state.hot_folios, state.all));
			passed++;
		}
		fflush(stdout);
		if (passed == NR_MILESTONES)
			break;
	}
	if (second > end)
		second = end;

	look(watch, &state);
	printf("reached,%d\n", passed == NR_MILESTONES);
	printf("seconds,%lu\n", second - move);
	printf("hot_kib,%llu\n", (unsigned long long)hot_kib);
	printf("hot_percent,%.1f\n", percent(state.hot, hot_kib));
	printf("large_kib_at_start,%llu\n", (unsigned long long)before.all);
	printf("large_kib,%llu\n", (unsigned long long)state.all);
	printf("hot_share,%.1f\n", percent(state.hot_folios, state.all));
	if (move) {
		printf("hot_kib_at_move,%llu\n", (unsigned long long)before.hot);
		printf("old_kib_at_move,%llu\n", (unsigned long long)before.old);
		printf("old_share_since_move,%.1f\n",
		       percent(state.old - before.old, state.all - before.all));
	}
	printf("khugepaged_instructions,%llu\n", (unsigned long long)hot_watch_instructions(watch));
	printf("full_scans,%lu\n", read_number(THP "khugepaged/full_scans"));
	printf("walks,%lu\n", walks);
	printf("walk_instructions,%llu\n", (unsigned long long)(walks ? aging / walks : 0));
	printf("longest_walk_instructions,%llu\n", (unsigned long long)longest);
	print_hint_counters();
}
