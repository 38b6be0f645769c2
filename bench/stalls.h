/* SPDX-License-Identifier: GPL-2.0 */
/* How long page faults of a process take while khugepaged collapses its memory. */
#ifndef STALLS_H
#define STALLS_H

#include "folio_map.h"

/* Memory of the probe in the area that is collapsed: that much, behind the rest. */
#define STALL_PROBE_SIZE	(32UL << 20)

/*
 * Memory for the probe: a thread that wakes every 50 us or so and touches a fresh
 * page, either in @same (part of the area that is to be collapsed) or in an area
 * of its own. To be called before any huge page size is on.
 */
void prepare_stall_probe(struct address_range same);
/* From now on, until khugepaged has been idle for a while. */
void watch_khugepaged(int pid);
/* Waits for the end, and prints what was found as lines "pass,measure,value". */
void print_stalls(int pass);

#endif
