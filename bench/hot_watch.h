/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Watches khugepaged find the hot part of memory, at its own pace.
 *
 * Every virtual second the caller's touch() uses the hot pages; every ten, one
 * aging walk looks at all memory, the first after ten seconds. That goes on
 * until 95% of the hot pages are in folios of the size, or to a limit.
 *
 * What is hot may move: until then touch() uses other pages, and all that is
 * printed counts from the move.
 */
#ifndef HOT_WATCH_H
#define HOT_WATCH_H

#include <stdbool.h>
#include <stddef.h>

/* Pages of one process, at ascending addresses. */
struct page_set {
	int pid;
	const unsigned long *pages;
	size_t nr;
};

struct hot_watch {
	unsigned long folio_kib;
	bool aging;
	unsigned long limit_seconds;
	unsigned long cpu_percent;	/* khugepaged's share of a CPU; 0: as it was at boot */
	const struct page_set *hot;	/* the hot pages, for each process that has some */
	size_t nr_hot;
	unsigned long move_after;	/* seconds; 0: what is hot is so from the start */
	struct page_set old;		/* what was hot before */
	void (*touch)(void *arg, bool moved);
	void *arg;

	/* private */
	int khugepaged;
	uint64_t start_clock;
};

/* Turns on the size, everything else about khugepaged being as it was at boot. */
void hot_watch_prepare(struct hot_watch *watch);
/* Has khugepaged done more since it was started than to find that there is nothing to do? */
bool hot_watch_has_begun(const struct hot_watch *watch);
/* khugepaged's instructions since hot_watch_prepare(). */
uint64_t hot_watch_instructions(const struct hot_watch *watch);
/* From a time when khugepaged has just got to know the processes. Prints CSV lines "measure,value". */
void hot_watch_run(struct hot_watch *watch);

#endif
