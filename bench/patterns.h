/* SPDX-License-Identifier: GPL-2.0 */
/* How memory is populated before khugepaged gets to see it. */
#ifndef PATTERNS_H
#define PATTERNS_H

#include "folio_map.h"

struct pattern;

/* The patterns by name, for a usage text. */
extern const char patterns_usage[];

/* NULL if there is none of that name. */
const struct pattern *find_pattern(const char *name);

/*
 * Writes to the pages of @memory that the pattern populates, and does to one
 * page of each PMD what the pattern says. What this needs stays until the
 * program ends.
 */
void populate(struct address_range memory, unsigned long page_size,
	      unsigned long pmd_size, const struct pattern *pattern);

#endif
