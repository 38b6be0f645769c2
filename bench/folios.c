// SPDX-License-Identifier: GPL-2.0
/* Shows how much of a process is mapped in folios of which order. */
#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "folio_map.h"

static const char usage[] =
"usage: folios [--anon] [--csv] [--range START-END]... [--ranges FILE] PID\n"
"       folios --full-windows KIB PID\n"
"\n"
"How much of process PID is mapped in folios of which order, from\n"
"/proc/PID/pagemap and /proc/kpageflags.\n"
"\n"
"  --anon               count anonymous memory only\n"
"  --range START-END    only these addresses (hexadecimal; may be repeated)\n"
"  --ranges FILE        only the ranges in FILE, one START-END a line\n"
"  --csv                order,folio_kib,mapped_kib,whole_kib; swapped memory as order 'swap'.\n"
"                       whole_kib is the part whose folio is mapped whole, in order and aligned\n"
"  --full-windows KIB   list the aligned windows of KIB that are completely\n"
"                       populated and that khugepaged may look at, as ranges\n";

struct ranges {
	struct address_range *at;
	size_t nr;
};

static void add_range(struct ranges *ranges, struct address_range range)
{
	ranges->at = reallocarray(ranges->at, ranges->nr + 1, sizeof(*ranges->at));
	if (!ranges->at)
		err(2, "memory for address ranges");
	ranges->at[ranges->nr++] = range;
}

static void parse_range(struct ranges *ranges, const char *text)
{
	struct address_range range;
	char rest;

	if (sscanf(text, "%lx-%lx %c", &range.start, &range.end, &rest) != 2 ||
	    range.start >= range.end)
		errx(2, "'%s' is not a range: use START-END in hexadecimal", text);
	add_range(ranges, range);
}

static void read_ranges(struct ranges *ranges, const char *path)
{
	FILE *file = fopen(path, "r");
	char line[128];

	if (!file)
		err(2, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = '\0';
		parse_range(ranges, line);
	}
	fclose(file);
}

static void add_vma(const struct vma *vma, void *ranges)
{
	add_range(ranges, vma->range);
}

static void add_vma_without_file(const struct vma *vma, void *ranges)
{
	if (!vma->inode)
		add_range(ranges, vma->range);
}

/* Windows that touch are printed as one range. */
static void print_merged(struct address_range window, void *arg)
{
	struct address_range *run = arg;

	if (window.start != run->end) {
		if (run->end)
			printf("%lx-%lx\n", run->start, run->end);
		run->start = window.start;
	}
	run->end = window.end;
}

static void print_full_windows(struct folio_map *map, struct ranges *vmas,
			       unsigned long kib)
{
	struct address_range run = { 0, 0 };
	unsigned int order = 0;
	size_t i;

	while ((map->page_size << order) / 1024 < kib)
		order++;
	if ((map->page_size << order) / 1024 != kib || 1UL << order > map->pmd_pages)
		errx(2, "no folio is %lu KiB large: use a power of two from %lu to %lu",
		     kib, map->page_size / 1024, map->pmd_pages * map->page_size / 1024);

	for (i = 0; i < vmas->nr; i++)
		folio_full_windows(map, vmas->at[i], order, print_merged, &run);
	if (run.end)
		printf("%lx-%lx\n", run.start, run.end);
}

static void print_csv(const struct folio_map *map, const struct folio_census *census)
{
	unsigned long kib = map->page_size / 1024;
	int order;

	puts("order,folio_kib,mapped_kib,whole_kib");
	for (order = 0; order <= FOLIO_MAX_ORDER; order++) {
		if (order && !census->mapped[order])
			continue;
		printf("%d,%lu,%llu,%llu\n", order, kib << order,
		       (unsigned long long)census->mapped[order] * kib,
		       (unsigned long long)census->whole[order] * kib);
	}
	printf("swap,%lu,%llu,0\n", kib, (unsigned long long)census->swapped * kib);
}

static void print_table(const struct folio_map *map, const struct folio_census *census)
{
	static const char bar[] = "########################################";
	uint64_t total = folio_census_mapped(census);
	double mib = map->page_size / 1048576.0;
	int order;

	printf("%10s %12s %7s %12s\n", "folio", "mapped MiB", "%", "whole MiB");
	for (order = 0; order <= FOLIO_MAX_ORDER; order++) {
		double share = total ? (double)census->mapped[order] / total : 0;

		if (order && !census->mapped[order])
			continue;
		printf("%8luK  %12.1f %6.1f%% %12.1f  %.*s\n",
		       map->page_size / 1024 << order, census->mapped[order] * mib,
		       share * 100, census->whole[order] * mib,
		       (int)(share * (sizeof(bar) - 1)), bar);
	}
	printf("%10s %12.1f\n%10s %12.1f\n", "total", total * mib,
	       "swapped", census->swapped * mib);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "anon", no_argument, NULL, 'a' },
		{ "csv", no_argument, NULL, 'c' },
		{ "range", required_argument, NULL, 'r' },
		{ "ranges", required_argument, NULL, 'f' },
		{ "full-windows", required_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },
		{ }
	};
	bool anon_only = false, csv = false, ranges_given = false;
	struct folio_census census = { 0 };
	struct ranges ranges = { NULL, 0 };
	unsigned long window_kib = 0;
	struct folio_map map;
	char *end;
	size_t i;
	int option, pid;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'a':
			anon_only = true;
			break;
		case 'c':
			csv = true;
			break;
		case 'r':
			parse_range(&ranges, optarg);
			ranges_given = true;
			break;
		case 'f':
			read_ranges(&ranges, optarg);
			ranges_given = true;
			break;
		case 'w':
			window_kib = strtoul(optarg, &end, 10);
			if (!window_kib || *end)
				errx(2, "'%s' is not a window size in KiB", optarg);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		return 2;
	}
	pid = strtol(argv[optind], &end, 10);
	if (pid <= 0 || *end)
		errx(2, "'%s' is not a process id", argv[optind]);

	folio_map_open(&map, pid);
	if (!ranges_given)
		each_vma(pid, anon_only || window_kib ? add_vma_without_file : add_vma, &ranges);
	if (window_kib) {
		print_full_windows(&map, &ranges, window_kib);
		return 0;
	}
	for (i = 0; i < ranges.nr; i++)
		folio_census_add(&map, ranges.at[i], anon_only, &census);
	if (csv)
		print_csv(&map, &census);
	else
		print_table(&map, &census);
	folio_map_close(&map);
	free(ranges.at);
	return 0;
}
