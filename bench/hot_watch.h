/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Watches khugepaged find the hot part of memory, at its own pace.
 *
 * Every virtual second the caller's touch() uses the hot pages; every ten, one
 * aging walk looks at all memory, the first after ten seconds. That goes on
 * until 95% of the hot pages are in folios of the size, or to a limit.
 */
#ifndef HOT_WATCH_H
#define HOT_WATCH_H

#include <stdbool.h>
#include <stddef.h>

struct hot_watch {
	unsigned long folio_kib;
	bool aging;
	unsigned long limit_seconds;
	int pid;			/* the process that has the hot pages, */
	const unsigned long *pages;	/* their addresses, ascending, */
	size_t nr;			/* and their number */
	void (*touch)(void *arg);
	void *arg;

	/* private */
	int khugepaged;
	uint64_t start_clock;
};

/* Turns on the size, everything else about khugepaged being as it was at boot. */
void hot_watch_prepare(struct hot_watch *watch);
/* khugepaged's instructions since then. */
uint64_t hot_watch_instructions(const struct hot_watch *watch);
/* From a time when khugepaged has just got to know the processes. Prints CSV lines "measure,value". */
void hot_watch_run(struct hot_watch *watch);

#endif
